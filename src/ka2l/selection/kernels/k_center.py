"""Greedy k-center, with and without weights."""

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.checks import NO_ROWS, Floats, check_count
from ka2l.selection.kernels.distance_blocks import Points, Rows
from ka2l.selection.kernels.lookahead import LOOKAHEAD, top_rows


def k_center_greedy(
    x: Floats,
    k: int,
    first: int | None = None,
    *,
    weights: Floats | None = None,
    labelled: Rows = NO_ROWS,
    device: str = "cpu",
) -> Rows:
    """Greedy k-center (Sener & Savarese, arXiv 1708.00489): always the row farthest from all picked rows.

    Args:
        x: [rows, width].
        k: how many, at most the number of rows that are not labelled.
        first: the row to start from if none is labelled; None: row 0.
        weights: [rows], not negative: the row of the largest distance · weight comes next (weighted k-center, Dyer &
            Frieze 1985). If that is 0 for all rows that are left, the heaviest. None: equal weights.
        labelled: rows that count as picked before and are not picked again.
        device: where to compute.

    Returns:
        [k] row numbers in the order of the picks.

    Raises:
        ValueError: k is negative or too large.
    """
    check_count(k, len(x) - len(labelled))
    points = Points(x, device=device)
    distance, picked = points.distances(labelled), list[int]()
    if k and not len(labelled):
        picked.append(first or 0)
        points.shrink(distance, np.array(picked))
    squared_weights = None if weights is None else np.square(weights, dtype=np.float32)
    ahead = LOOKAHEAD[0]
    while len(picked) < k:
        batch = _farthest(points, distance, squared_weights, min(k - len(picked), ahead), ahead)
        picked += batch
        if len(picked) < k:
            points.shrink(distance, np.array(batch))
        ahead = int(np.clip(4 * len(batch), *LOOKAHEAD))
    return np.array(picked, dtype=np.intp)


def _farthest(
    points: Points,
    distance: NDArray[np.float32],
    squared_weights: NDArray[np.float32] | None,
    k: int,
    ahead: int,
) -> list[int]:
    """The next picks of k-center: as many (at most k) as are certain before all distances are updated.

    Distances only fall. So the farthest among some rows at the top, whose distances are kept up to date, is the
    farthest of all as long as none of the other rows was farther at the beginning.
    """
    if squared_weights is not None:
        distance = np.multiply(distance, squared_weights, out=np.full_like(distance, -1), where=distance >= 0)
    # Only duplicates of picked rows, or rows without weight, are left.
    if distance.max() == 0:
        rows = np.flatnonzero(distance == 0)
        order = np.arange(len(rows)) if squared_weights is None else np.argsort(-squared_weights[rows], kind="stable")
        return rows[order[:k]].tolist()
    rows, outsider, outsider_distance = top_rows(distance, ahead)
    block, current = points.take(rows), distance[rows]
    between = points.host(points.squared(block, block))
    if squared_weights is not None:
        between = between * squared_weights[rows]
    batch = list[int]()
    while len(batch) < k:
        top = int(current.argmax())
        # Stop when another row could be farther, or only duplicates are left.
        if (current[top], -rows[top]) < (outsider_distance, -outsider) or (
            squared_weights is not None and current[top] == 0
        ):
            break
        batch.append(int(rows[top]))
        np.minimum(current, between[top], out=current)
        current[top] = -np.inf
    return batch
