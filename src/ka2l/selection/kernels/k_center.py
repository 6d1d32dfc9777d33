"""Greedy k-center over points in blocks."""

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.checks import _NONE, Floats, _check, _top
from ka2l.selection.kernels.distance_blocks import Points, Rows

_AHEAD = 64, 1024  # fewest and most rows that picks are made among in advance


def k_center_greedy(
    x: Floats,
    k: int,
    first: int | None = None,
    *,
    weights: Floats | None = None,
    labelled: Rows = _NONE,
    device: str = "cpu",
) -> Rows:
    """Greedy k-center (Sener & Savarese, arXiv 1708.00489): always the row farthest from all that is covered.

    Args:
        x: [rows, width].
        k: how many, at most the number of rows that are not labelled.
        first: the row to start from if none is labelled; None: row 0.
        weights: [rows], not negative: the row of the largest distance · weight comes next (weighted k-center, Dyer &
            Frieze 1985). Where that is 0 for all rows that are left, the heaviest. None: all alike.
        labelled: rows that count as picked before and are not picked again.
        device: where to compute.
    """
    _check(k, len(x) - len(labelled))
    points = Points(x, device=device)
    distance, picked = points.distances(labelled), list[int]()
    if k and not len(labelled):
        picked.append(first or 0)
        points.shrink(distance, np.array(picked))
    heavy = None if weights is None else np.square(weights, dtype=np.float32)
    ahead = _AHEAD[0]
    while len(picked) < k:
        batch = _farthest(points, distance, heavy, min(k - len(picked), ahead), ahead)
        picked += batch
        if len(picked) < k:
            points.shrink(distance, np.array(batch))
        ahead = int(np.clip(4 * len(batch), *_AHEAD))
    return np.array(picked, dtype=np.intp)


def _farthest(
    points: Points, distance: NDArray[np.float32], heavy: NDArray[np.float32] | None, k: int, ahead: int
) -> list[int]:
    """The next picks of k-center: as many (of k) as are certain before all distances are lowered.

    Distances only fall. So the farthest among some rows at the top, whose distances are kept up to date, is the
    farthest of all as long as none of the others was farther at the beginning.
    """
    if heavy is not None:
        distance = np.multiply(distance, heavy, out=np.full_like(distance, -1), where=distance >= 0)
    if distance.max() == 0:  # duplicates alone, or rows without weight
        rows = np.flatnonzero(distance == 0)
        order = np.arange(len(rows)) if heavy is None else np.argsort(-heavy[rows], kind="stable")
        return rows[order[:k]].tolist()
    rows, outsider, its_distance = _top(distance, ahead)
    block, current = points.take(rows), distance[rows]
    between = points.host(points.squared(block, block))
    if heavy is not None:
        between = between * heavy[rows]
    batch = list[int]()
    while len(batch) < k:
        top = int(current.argmax())
        if (current[top], -rows[top]) < (its_distance, -outsider) or (
            heavy is not None and current[top] == 0
        ):
            break
        batch.append(int(rows[top]))
        np.minimum(current, between[top], out=current)
        current[top] = -np.inf
    return batch
