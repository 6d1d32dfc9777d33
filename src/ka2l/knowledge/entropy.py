"""Semantic entropy and the rules that turn it into known and unknown (paper, Section 3.2.2).

semantic_entropy([0, 0, 0, 1])        0.5623 nats
fit_threshold(entropies, "two_means")
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.errors import DegenerateError


class Threshold(NamedTuple):
    """A question is unknown where semantic entropy >= value (Eq. 5)."""

    value: float  # nats
    rule: str
    objective: float  # what the rule minimised; NaN for a given number


def semantic_entropy(cluster_ids: Sequence[Hashable]) -> float:
    """Discrete semantic entropy in nats (Eq. 2; Farquhar et al. 2024): −Σ_c (|c|/N) ln(|c|/N).

    Args:
        cluster_ids: the semantic cluster of each of the N answers, at least one.

    Returns:
        a number between 0 (all the same) and ln N (all different).
    """
    n = len(cluster_ids)
    if n == 0:
        raise ValueError("semantic entropy needs at least one answer")
    # In order of size: the same clusters in another order must not differ in the last bit, or a threshold that is
    # itself such a value would part equal questions.
    shares = np.array([count / n for count in sorted(Counter(cluster_ids).values())])
    return max(0.0, float(-(shares * np.log(shares)).sum()))  # -0.0 and rounding below zero


def fit_threshold(entropies: NDArray[np.floating], rule: str | float, *, whose: str = "") -> Threshold:
    """Fit the known/unknown threshold; give it training rows only.

    Args:
        entropies: semantic entropies in nats, [questions].
        rule: `two_means`, `eq3`, or a number that is taken as it is.
        whose: whose entropies they are, for messages: "70 training questions of 100".

    Raises:
        DegenerateError: all entropies are equal, so nothing separates known from unknown; or a given number
            leaves one side empty.
    """
    values = np.asarray(entropies, dtype=np.float64)
    whose = whose or f"{values.size} questions"
    if values.size == 0:
        raise DegenerateError("No question has an entropy, so there is no threshold to fit.")
    if values.min() == values.max():
        raise DegenerateError(
            f"All {whose} have the same semantic entropy ({values[0]:.3f} nats), so no threshold "
            "separates known from unknown. Use more or other questions, a higher sample.temperature, or another judge."
        )
    if rule == "two_means":
        return _two_means(values)
    if rule == "eq3":
        return _eq3(values)
    threshold = float(rule)
    if not values.min() < threshold <= values.max():
        raise DegenerateError(
            f"measure.threshold={threshold:g} calls all {whose} "
            f"{'unknown' if threshold <= values.min() else 'known'}: entropies lie between {values.min():.3f} and "
            f"{values.max():.3f} nats. Choose a number between, or two_means."
        )
    return Threshold(threshold, "given", float("nan"))


def _two_means(values: NDArray[np.float64]) -> Threshold:
    """The split into low and high with the least squared error around their two means, exact in O(n log n).

    Kossen et al. (arXiv 2406.15927), Section 4. Only cuts between different values count: equal entropies stay on
    one side. The threshold is the smallest value of the high side, so it is itself a value that occurs.
    """
    ordered = np.sort(values)
    n = ordered.size
    below = np.arange(1, n)
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    low = squares[:-1] - sums[:-1] ** 2 / below
    high = (squares[-1] - squares[:-1]) - (sums[-1] - sums[:-1]) ** 2 / (n - below)
    objective = np.where(ordered[1:] > ordered[:-1], low + high, np.inf)
    cut = int(np.argmin(objective))
    return Threshold(float(ordered[cut + 1]), "two_means", float(max(objective[cut], 0.0) / n))


def _eq3(values: NDArray[np.float64]) -> Threshold:
    """Eq. 3–4 as printed: argmin over the occurring values τ of mean (SE − 1[SE ≥ τ])².

    Each item is better off at 1 exactly when SE > 0.5, so this is about 0.5 whatever the data (see docs/paper-map.md).
    """
    ordered = np.sort(values)
    candidates = np.unique(ordered)[1:]  # the smallest value would call everything unknown
    squares_below = np.concatenate([[0.0], np.cumsum(ordered**2)])
    squares_above = np.concatenate([np.cumsum(((ordered - 1) ** 2)[::-1])[::-1], [0.0]])
    cut = np.searchsorted(ordered, candidates, side="left")
    objective = (squares_below[cut] + squares_above[cut]) / ordered.size
    best = int(np.argmin(objective))
    return Threshold(float(candidates[best]), "eq3", float(objective[best]))
