"""The computations under the strategies: centres, seedings, clusters, typicality, coverage. Pure functions of arrays.

Rows `x` are [rows, width] of any float type and may be a memory map: they are read in blocks (`_points.CHUNK`), and
arithmetic is float32. `device` is "cpu" or a CUDA device. Row numbers come back in the order in which they were picked;
ties go to the lower row. Order and draws are those of the plain algorithms, up to float32 rounding, but the rows are
not read once per pick: picks are made in advance where it is certain that they are right (`_farthest`, `_draws`), and
all rows then learn of them in one matrix product.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.checks import _NONE, Floats, _check
from ka2l.selection.kernels.distance_blocks import Points, Rows
from ka2l.selection.kernels.k_center import _AHEAD

_SMALL = 1 << 16  # values: where reading all of them costs nothing, nothing is drawn in advance


def weighted_seeding(
    x: Floats,
    weights: Floats,
    k: int,
    rng: np.random.Generator,
    *,
    labelled: Rows = _NONE,
    device: str = "cpu",
) -> Rows:
    """k-means++ seeding with P(row) ∝ D²(row) · weight(row), the paper's adaptation of BADGE (Section 4.5).

    Without labelled rows the first one is drawn ∝ weight. Rows at distance 0 (duplicates of picked ones) or of weight 0
    are drawn, evenly, only when nothing else is left.

    Args:
        x: [rows, width].
        weights: [rows], not negative.
        k: how many, at most the number of rows that are not labelled.
        rng: source of the draws.
        labelled: rows that count as picked before and are not picked again.
        device: where to compute.
    """
    _check(k, len(x) - len(labelled))
    return _seed(Points(x, device=device), weights, k, rng, labelled)


def gradient_seeding(
    coefficients: Floats,
    x: Floats,
    k: int,
    rng: np.random.Generator,
    *,
    labelled: Rows = _NONE,
    device: str = "cpu",
) -> Rows:
    """BADGE (Ash et al., arXiv 1906.03671): the largest gradient, then k-means++ seeding among gradients.

    The gradient of a linear head's loss at row i is c_i ⊗ h_i, and is never made:
    ‖c_i⊗h_i − c_j⊗h_j‖² = |c_i|²|h_i|² + |c_j|²|h_j|² − 2 (c_i·c_j)(h_i·h_j).

    Args:
        coefficients: [rows, classes] c = p − onehot(argmax p), of the classifier's probabilities p (either sign).
        x: [rows, width] h, what the head reads.
        k: how many, at most the number of rows that are not labelled.
        rng: source of the draws.
        labelled: rows that count as picked before and are not picked again; with any, all picks are draws.
        device: where to compute.
    """
    _check(k, len(x) - len(labelled))
    points = Points(x, coefficients, device=device)
    first = [int(points.norms.argmax())] if k and not len(labelled) else []
    return _seed(points, np.ones(len(x)), k, rng, labelled, first)


def _seed(
    points: Points,
    weights: Floats,
    k: int,
    rng: np.random.Generator,
    labelled: Rows,
    first: Sequence[int] = (),
) -> Rows:
    """k-means++ seeding by mass D² · weight, after the rows given as first."""
    distance, picked = points.distances(labelled), list(first)
    if picked:
        points.shrink(distance, np.array(picked))
    small = points.rows * points.width <= _SMALL
    ahead = 1 if small else _AHEAD[0]
    while len(picked) < k:
        free = distance >= 0
        mass = np.where(free, weights, 0).astype(np.float64)
        started = len(labelled) + len(picked) > 0
        if started:
            mass[free] *= distance[free]
        if not mass.any():
            return np.array(picked + _evenly(np.flatnonzero(free), k - len(picked), rng), dtype=np.intp)
        batch = _draws(points, distance, mass, ahead if started else 1, rng)[: k - len(picked)]
        picked += batch
        if len(picked) < k:
            points.shrink(distance, np.array(batch))
        ahead = 1 if small else int(np.clip(2 * len(batch), *_AHEAD))
    return np.array(picked, dtype=np.intp)


def _draws(
    points: Points, distance: NDArray[np.float32], mass: Floats, ahead: int, rng: np.random.Generator
) -> list[int]:
    """The next picks of a seeding, from masses that are right for the first of them and too high for the others.

    A row drawn by a mass that is too high is taken with probability right ÷ too high: then it is drawn by the right
    one. The draws end with the last proposal, whatever became of it, so that their number tells nothing of the rows.
    """
    total = np.cumsum(mass)
    rows = np.searchsorted(total, rng.random(ahead) * total[-1], side="right")
    rows = np.minimum(rows, np.flatnonzero(mass)[-1])  # rounding at the upper end
    if ahead == 1:
        return rows.tolist()
    chances = np.concatenate([[0], rng.random(ahead - 1)])
    block, current = points.take(rows), distance[rows]
    between = points.host(points.squared(block, block))
    batch = list[int]()
    for i, row in enumerate(rows.tolist()):
        if chances[i] * distance[row] < current[i]:
            batch.append(row)
            np.minimum(current, between[i], out=current)
    return batch


def _evenly(rows: Rows, k: int, rng: np.random.Generator) -> list[int]:
    """Rows among which nothing is left to tell, one after the other."""
    left = rows.tolist()
    drawn = list[int]()
    for _ in range(k):
        at = int(rng.choice(len(left)))
        drawn.append(left.pop(at))
    return drawn
