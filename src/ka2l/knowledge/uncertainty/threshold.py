"""Rules that separate known from unknown questions by semantic entropy (paper, Section 3.2.2), and their stability.

    threshold = fit_threshold(entropies[train], "two_means")
    unknown = entropies >= threshold.value
    threshold_stability(entropies[train], "two_means", groups)     # 95 % interval, share of labels that would flip

All rules use the distinct values and their counts. A threshold is always one of these values, the smallest that is
unknown, so equal entropies get equal labels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.errors import DegenerateError

RULES = ("two_means", "eq3", "median", "quantile")
_TIE = 1e-9  # in questions: distances to a wanted count that differ by less are equal


class Threshold(NamedTuple):
    """A question is unknown if its semantic entropy >= value (Eq. 5)."""

    value: float  # nats
    rule: str
    objective: float  # the minimum of the rule's objective; NaN for a given number


class ThresholdStability(NamedTuple):
    """A threshold under resampling of the questions; NaN with fewer than two groups or fewer than two thresholds."""

    value: float  # the threshold fitted on all questions, nats
    low: float  # 2.5th percentile of the resampled thresholds
    high: float  # 97.5th percentile
    flips: float  # mean share of the questions that get another label under a resampled threshold
    left_out: int  # resamples without a threshold, because all entropies were equal


def fit_threshold(
    entropies: NDArray[np.floating], rule: str | float, *, quantile: float = 0.5, whose: str = ""
) -> Threshold:
    """Fit the threshold between known and unknown, on training rows only.

    Args:
        entropies: semantic entropies in nats, [questions].
        rule: `two_means` (least squares around two means, arXiv 2406.15927), `eq3` (the paper's, as printed),
            `quantile` (a given share known), `median` (half of them), or a number, used as given.
        quantile: for rule `quantile`, the share of questions to call known.
        whose: description of the questions for messages: "70 training questions of 100".

    Raises:
        DegenerateError: all entropies are equal, or a given number leaves one side empty.
        ValueError: an unknown rule, a quantile outside [0, 1], entropies that are not finite.
    """
    entropies = _checked(entropies, rule, quantile)
    whose = whose or f"{entropies.size} questions"
    if entropies.size == 0:
        raise DegenerateError("No question has an entropy, so there is no threshold to fit.")
    values, counts = np.unique(entropies, return_counts=True)
    if values.size == 1:
        raise DegenerateError(
            f"All {whose} have the same semantic entropy ({values[0]:.3f} nats), so no threshold "
            "separates known from unknown. Use more or other questions, a higher sample.temperature, or another judge."
        )
    if isinstance(rule, str):
        return _fit(values, counts, rule, quantile)
    if not values[0] < rule <= values[-1]:
        raise DegenerateError(
            f"measure.threshold={rule:g} calls all {whose} {'unknown' if rule <= values[0] else 'known'}: entropies "
            f"lie between {values[0]:.3f} and {values[-1]:.3f} nats. Choose a number between these, or one of "
            f"{', '.join(RULES)}."
        )
    return Threshold(float(rule), "given", math.nan)


def threshold_stability(
    entropies: NDArray[np.floating],
    rule: str | float,
    groups: Sequence[str],
    *,
    quantile: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> ThresholdStability:
    """Bootstrap of a threshold: whole groups are drawn with replacement, and the rule is fitted on each draw.

    Args:
        entropies: the ones the threshold is fitted on, in nats, [questions].
        rule, quantile: as for `fit_threshold`. A given number does not vary: both ends of its interval are the number.
        groups: one group name per question; wordings of one fact are drawn together.
        resamples: number of draws.
        seed: seed of the draws.

    Raises:
        DegenerateError, ValueError: as `fit_threshold`, whose threshold on all questions is `value`.
    """
    entropies = _checked(entropies, rule, quantile)
    if len(groups) != entropies.size:
        raise ValueError(f"{entropies.size} entropies, but {len(groups)} groups")
    fitted = fit_threshold(entropies, rule, quantile=quantile).value
    if not isinstance(rule, str):
        return ThresholdStability(fitted, fitted, fitted, 0.0, 0)
    values, number = np.unique(entropies, return_inverse=True)
    names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    cuts = []
    for _ in range(resamples):
        # The number of draws of a group is the weight of its questions, so that nothing is copied or sorted again.
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        weights = np.bincount(number, weights=drawn[group], minlength=len(values))
        present = weights > 0
        if present.sum() > 1:
            cuts.append(_fit(values[present], weights[present], rule, quantile).value)
    if len(names) < 2 or len(cuts) < 2:
        return ThresholdStability(fitted, math.nan, math.nan, math.nan, resamples - len(cuts))
    # Labels under two thresholds differ for the questions between them: the difference of the counts below each.
    below = np.searchsorted(np.sort(entropies), [fitted, *cuts], side="left")
    flips = float(np.abs(below[1:] - below[0]).mean()) / entropies.size
    low, high = np.percentile(cuts, [2.5, 97.5])
    return ThresholdStability(fitted, float(low), float(high), flips, resamples - len(cuts))


def _checked(entropies: NDArray[np.floating], rule: str | float, quantile: float) -> NDArray[np.float64]:
    values = np.asarray(entropies, dtype=np.float64)
    if isinstance(rule, str) and rule not in RULES:
        raise ValueError(f"there is no threshold rule {rule!r}; use a number or one of {', '.join(RULES)}")
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must lie between 0 and 1, not {quantile}")
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        raise ValueError(f"{wrong.size} entropies are not finite, the first in row {wrong[0]}")
    return values


def _fit(
    values: NDArray[np.float64],
    counts: NDArray[np.floating] | NDArray[np.integer],
    rule: str,
    quantile: float,
) -> Threshold:
    """The rule's best cut. `values` are the distinct entropies, ascending, at least two; `counts` their counts.

    Cut i lies between values i and i + 1.
    """
    counts = counts.astype(np.float64)
    if rule == "two_means":
        objective = _two_means(values, counts)
    elif rule == "eq3":
        objective = _eq3(values, counts)
    else:
        return _nearest_share(values, counts, rule, quantile)
    cut = int(np.argmin(objective))
    return Threshold(float(values[cut + 1]), rule, float(objective[cut]))


def _two_means(values: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean squared distance to the mean of the own side, for each cut; exact, by prefix sums.

    Kossen et al. (arXiv 2406.15927), Section 4.
    """
    n = counts.sum()
    # Centred, so that the squares of sums lose little precision by cancellation.
    centred = values - (counts * values).sum() / n
    sizes, sums = np.cumsum(counts)[:-1], np.cumsum(counts * centred)[:-1]
    # Around a mean of 0 the sums of the two sides are equal and opposite, which gives the squares between the sides.
    between = sums**2 / sizes + sums**2 / (n - sizes)
    return np.maximum((counts * centred**2).sum() - between, 0.0) / n


def _eq3(values: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eq. 3–4 as printed, for each cut τ: mean (SE − 1[SE ≥ τ])².

    An item is nearer to 1 exactly if SE > 0.5, so the best τ is about 0.5 for any data (see docs/paper-map.md).
    """
    below = np.cumsum(counts * values**2)[:-1]
    above = np.cumsum((counts * (values - 1) ** 2)[::-1])[::-1][1:]
    return (below + above) / counts.sum()


def _nearest_share(values: NDArray[np.float64], counts: NDArray[np.float64], rule: str, quantile: float) -> Threshold:
    """The cut whose share of known questions is nearest to the wanted one; of two equal cuts, the one with fewer
    unknown.

    A quantile of the entropies would not work: with ten answers many questions share one value, often 0, and if more
    than half have it the median calls every question unknown.
    """
    n, wanted = counts.sum(), 0.5 if rule == "median" else quantile
    distance = np.abs(np.cumsum(counts)[:-1] - wanted * n)
    cut = int(np.flatnonzero(distance <= distance.min() + _TIE)[-1])
    return Threshold(float(values[cut + 1]), rule, float(distance[cut] / n))
