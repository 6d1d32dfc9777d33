"""The uncertainty of a comparison: resampled by question group and by seed, paired between policies; Holm's correction.

Two things could have come out otherwise: which questions were asked, and which seeds the cells were run with. Both
are drawn anew and their deviations are added:

    resample = mean over seeds, with groups drawn anew + mean of drawn seeds − mean over seeds

Groups are drawn with replacement, the same ones for all cells (Field & Welsh 2007). Of S seeds, S − 1 are drawn, the same
numbers for both policies: with so few, S draws would make the variance too small by (S − 1)/S (Rao & Wu 1988).
Drawing both at once, and multiplying (Owen 2007), counts the noise of single answers three times. In simulation with
250 questions and 2, 3 and 5 seeds, intervals of this sum hold the truth in 94 to 98 of 100 cases.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ka2l.common.intervals import Interval
from ka2l.studies.comparison.cell_results import CellResult
from ka2l.studies.comparison.measures import groups_of, sums

Key = TypeVar("Key")
_CHUNK = 2_000_000  # drawn groups in memory at once


class Resampled(NamedTuple):
    """One measure of all cells: the values, the same with groups drawn anew, and how many groups there are."""

    values: NDArray[np.float64]  # [cells]
    drawn: NDArray[np.float64]  # [resamples, cells]; NaN where a resample has no value
    groups: int


class PairedTest(NamedTuple):
    """A paired difference of two arms with its 95 % interval and two-sided p; n is the number of groups."""

    interval: Interval
    p: float


def resample(cells: Sequence[CellResult], measure: str, resamples: int, seed: int) -> Resampled:
    """Draw the question groups of a measure anew, the same draws for all cells.

    A group that a cell has no row of (a question it did not buy) counts nothing there.
    """
    names = sorted({group for cell in cells for group in groups_of(cell, measure)})
    code = {name: at for at, name in enumerate(names)}
    tops, bottoms = np.zeros((len(names), len(cells))), np.zeros((len(names), len(cells)))
    for column, cell in enumerate(cells):
        rows = [code[group] for group in groups_of(cell, measure)]
        top, bottom = sums(cell, measure)
        np.add.at(tops[:, column], rows, top)
        np.add.at(bottoms[:, column], rows, bottom)
    drawn = np.full((resamples, len(cells)), math.nan)
    if len(names) > 1:
        rng = np.random.default_rng(seed)
        step = max(1, _CHUNK // len(names))
        for start in range(0, resamples, step):
            weights = _counts(rng, min(step, resamples - start), len(names))
            drawn[start : start + step] = _divide(weights @ tops, weights @ bottoms)
    return Resampled(_divide(tops.sum(axis=0), bottoms.sum(axis=0)), drawn, len(names))


def arm_draws(found: Resampled, columns: Sequence[int], seed: int) -> NDArray[np.float64]:
    """Resamples of an arm's mean over its cells, one per seed, in the order of their seeds: [resamples].

    Two arms with as many cells and the same `seed` draw the same places. One cell alone has groups drawn only.
    """
    values, drawn = found.values[list(columns)], found.drawn[:, list(columns)]
    if len(columns) < 2:
        return drawn.mean(axis=1)
    rng = np.random.default_rng([seed, len(columns)])
    places = rng.integers(0, len(columns), (len(drawn), len(columns) - 1))
    return np.asarray(drawn.mean(axis=1) + values[places].mean(axis=1) - values.mean())


def paired_test(found: Resampled, one: Sequence[int], other: Sequence[int], seed: int) -> PairedTest | None:
    """Difference of two arms (one − other), whose cells have the same seeds in the same order.

    p is twice the smaller share of resamples on either side of 0, both counted with the ties at 0 and one more
    (Davison & Hinkley 1997, section 4.2), at most 1. None with fewer than two seeds or where there is no value.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} cells against {len(other)}: a paired test needs the same seeds")
    if len(one) < 2:
        return None
    value = float(found.values[list(one)].mean() - found.values[list(other)].mean())
    differences = arm_draws(found, one, seed) - arm_draws(found, other, seed)
    differences = differences[np.isfinite(differences)]
    if not math.isfinite(value) or not differences.size:
        return None
    low, high = np.percentile(differences, [2.5, 97.5])
    side = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (differences.size + 1))
    return PairedTest(Interval(value, float(low), float(high), found.groups), p)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's step-down correction (1979) for all tests of one family: adjusted p-values, at most 1."""
    adjusted: dict[Key, float] = {}
    reached = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = reached
    return {name: adjusted[name] for name in p_values}


def _counts(rng: np.random.Generator, resamples: int, groups: int) -> NDArray[np.float64]:
    """How often each group is drawn: [resamples, groups]."""
    drawn = rng.integers(0, groups, (resamples, groups)) + groups * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * groups).reshape(resamples, groups).astype(float)


def _divide(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(top, bottom, out=np.full(top.shape, math.nan), where=bottom > 0)
