"""k-means++ seedings: of weighted rows, and of gradients that are never built.

Several rows are drawn in advance from masses that may be too high; a draw is accepted with the probability that makes
its mass right (`_draws`), so that the distances of all rows are updated once for several picks.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.checks import NO_ROWS, Floats, check_count
from ka2l.selection.kernels.distance_blocks import Points, Rows
from ka2l.selection.kernels.lookahead import LOOKAHEAD

# Number of values up to which no rows are drawn in advance, because reading all of them is cheap.
_SMALL = 1 << 16


def weighted_seeding(
    x: Floats,
    weights: Floats,
    k: int,
    rng: np.random.Generator,
    *,
    labelled: Rows = NO_ROWS,
    device: str = "cpu",
) -> Rows:
    """k-means++ seeding with P(row) ∝ D²(row) · weight(row), the paper's adaptation of BADGE (Section 4.5).

    Without labelled rows the first one is drawn ∝ weight. Rows at distance 0 (duplicates of picked ones) or of weight 0
    are drawn, uniformly, only when no others are left.

    Args:
        x: [rows, width].
        weights: [rows], not negative.
        k: how many, at most the number of rows that are not labelled.
        rng: random generator.
        labelled: rows that count as picked before and are not picked again.
        device: where to compute.

    Returns:
        [k] row numbers in the order of the picks.

    Raises:
        ValueError: k is negative or too large.
    """
    check_count(k, len(x) - len(labelled))
    return plus_plus_rows(Points(x, device=device), weights, k, rng, labelled)


def gradient_seeding(
    coefficients: Floats,
    x: Floats,
    k: int,
    rng: np.random.Generator,
    *,
    labelled: Rows = NO_ROWS,
    device: str = "cpu",
) -> Rows:
    """BADGE (Ash et al., arXiv 1906.03671): the largest gradient, then k-means++ seeding among gradients.

    The gradient of a linear head's loss at row i is c_i ⊗ h_i. It is never built:
    ‖c_i⊗h_i − c_j⊗h_j‖² = |c_i|²|h_i|² + |c_j|²|h_j|² − 2 (c_i·c_j)(h_i·h_j).

    Args:
        coefficients: [rows, classes] c = p − onehot(argmax p), of the classifier's probabilities p (either sign).
        x: [rows, width] h, the input of the head.
        k: how many, at most the number of rows that are not labelled.
        rng: random generator.
        labelled: rows that count as picked before and are not picked again; if there are any, all picks are drawn.
        device: where to compute.

    Returns:
        [k] row numbers in the order of the picks.

    Raises:
        ValueError: k is negative or too large.
    """
    check_count(k, len(x) - len(labelled))
    points = Points(x, coefficients, device=device)
    first = [int(points.norms.argmax())] if k and not len(labelled) else []
    return plus_plus_rows(points, np.ones(len(x)), k, rng, labelled, first)


def plus_plus_rows(
    points: Points,
    weights: Floats,
    k: int,
    rng: np.random.Generator,
    labelled: Rows,
    first: Sequence[int] = (),
) -> Rows:
    """k-means++ seeding by mass D² · weight, [k] row numbers; the rows in `first` are the first picks."""
    distance, picked = points.distances(labelled), list(first)
    if picked:
        points.shrink(distance, np.array(picked))
    small = points.rows * points.width <= _SMALL
    ahead = 1 if small else LOOKAHEAD[0]
    while len(picked) < k:
        free = distance >= 0
        mass = np.where(free, weights, 0).astype(np.float64)
        started = len(labelled) + len(picked) > 0
        if started:
            mass[free] *= distance[free]
        if not mass.any():
            return np.array(picked + _uniformly(np.flatnonzero(free), k - len(picked), rng), dtype=np.intp)
        batch = _draws(points, distance, mass, ahead if started else 1, rng)[: k - len(picked)]
        picked += batch
        if len(picked) < k:
            points.shrink(distance, np.array(batch))
        ahead = 1 if small else int(np.clip(2 * len(batch), *LOOKAHEAD))
    return np.array(picked, dtype=np.intp)


def _draws(
    points: Points, distance: NDArray[np.float32], mass: Floats, ahead: int, rng: np.random.Generator
) -> list[int]:
    """The next picks of a seeding, from masses that are right for the first of them and may be too high for the others.

    A row drawn by a mass that is too high is accepted with probability right ÷ too high, and is then drawn by the right
    one. The number of proposals is fixed, whether they are accepted or not, so that it does not depend on the rows.
    """
    total = np.cumsum(mass)
    rows = np.searchsorted(total, rng.random(ahead) * total[-1], side="right")
    # Rounding at the upper end must not give a row without mass.
    rows = np.minimum(rows, np.flatnonzero(mass)[-1])
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


def _uniformly(rows: Rows, k: int, rng: np.random.Generator) -> list[int]:
    """k of these rows, drawn one after the other with equal probability."""
    left = rows.tolist()
    return [left.pop(int(rng.choice(len(left)))) for _ in range(k)]
