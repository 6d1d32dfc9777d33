"""Input and output of query strategies: named arrays over a pool, and picks, all with their ids.

    signals = Signals(ids, p_unknown=p, embedding=np.load("embedding.npy", mmap_mode="r"))

`prepared` turns a caller's signals into the pool a strategy reads: rows sorted by id, checked, with the rows that are
labelled already.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.errors import DataError, DegenerateError
from ka2l.selection.options import SPACES, Options

Rows = NDArray[np.intp]
Array = NDArray[np.floating]

# Rows checked at a time: a memory-mapped embedding is not loaded as a whole.
_CHUNK = 16_384


@dataclass(frozen=True)
class Signals:
    """Signals of each pool question; rows of all arrays are in the order of `ids`. None: not computed.

    Any float type; the embeddings may be memory maps. Entropies and likelihoods are in nats.
    """

    ids: NDArray[np.str_]
    p_unknown: Array | None = None  # [pool], the probe's probability
    embedding: Array | None = None  # [pool, width], the hidden state the probe reads
    next_token_entropy: Array | None = None  # [pool], at the last prompt token
    top_probability: Array | None = None  # [pool], of the likeliest next token
    margin: Array | None = None  # [pool], likeliest minus second next-token probability
    semantic_entropy: Array | None = None  # [pool], of sampled answers
    sequence_log_likelihood: Array | None = None  # [pool], per token of the low-temperature answer
    sentence_embedding: Array | None = None  # [pool, width], of the question's text
    class_probabilities: Array | None = None  # [pool, classes], of a classification head (library use)


SIGNALS = tuple(f.name for f in fields(Signals) if f.name != "ids")


class Selection(NamedTuple):
    """The selected questions in the order they were picked."""

    ids: list[str]
    scores: list[float]  # higher = preferred; `reason` gives the meaning
    reason: list[str]


@dataclass(frozen=True)
class Pool(Signals):
    """Signals as a strategy reads them: sorted by id, finite, at least one row free."""

    # Rows labelled before, ascending.
    labelled: Rows = field(default_factory=lambda: np.empty(0, dtype=np.intp))

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
    """The output of a strategy: rows of the pool in the order they were picked."""

    rows: Rows
    scores: Array  # higher = preferred
    reason: list[str]  # for people: why this question


def prepared(signals: Signals, names: Iterable[str], labelled: Collection[str], strategy: str) -> Pool:
    """A pool with the signals `names`, sorted by id, so that the order of rows in a file has no effect.

    If the ids are sorted already, no array is copied and a memory map stays one.

    Raises:
        DegenerateError: the pool is empty, or all of it is labelled.
        DataError: a duplicate id; a signal is missing, has another number of rows, or holds NaN or infinite values.
    """
    ids = np.asarray(signals.ids)
    if len(ids) == 0:
        raise DegenerateError("The pool is empty, so nothing can be selected. Give questions the role pool.")
    arrays: dict[str, Any] = {name: getattr(signals, name) for name in names}
    for name, values in arrays.items():
        _check_rows(strategy, name, values, len(ids))
    if not (ids[:-1] <= ids[1:]).all():
        order = np.argsort(ids, kind="stable")
        ids, arrays = ids[order], {name: values[order] for name, values in arrays.items()}
    duplicates = np.unique(ids[1:][ids[1:] == ids[:-1]])
    if len(duplicates):
        raise DataError(f"{len(duplicates)} ids occur more than once in the pool, first: {', '.join(duplicates[:5])}.")
    for name, values in arrays.items():
        _check_finite(name, values, ids)
    labelled_rows = np.flatnonzero(np.isin(ids, np.array(sorted(labelled), dtype=str)))
    if len(labelled_rows) == len(ids):
        raise DegenerateError(
            f"All {len(ids)} questions of the pool are labelled already. Give more questions the role pool."
        )
    return replace(Pool(ids, labelled=labelled_rows), **arrays)


def given(values: Array | None) -> Array:
    """A signal that `prepared` has checked to be present."""
    assert values is not None
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
