"""What query strategies read and return: named arrays over a pool, options, and the picks, all with their ids.

    signals = Signals(ids, p_unknown=p, embedding=np.load("embedding.npy", mmap_mode="r"))

`prepared` turns what a caller has into what a strategy sees: rows sorted by id, checked, with the rows that are
bought already.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.errors import ConfigError, DataError, DegenerateError

Rows = NDArray[np.intp]
Array = NDArray[np.floating]

SPACES = {"state": "embedding", "sentence": "sentence_embedding"}  # Options.space → the signal it names
DRAWS = ("top", "random")
BORDER = 0.5  # p_unknown from here on is called unknown
_CHUNK = 16_384  # rows at a time: a memory-mapped embedding is checked without being loaded


@dataclass(frozen=True)
class Signals:
    """What is known about each pool question; rows of all arrays follow `ids`. None where not computed.

    Any float type; the embeddings may be memory maps. Entropies and likelihoods are in nats.
    """

    ids: NDArray[np.str_]
    p_unknown: Array | None = None  # [pool], the probe's probability
    embedding: Array | None = None  # [pool, width], the judged hidden state
    next_token_entropy: Array | None = None  # [pool], at the last prompt token
    top_probability: Array | None = None  # [pool], of the likeliest next token
    margin: Array | None = None  # [pool], likeliest minus second next-token probability
    semantic_entropy: Array | None = None  # [pool], of sampled answers
    sequence_log_likelihood: Array | None = None  # [pool], per token of the low-temperature answer
    sentence_embedding: Array | None = None  # [pool, width], of the question's text
    class_probabilities: Array | None = None  # [pool, classes], of a classification head (library use)


SIGNALS = tuple(f.name for f in fields(Signals) if f.name != "ids")


class Selection(NamedTuple):
    """Bought questions in the order they were picked."""

    ids: list[str]
    scores: list[float]  # higher = more wanted; what it means is in `reason`
    reason: list[str]


@dataclass(frozen=True)
class Options:
    """Settings of single strategies; `docs/strategies.md` says which strategy reads which.

    Raises:
        ConfigError: a value outside what is allowed.
    """

    draw: str = "top"  # top: surest first; random: an even draw among those inside the band
    known_fraction: float | None = None  # share of known questions; None: 0.5 for `combine`, else 0
    band: tuple[float, float] = (
        0.0,
        1.0,
    )  # p_unknown to buy from; a low edge of 0 stands for the border, 0.5
    near_copy: float | None = None  # two bought questions are no closer than this cosine; None: not looked at
    space: str = "state"  # the embedding in which distance is meant: state or sentence

    def __post_init__(self) -> None:
        low, high = self.band
        problems = {
            f"draw={self.draw!r}: one of {', '.join(DRAWS)}": self.draw not in DRAWS,
            f"space={self.space!r}: one of {', '.join(SPACES)}": self.space not in SPACES,
            f"known_fraction={self.known_fraction}: from 0 to 1": not 0 <= (self.known_fraction or 0) <= 1,
            f"band={self.band}: 0 <= low <= high <= 1": not 0 <= low <= high <= 1,
            f"near_copy={self.near_copy}: a cosine, above -1 and up to 1": self.near_copy is not None
            and not -1 < self.near_copy <= 1,
        }
        wrong = [problem for problem, found in problems.items() if found]
        if wrong:
            raise ConfigError(f"Options of a query strategy: {'; '.join(wrong)}.")

    @property
    def interval(self) -> tuple[float, float]:
        """The range of p_unknown to buy from, both ends inside.

        A low edge of 0 is the border between known and unknown: (0, 0.9) is "unknown, but not hopeless". Only a band
        that lies wholly below the border starts at 0.
        """
        low, high = self.band
        return (BORDER if low == 0 and high > BORDER else low), high


@dataclass(frozen=True)
class Pool(Signals):
    """Signals as a strategy sees them: sorted by id, finite, at least one row free."""

    labelled: Rows = field(
        default_factory=lambda: np.empty(0, dtype=np.intp)
    )  # rows bought before, ascending

    @cached_property
    def free(self) -> Rows:
        """The rows that may be picked, ascending."""
        mask = np.ones(len(self.ids), dtype=bool)
        mask[self.labelled] = False
        return np.flatnonzero(mask)

    def in_space(self, options: Options) -> Array:
        """The embedding that `options.space` names."""
        return given(getattr(self, SPACES[options.space]))


class Picks(NamedTuple):
    """What a strategy returns: rows of the pool in the order they were picked."""

    rows: Rows
    scores: Array  # higher = more wanted
    reason: list[str]  # for people: why this one


def prepared(signals: Signals, names: Iterable[str], labelled: Collection[str], strategy: str) -> Pool:
    """A pool with the signals `names`, sorted by id, so that the order in a file decides nothing.

    Where the ids are sorted already no array is copied, and a memory map stays one.

    Raises:
        DegenerateError: the pool is empty, or all of it is bought.
        DataError: an id stands twice; a signal is missing, has another number of rows, or holds NaN or infinite values.
    """
    ids = np.asarray(signals.ids)
    if len(ids) == 0:
        raise DegenerateError(
            "The pool is empty: there is nothing to select from. Give questions the role pool."
        )
    arrays: dict[str, Any] = {name: getattr(signals, name) for name in names}
    for name, values in arrays.items():
        _check_rows(strategy, name, values, len(ids))
    if not (ids[:-1] <= ids[1:]).all():
        order = np.argsort(ids, kind="stable")
        ids, arrays = ids[order], {name: values[order] for name, values in arrays.items()}
    twice = np.unique(ids[1:][ids[1:] == ids[:-1]])
    if len(twice):
        raise DataError(f"{len(twice)} ids stand more than once in the pool, first: {', '.join(twice[:5])}.")
    for name, values in arrays.items():
        _check_finite(name, values, ids)
    bought = np.flatnonzero(np.isin(ids, np.array(sorted(labelled), dtype=str)))
    if len(bought) == len(ids):
        raise DegenerateError(
            f"All {len(ids)} questions of the pool are bought already. Give more questions the role pool."
        )
    pool = Pool(ids, labelled=bought)
    return replace(pool, **arrays)


def given(values: Array | None) -> Array:
    """A signal that has been checked to be there."""
    assert values is not None  # `prepared` has refused this with a message
    return values


def _check_rows(strategy: str, name: str, values: Array | None, n: int) -> None:
    if values is None:
        raise DataError(
            f"Strategy {strategy} needs the signal {name}, which this run has not computed. Run `ka2l map`."
        )
    if len(values) != n:
        raise DataError(f"Signal {name} has {len(values)} rows for {n} pool questions.")


def _check_finite(name: str, values: Array, ids: NDArray[np.str_]) -> None:
    bad: list[Rows] = []
    for start in range(0, len(values), _CHUNK):
        finite = np.isfinite(values[start : start + _CHUNK])
        if not finite.all():
            bad.append(start + np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1)))
    if bad:
        rows = np.concatenate(bad)
        raise DataError(
            f"Signal {name} holds NaN or infinite values for {len(rows)} questions, first: {', '.join(ids[rows[:5]])}."
        )
