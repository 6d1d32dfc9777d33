"""Bootstrap intervals, resampled by question group so that wordings of one fact do not count twice."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Interval(NamedTuple):
    """A statistic with its 95 % percentile interval and the number of rows under it; NaN where undefined."""

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
        statistic: takes row indices (possibly repeated) and returns a float, NaN where the resample has no value
            (an AUROC of one class); such resamples are left out.
        groups: one group name per row.
        resamples: number of resamples.
        seed: seed of the draws.
    """
    n = len(groups)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    _, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(members), size=(resamples, len(members)))
    values = np.array([statistic(np.concatenate([members[g] for g in draw])) for draw in draws])
    values = values[np.isfinite(values)]
    value = float(statistic(np.arange(n)))
    if values.size == 0:
        return Interval(value, float("nan"), float("nan"), n)
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(value, float(low), float(high), n)


def mean_interval(values: Sequence[float], groups: Sequence[str], resamples: int = 1000, seed: int = 0) -> Interval:
    """Mean with its group bootstrap interval."""
    array = np.asarray(values, dtype=float)
    return bootstrap_interval(lambda rows: float(array[rows].mean()), groups, resamples, seed)


def auroc(scores: NDArray[np.floating], labels: NDArray[np.integer] | NDArray[np.bool_]) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties count one half; NaN for one class."""
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
