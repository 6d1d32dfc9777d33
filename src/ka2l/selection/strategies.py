"""Query strategies: which questions to buy with a budget. Pure functions over arrays with ids.

    select("unknown", Signals(ids, p_unknown=p), budget=100, seed=0)

All pass through one check: unique ids, inside the pool, exactly min(budget, pool) many. Adding one: write the
function, list it in STRATEGIES, name the signals it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.errors import DataError, DegenerateError
from ka2l.selection.kernels import k_center_greedy, weighted_seeding

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Signals:
    """What is known about each pool question; rows of all arrays follow `ids`. None where not computed."""

    ids: NDArray[np.str_]
    p_unknown: NDArray[np.floating] | None = None  # [pool], the probe's probability
    embedding: NDArray[np.floating] | None = None  # [pool, width], the judged hidden state
    next_token_entropy: NDArray[np.floating] | None = None  # [pool], nats


class Selection(NamedTuple):
    """Bought questions in the order they were picked."""

    ids: list[str]
    scores: list[float]  # higher = more wanted; what it means is in `reason`
    reason: list[str]


@dataclass(frozen=True)
class Options:
    """Settings of single strategies."""

    known_fraction: float = 0.5  # share of known questions in `combine`
    draw: str = "top"  # top: surest first; random: an even draw among those called unknown (known)


class _Pick(NamedTuple):
    rows: Rows
    scores: NDArray[np.floating]
    reason: list[str]


_Strategy = Callable[[Signals, int, np.random.Generator, Options], _Pick]


def select(
    strategy: str, signals: Signals, budget: int, seed: int, options: Options | None = None
) -> Selection:
    """Choose min(budget, pool) questions.

    Raises:
        DegenerateError: the pool is empty.
        DataError: an id stands twice in the pool; a signal is missing, has another number of rows, or holds NaN or
            infinite values.
    """
    n = len(signals.ids)
    if n == 0:
        raise DegenerateError(
            "The pool is empty: there is nothing to select from. Give questions the role pool."
        )
    _check_ids(signals)
    function, needs = STRATEGIES[strategy]
    for name in needs:
        _check_signal(strategy, name, signals)
    # Rows are sorted by id first, so that the order in a file decides nothing.
    order = np.argsort(signals.ids, kind="stable")
    ordered = Signals(
        signals.ids[order],
        *(
            None if a is None else a[order]
            for a in (signals.p_unknown, signals.embedding, signals.next_token_entropy)
        ),
    )
    wanted = min(budget, n)
    pick = function(ordered, wanted, np.random.default_rng(seed), options or Options())
    ids = [str(ordered.ids[row]) for row in pick.rows]
    if len(ids) != wanted or len(set(ids)) != wanted:
        raise AssertionError(f"{strategy} picked {len(set(ids))} different questions, not {wanted}")
    return Selection(ids, [float(score) for score in pick.scores], pick.reason)


def _unknown(signals: Signals, k: int, rng: np.random.Generator, options: Options) -> _Pick:
    """Most probably unknown first (the paper's n Unknown sets), or an even draw among those called unknown."""
    rows = _side(signals, k, rng, options, unknown=True)
    return _with_probability(signals, rows, sign=1)


def _known(signals: Signals, k: int, rng: np.random.Generator, options: Options) -> _Pick:
    """The mirror image: what the model most probably knows (the paper's 5k Known)."""
    rows = _side(signals, k, rng, options, unknown=False)
    return _with_probability(signals, rows, sign=-1)


def _combine(signals: Signals, k: int, rng: np.random.Generator, options: Options) -> _Pick:
    """Even draws from both sides (the paper's Combine): a share of known questions, the rest unknown.

    Where one side has too few, the other fills up.
    """
    p = _required(signals.p_unknown)
    unknown, known = (rng.permutation(np.flatnonzero(side)) for side in (p >= 0.5, p < 0.5))
    n_known = min(len(known), round(options.known_fraction * k))
    n_unknown = min(len(unknown), k - n_known)
    rows = np.concatenate([unknown[:n_unknown], known[: k - n_unknown]])
    return _with_probability(signals, rows, sign=1)


def _random(signals: Signals, k: int, rng: np.random.Generator, _options: Options) -> _Pick:
    """An even draw without replacement."""
    rows = rng.permutation(len(signals.ids))[:k]
    return _Pick(rows, np.zeros(k), ["drawn at random"] * k)


def _entropy(signals: Signals, k: int, _rng: np.random.Generator, _options: Options) -> _Pick:
    """Highest entropy of the next-token distribution at the prompt (Section 4.5)."""
    entropy = _required(signals.next_token_entropy)
    rows = np.argsort(-entropy, kind="stable")[:k]
    return _Pick(rows, entropy[rows], [f"next-token entropy {entropy[row]:.2f} nats" for row in rows])


def _coreset(signals: Signals, k: int, rng: np.random.Generator, _options: Options) -> _Pick:
    """k-center greedy on the judged hidden state, from a drawn start."""
    rows = k_center_greedy(_required(signals.embedding), k, int(rng.integers(len(signals.ids))))
    return _Pick(rows, -np.arange(k, dtype=float), [f"pick {i + 1} of k-center greedy" for i in range(k)])


def _badge(signals: Signals, k: int, rng: np.random.Generator, _options: Options) -> _Pick:
    """k-means++ seeding, P ∝ D² · next-token entropy (the paper's adaptation of BADGE)."""
    rows = weighted_seeding(_required(signals.embedding), _required(signals.next_token_entropy), k, rng)
    return _Pick(
        rows, -np.arange(k, dtype=float), [f"pick {i + 1} of weighted k-means++ seeding" for i in range(k)]
    )


STRATEGIES: dict[str, tuple[_Strategy, tuple[str, ...]]] = {
    "unknown": (_unknown, ("p_unknown",)),
    "known": (_known, ("p_unknown",)),
    "combine": (_combine, ("p_unknown",)),
    "random": (_random, ()),
    "entropy": (_entropy, ("next_token_entropy",)),
    "coreset": (_coreset, ("embedding",)),
    "badge": (_badge, ("embedding", "next_token_entropy")),
}


def needs_next_token_entropy(strategy: str) -> bool:
    """Whether a strategy reads the signal that costs a full forward pass over the pool."""
    return "next_token_entropy" in STRATEGIES[strategy][1]


def _side(signals: Signals, k: int, rng: np.random.Generator, options: Options, *, unknown: bool) -> Rows:
    p = _required(signals.p_unknown)
    ranked = np.argsort(-p if unknown else p, kind="stable")
    if options.draw == "top":
        return ranked[:k]
    called = (p >= 0.5) == unknown
    drawn = rng.permutation(np.flatnonzero(called))[:k]
    fill = ranked[~called[ranked]][: k - len(drawn)]  # too few on this side: the nearest of the other
    return np.concatenate([drawn, fill])


def _with_probability(signals: Signals, rows: Rows, sign: int) -> _Pick:
    p = _required(signals.p_unknown)[rows]
    words = ["unknown" if value >= 0.5 else "known" for value in p]
    return _Pick(
        rows, sign * p, [f"{word}: p_unknown {value:.3f}" for word, value in zip(words, p, strict=True)]
    )


def _check_ids(signals: Signals) -> None:
    different, counts = np.unique(signals.ids, return_counts=True)
    twice = [str(question_id) for question_id in different[counts > 1]]
    if twice:
        raise DataError(f"{len(twice)} ids stand more than once in the pool, first: {', '.join(twice[:5])}.")


def _check_signal(strategy: str, name: str, signals: Signals) -> None:
    values = getattr(signals, name)
    if values is None:
        raise DataError(
            f"Strategy {strategy} needs the signal {name}, which this run has not computed. Run `ka2l map`."
        )
    if len(values) != len(signals.ids):
        raise DataError(f"Signal {name} has {len(values)} rows for {len(signals.ids)} pool questions.")
    finite = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(axis=1)
    if not finite.all():
        bad = [str(question_id) for question_id in signals.ids[~finite][:5]]
        raise DataError(
            f"Signal {name} holds NaN or infinite values for {int((~finite).sum())} questions, first: {', '.join(bad)}."
        )


def _required(values: NDArray[np.floating] | None) -> NDArray[np.floating]:
    assert values is not None  # _check_signal has refused this with a message
    return values
