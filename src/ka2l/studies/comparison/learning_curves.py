"""Learning curves: labels needed to reach a target, and the area under the curve. Straight lines between budgets."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.studies.comparison.cell_results import CellResult
from ka2l.studies.comparison.measures import Estimate, before, estimate, values


class Point(NamedTuple):
    """Labels, the held-out share there, and resamples of that share."""

    labels: float
    score: float
    drawn: NDArray[np.float64]


class Reach(NamedTuple):
    """Labels with which a policy first reaches the target; None: not within its budgets.

    `share` is how often resamples of its curve reach the target at all: 0.5 is a coin's toss. NaN: not resampled.
    """

    policy: str
    labels: float | None
    share: float


class Area(NamedTuple):
    """Mean held-out share along the curve from no label to the largest budget, over the seeds that have all budgets."""

    policy: str
    estimate: Estimate


def reach(policy: str, points: Sequence[Point], base: float, target: float) -> Reach:
    """First crossing of the target on the line from (0 labels, base) through the points.

    Args:
        points: in any order; those without a score are left out.
        base: held-out share before teaching.
        target: NaN is never reached.
    """
    known = sorted((point for point in points if math.isfinite(point.score)), key=lambda point: point.labels)
    labels = crossing(
        [0.0, *(point.labels for point in known)], [base, *(point.score for point in known)], target
    )
    if not known or not math.isfinite(target):
        return Reach(policy, labels, math.nan)
    highest = np.max([point.drawn for point in known], axis=0)
    finite = highest[np.isfinite(highest)]
    return Reach(policy, labels, float((finite >= target).mean()) if finite.size else math.nan)


def crossing(labels: Sequence[float], scores: Sequence[float], target: float) -> float | None:
    """Where a line through the points first reaches the target; None where it does not."""
    if not math.isfinite(target) or not math.isfinite(scores[0]):
        return None
    if scores[0] >= target:
        return labels[0]
    for left, right, low, high in zip(labels, labels[1:], scores, scores[1:], strict=False):
        if high >= target:
            return left + (right - left) * (target - low) / (high - low)
    return None


def areas(cells: Sequence[CellResult]) -> tuple[Area, ...]:
    """Area under each policy's held-out curve divided by its width: a mean score, comparable between policies.

    All curves end at the fewest labels that any seed of the largest budget has bought. A seed that lacks a budget, or a
    policy that lacks the largest, is left out.
    """
    budgets = sorted({cell.budget for cell in cells})
    end = min((cell.labels for cell in cells if cell.budget == budgets[-1]), default=0)
    by_seed: dict[str, dict[int, list[CellResult]]] = {}
    for cell in cells:
        by_seed.setdefault(cell.policy, {}).setdefault(cell.seed, []).append(cell)
    found = []
    for policy, seeds in by_seed.items():
        whole = [own for own in seeds.values() if [cell.budget for cell in own] == budgets]
        scores = [score for own in whole if math.isfinite(score := _area(own, end))]
        found.append(Area(policy, estimate(scores)))
    return tuple(found)


def _area(cells: Sequence[CellResult], end: float) -> float:
    """Mean height of one seed's curve from 0 to `end` labels."""
    points = [(0.0, before(cells[0].sets.get("held_out")))]
    points += [(float(cell.labels), values(cell)["held_out"]) for cell in cells]
    points.sort()
    xs, ys = np.array([x for x, _ in points]), np.array([y for _, y in points])
    if end <= 0 or not np.isfinite(ys).all():
        return math.nan
    inside = xs < end
    xs, ys = np.append(xs[inside], end), np.append(ys[inside], np.interp(end, xs, ys))
    return float(np.trapezoid(ys, xs) / end)
