"""Coverage of a pool by balls: ProbCover's radius and greedy picks; and TypiClust's distance to the nearest rows."""

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.checks import NO_ROWS, Floats, check_count
from ka2l.selection.kernels.distance_blocks import Points, Rows


def nearest_distances(x: Floats, neighbours: int, *, device: str = "cpu") -> NDArray[np.float32]:
    """Mean distance of each row to its nearest other rows, float32 [rows]; its inverse is TypiClust's typicality.

    Hacohen et al., arXiv 2202.02794. If there are fewer other rows, all of them count; 0 for a single row.

    Args:
        x: [rows, width].
        neighbours: how many nearest rows count.
        device: where to compute.
    """
    points = Points(x, device=device)
    count = min(neighbours, len(x) - 1)
    result = np.zeros(len(x), dtype=np.float32)
    if count < 1:
        return result
    for rows, block in points.outer():
        best = np.full((len(rows), 0), np.inf, dtype=np.float32)
        columns = np.empty((len(rows), 0), dtype=np.intp)
        for where, others in points.blocks(len(rows)):
            values = points.rough(block, others)[0]
            # A row is not its own neighbour.
            own = rows[(rows >= where.start) & (rows < where.stop)]
            values[own - rows[0], own - where.start] = np.inf
            nearest, at = points.smallest(values, min(count, values.shape[1]))
            best = np.concatenate([best, points.host(nearest)], axis=1)
            columns = np.concatenate([columns, points.host(at) + where.start], axis=1)
            if best.shape[1] > count:
                keep = np.argpartition(best, count - 1, axis=1)[:, :count]
                best = np.take_along_axis(best, keep, axis=1)
                columns = np.take_along_axis(columns, keep, axis=1)
        # Rounded distances found the neighbours; their distances are now computed exactly.
        for i in range(count):
            best[:, i] = points.host(points.pairs(block, points.take(columns[:, i])))
        result[rows] = np.sqrt(best).mean(axis=1)
    return result


def coverage_radius(x: Floats, assignment: NDArray[np.integer], *, purity: float = 0.95, device: str = "cpu") -> float:
    """ProbCover's automatic radius: the largest at which that share of balls holds rows of one cluster only.

    Yehuda et al., arXiv 2205.11514. Infinite if there is one cluster.

    Args:
        x: [rows, width].
        assignment: [rows], cluster of each row, from k_means.
        purity: share of the balls around rows that must hold no row of another cluster.
        device: where to compute.
    """
    points = Points(x, device=device)
    # Squared distance of each row to the nearest row of another cluster.
    to_other = np.full(len(x), np.inf)
    for rows, block in points.outer():
        nearest = np.zeros(len(rows), dtype=np.intp)
        for where, others in points.blocks(len(rows)):
            values = points.rough(block, others)[0]
            values[points.put(assignment[rows][:, None] == assignment[where])] = np.inf
            distance, at = (points.host(array)[:, 0] for array in points.smallest(values, 1))
            closer = distance < to_other[rows]
            to_other[rows[closer]] = distance[closer]
            nearest[closer] = at[closer] + where.start
        exact = points.host(points.pairs(block, points.take(nearest)))
        to_other[rows] = np.where(np.isinf(to_other[rows]), np.inf, exact)
    allowed = int((1 - purity) * len(x) + 1e-9)
    limit = np.sqrt(np.partition(to_other, allowed)[allowed])
    # Slightly below the distance, so that the ball does not include that row.
    return float(limit * (1 - 1e-6))


def max_coverage(x: Floats, k: int, radius: float, *, labelled: Rows = NO_ROWS, device: str = "cpu") -> Rows:
    """ProbCover (Yehuda et al., arXiv 2205.11514): always the row whose ball holds most rows not yet covered.

    When all rows are covered, coverage starts again among those not picked, so that further picks also lie where rows
    are dense and spread as before.

    Args:
        x: [rows, width].
        k: how many, at most the number of rows that are not labelled.
        radius: of the balls, which include rows at exactly this distance.
        labelled: rows that count as picked before and are not picked again.
        device: where to compute.

    Returns:
        [k] row numbers in the order of the picks.

    Raises:
        ValueError: k is negative or too large.
    """
    check_count(k, len(x) - len(labelled))
    picked = np.empty(k, dtype=np.intp)
    if k == 0:
        return picked
    points = Points(x, device=device)
    free = np.ones(len(x), dtype=bool)
    free[labelled] = False
    uncovered = free & (points.count(labelled, radius) == 0)
    # Rows not picked in the ball around each row.
    unpicked_in = points.count(np.flatnonzero(free), radius)
    if not uncovered.any():
        uncovered = free.copy()
    gain = unpicked_in - points.count(np.flatnonzero(free & ~uncovered), radius)
    for i in range(k):
        row = int(np.where(free, gain, -1).argmax())
        picked[i], free[row] = row, False
        ball = points.count(np.array([row]), radius) > 0
        unpicked_in -= ball
        new = np.flatnonzero(uncovered & ball)
        uncovered[new] = False
        left = np.flatnonzero(uncovered)
        # Gains are updated from the rows covered now or from those left, whichever are fewer.
        if not len(left):
            uncovered, gain = free.copy(), unpicked_in.copy()
        elif len(new) <= len(left):
            gain -= points.count(new, radius)
        else:
            gain = points.count(left, radius)
    return picked
