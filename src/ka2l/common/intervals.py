"""Bootstrap intervals and AUROC; groups of questions are resampled, so that wordings of one fact do not count twice."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Interval(NamedTuple):
    """A statistic with its 95 % percentile interval and its number of rows; NaN if undefined."""

    value: float
    low: float
    high: float
    n: int


def bootstrap_interval(
    statistic: Callable[[NDArray[np.intp]], float],
    groups: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of `statistic` with whole groups drawn with replacement (Efron 1979; Field & Welsh 2007).

    Args:
        statistic: takes row indices (possibly repeated) and returns a float; NaN if the resample has no value
            (for example the AUROC of one class). Such resamples are left out.
        groups: one group name per row.
        resamples: number of resamples.
        seed: seed of the draws.
    """
    n = len(groups)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    codes = _group_codes(groups)
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    rng = np.random.default_rng(seed)
    values = np.array(
        [
            statistic(np.concatenate([members[g] for g in rng.integers(0, len(members), len(members))]))
            for _ in range(resamples)
        ]
    )
    return _percentiles(float(statistic(np.arange(n))), values, n, len(members))


def mean_interval(values: Sequence[float], groups: Sequence[str], resamples: int = 1000, seed: int = 0) -> Interval:
    """Mean with its group bootstrap interval.

    The draws are those of `bootstrap_interval`, computed from each group's sum and count instead of its rows.

    Raises:
        ValueError: `values` and `groups` differ in length.
    """
    array = np.asarray(values, dtype=float)
    if len(array) != len(groups):
        raise ValueError(f"{len(array)} values, but {len(groups)} groups")
    if len(array) == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    codes = _group_codes(groups)
    counts = np.bincount(codes)
    sums = np.bincount(codes, weights=array)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    # One resample at a time: all at once would need resamples × groups numbers.
    for i in range(resamples):
        drawn = rng.integers(0, len(counts), len(counts))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
    return _percentiles(float(array.mean()), means, len(array), len(counts))


def _group_codes(groups: Sequence[str]) -> NDArray[np.intp]:
    codes: NDArray[np.intp] = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    return codes


def _percentiles(value: float, resampled: NDArray[np.float64], n: int, groups: int) -> Interval:
    """Interval from resampled values; without bounds if there is only one group, or no resample has a value."""
    finite = resampled[np.isfinite(resampled)]
    if finite.size == 0 or groups < 2:
        return Interval(value, float("nan"), float("nan"), n)
    low, high = np.percentile(finite, [2.5, 97.5])
    return Interval(value, float(low), float(high), n)


def auroc(scores: NDArray[np.floating], labels: NDArray[np.integer] | NDArray[np.bool_]) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative); ties count one half, one class gives
    NaN.
    """
    from scipy.stats import rankdata

    positive = np.asarray(labels).astype(bool)
    n_pos = int(positive.sum())
    n_neg = positive.size - n_pos
    if n_pos == 0 or n_neg == 0:
        return float("nan")
    ranks = rankdata(np.asarray(scores, dtype=np.float64))
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def auroc_interval(
    scores: NDArray[np.floating],
    labels: NDArray[np.integer] | NDArray[np.bool_],
    groups: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """AUROC with its group bootstrap interval."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    return bootstrap_interval(lambda rows: auroc(scores[rows], labels[rows]), groups, resamples, seed)
