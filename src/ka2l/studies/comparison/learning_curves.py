"""Learning curves of a comparison: labels needed to reach a target, and the area under the curve.

Curves are straight lines between budgets; the arithmetic is in `ka2l.common.curve_statistics`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.common.curve_statistics import Estimate, crossing, estimate, mean_height
from ka2l.studies.comparison.cell_results import CellResult
from ka2l.studies.comparison.measures import before, values


class Point(NamedTuple):
    """Labels, the held-out share at that budget, and resamples of that share."""

    labels: float
    score: float
    drawn: NDArray[np.float64]


class LabelsToTarget(NamedTuple):
    """Labels with which a policy first reaches the target; None: not within its budgets.

    `share` is the fraction of resampled curves that reach the target at all; near 0.5 it could go either way. NaN: not
    resampled.
    """

    policy: str
    labels: float | None
    share: float


class Area(NamedTuple):
    """Mean held-out share along the curve from no label to the largest budget, over the seeds that have all budgets."""

    policy: str
    estimate: Estimate


def labels_to_target(policy: str, points: Sequence[Point], base: float, target: float) -> LabelsToTarget:
    """First crossing of the target on the line from (0 labels, base) through the points.

    Args:
        policy: name in the tables.
        points: in any order; those without a score are left out.
        base: held-out share before fine-tuning.
        target: NaN is never reached.
    """
    known = sorted((point for point in points if math.isfinite(point.score)), key=lambda point: point.labels)
    labels = crossing([0.0, *(point.labels for point in known)], [base, *(point.score for point in known)], target)
    if not known or not math.isfinite(target):
        return LabelsToTarget(policy, labels, math.nan)
    highest = np.max([point.drawn for point in known], axis=0)
    finite = highest[np.isfinite(highest)]
    return LabelsToTarget(policy, labels, float((finite >= target).mean()) if finite.size else math.nan)


def areas(cells: Sequence[CellResult]) -> tuple[Area, ...]:
    """Area under each policy's held-out curve divided by its width: a mean score, comparable between policies.

    All curves end at the fewest labels that any seed of the largest budget has. A seed that lacks a budget, or a policy
    that lacks the largest, is left out.
    """
    budgets = sorted({cell.budget for cell in cells})
    end = min((cell.labels for cell in cells if cell.budget == budgets[-1]), default=0)
    by_seed: dict[str, dict[int, list[CellResult]]] = {}
    for cell in cells:
        by_seed.setdefault(cell.policy, {}).setdefault(cell.seed, []).append(cell)
    per_policy = []
    for policy, seeds in by_seed.items():
        complete = [own for own in seeds.values() if [cell.budget for cell in own] == budgets]
        scores = [score for own in complete if math.isfinite(score := _area(own, end))]
        per_policy.append(Area(policy, estimate(scores)))
    return tuple(per_policy)


def _area(cells: Sequence[CellResult], end: float) -> float:
    """Mean height of one seed's curve from 0 to `end` labels."""
    labels = [0.0, *(float(cell.labels) for cell in cells)]
    scores = [before(cells[0].sets.get("held_out")), *(values(cell)["held_out"] for cell in cells)]
    return mean_height(labels, scores, end)
