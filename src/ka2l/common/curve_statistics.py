"""Statistics of learning curves: means over seeds, paired resampling, Holm's correction, labels to a target, area.

Arrays in, values out. A column is one training (one seed of one arm); an arm is the list of its columns.

The resampling covers two sources of chance: which questions were asked, and which seeds the trainings were run with.
Both are resampled and their deviations are added:

    resample = mean over seeds, with groups resampled + mean of resampled seeds − mean over seeds

Groups of questions are drawn with replacement, the same ones for all columns (Field & Welsh 2007). Of S seeds, S − 1
are drawn, the same numbers for both arms: with so few, S draws would make the variance too small by (S − 1)/S (Rao & Wu
1988). Drawing both at once, and multiplying (Owen 2007), counts the noise of single answers three times. In simulation
with 250 questions and 2, 3 and 5 seeds, 95 % intervals of this sum contain the true value in 94 to 98 of 100 cases.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ka2l.common.intervals import Interval

Key = TypeVar("Key")
_CHUNK = 2_000_000  # resampled groups in memory at once


class Estimate(NamedTuple):
    """Mean and sample standard deviation over seeds; std is NaN for one seed, both are NaN without a value."""

    mean: float
    std: float
    n: int


class Resampled(NamedTuple):
    """One measure of all columns: the values, the values with groups resampled, and the number of groups."""

    values: NDArray[np.float64]  # [columns]
    drawn: NDArray[np.float64]  # [resamples, columns]; NaN where a resample has no value
    groups: int


class PairedTest(NamedTuple):
    """A paired difference of two arms with its 95 % interval and two-sided p; the interval's n counts groups."""

    interval: Interval
    p: float


def estimate(numbers: Sequence[float]) -> Estimate:
    """Mean and sample standard deviation of the finite numbers."""
    finite = [number for number in numbers if math.isfinite(number)]
    if not finite:
        return Estimate(math.nan, math.nan, 0)
    # one value repeated has no spread, also where rounding moves its mean by a bit
    std = float(np.std(finite, ddof=1)) if len(set(finite)) > 1 else 0.0 if len(finite) > 1 else math.nan
    return Estimate(mean(finite), std, len(finite))


def mean(numbers: Sequence[float]) -> float:
    """Mean of the finite numbers, the same in any order; NaN if there is none."""
    finite = [number for number in numbers if math.isfinite(number)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def resample_ratios(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64], resamples: int, seed: int
) -> Resampled:
    """Resample the question groups of a ratio of sums, with the same draws for all columns.

    Args:
        numerators: sums by group, [groups, columns]; 0 where a column has no question of a group.
        denominators: likewise. A ratio whose denominators sum to 0 is NaN.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        The ratios and their resamples; the resamples are NaN if there are fewer than two groups.
    """
    groups, columns = numerators.shape
    drawn = np.full((resamples, columns), math.nan)
    if groups > 1:
        rng = np.random.default_rng(seed)
        step = max(1, _CHUNK // groups)
        for start in range(0, resamples, step):
            weights = _counts(rng, min(step, resamples - start), groups)
            drawn[start : start + step] = _divide(weights @ numerators, weights @ denominators)
    return Resampled(_divide(numerators.sum(axis=0), denominators.sum(axis=0)), drawn, groups)


def arm_draws(resampled: Resampled, columns: Sequence[int], seed: int) -> NDArray[np.float64]:
    """Resamples of an arm's mean over its columns, one column per seed, in the order of the seeds: [resamples].

    Two arms with the same number of columns and the same `seed` draw the same places. For a single column only the
    groups are resampled.
    """
    values, drawn = resampled.values[list(columns)], resampled.drawn[:, list(columns)]
    if len(columns) < 2:
        return drawn.mean(axis=1)
    rng = np.random.default_rng([seed, len(columns)])
    places = rng.integers(0, len(columns), (len(drawn), len(columns) - 1))
    return np.asarray(drawn.mean(axis=1) + values[places].mean(axis=1) - values.mean())


def paired_test(resampled: Resampled, one: Sequence[int], other: Sequence[int], seed: int) -> PairedTest | None:
    """Difference of two arms (one − other) whose columns have the same seeds in the same order.

    p is twice the smaller share of resamples on either side of 0, both counted with the ties at 0 and one more
    (Davison & Hinkley 1997, section 4.2), at most 1.

    Returns:
        None with fewer than two seeds, or if the difference has no value.

    Raises:
        ValueError: the arms have different numbers of columns.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} columns against {len(other)}: a paired test needs the same seeds")
    if len(one) < 2:
        return None
    value = float(resampled.values[list(one)].mean() - resampled.values[list(other)].mean())
    differences = arm_draws(resampled, one, seed) - arm_draws(resampled, other, seed)
    differences = differences[np.isfinite(differences)]
    if not math.isfinite(value) or not differences.size:
        return None
    low, high = np.percentile(differences, [2.5, 97.5])
    side = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (differences.size + 1))
    return PairedTest(Interval(value, float(low), float(high), resampled.groups), p)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's step-down correction (1979) for all tests of one family: adjusted p-values, at most 1."""
    adjusted: dict[Key, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def crossing(labels: Sequence[float], scores: Sequence[float], target: float) -> float | None:
    """Number of labels at which the line through the points first reaches the target; None if it does not.

    Args:
        labels: ascending.
        scores: as many; the first is the score the curve starts from.
        target: NaN is never reached.
    """
    if not math.isfinite(target) or not math.isfinite(scores[0]):
        return None
    if scores[0] >= target:
        return labels[0]
    for left, right, low, high in zip(labels, labels[1:], scores, scores[1:], strict=False):
        if high >= target:
            return left + (right - left) * (target - low) / (high - low)
    return None


def mean_height(labels: ArrayLike, scores: ArrayLike, end: float) -> float:
    """Area under the line through the points from 0 to `end` labels, divided by `end`: a mean score.

    Args:
        labels: [points], in any order; one of them is 0.
        scores: [points].
        end: labels at which the area ends.

    Returns:
        NaN if a score is not finite or `end` is 0.
    """
    xs, ys = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if end <= 0 or not np.isfinite(ys).all():
        return math.nan
    order = np.lexsort((ys, xs))
    xs, ys = xs[order], ys[order]
    inside = xs < end
    xs, ys = np.append(xs[inside], end), np.append(ys[inside], np.interp(end, xs, ys))
    return float(np.trapezoid(ys, xs) / end)


def _counts(rng: np.random.Generator, resamples: int, groups: int) -> NDArray[np.float64]:
    """How often each group is drawn: [resamples, groups]."""
    drawn = rng.integers(0, groups, (resamples, groups)) + groups * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * groups).reshape(resamples, groups).astype(float)


def _divide(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(numerators, denominators, out=np.full(numerators.shape, math.nan), where=denominators > 0)
