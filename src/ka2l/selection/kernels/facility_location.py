"""Greedy facility location over cosines."""

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.checks import NO_ROWS, Floats, check_count
from ka2l.selection.kernels.distance_blocks import Array, Block, Points, Rows
from ka2l.selection.kernels.lookahead import top_rows


def facility_location(
    x: Floats, k: int, *, weights: Floats | None = None, labelled: Rows = NO_ROWS, device: str = "cpu"
) -> Rows:
    """Greedy maximum of Σ_i w_i max_j∈picked sim(i, j), sim the cosine, 0 where negative.

    Lazy (Minoux 1978): gains only fall, so only those at the top are computed again, twice as many each time that none
    of them is certain to be the largest. Ties are common (two rows that serve each other) and go to the lower row only
    if rounding leaves them ties.

    Args:
        x: [rows, width].
        k: how many, at most the number of rows that are not labelled.
        weights: [rows], not negative; None: all 1.
        labelled: rows that count as picked before and are not picked again.
        device: where to compute.

    Returns:
        [k] row numbers in the order of the picks.

    Raises:
        ValueError: k is negative or too large.
    """
    check_count(k, len(x) - len(labelled))
    points = Points(x, unit=True, device=device)
    xp = points.xp
    weight = points.put(np.ones(len(x), np.float32) if weights is None else weights.astype(np.float32))
    best = points.put(np.zeros(len(x), dtype=np.float32))
    for rows, block in points.outer(labelled):
        for where, others in points.blocks(len(rows)):
            best[where] = xp.maximum(best[where], xp.amax(_cosines(points, others, block), 1))
    # Upper bounds of the gains, and after how many picks each was computed.
    bounds, computed_at = np.full(len(x), -np.inf), np.full(len(x), -1)
    bounds[np.setdiff1d(np.arange(len(x)), labelled)] = np.inf
    picked = list[int]()
    ahead = int(np.clip(points.block_rows() * points.width // max(1, len(x)), 1, 32))
    renewed = len(x)
    while len(picked) < k:
        # Renew the gains at the top that earlier picks have made too high.
        rows = top_rows(bounds, renewed)[0]
        rows = rows[(computed_at[rows] < len(picked)) & (bounds[rows] >= 0)]
        bounds[rows], computed_at[rows] = _gains(points, rows, weight, best), len(picked)
        candidates = top_rows(bounds, ahead)[0]
        block = points.take(candidates)
        similarity = xp.concatenate([_cosines(points, others, block) for _, others in points.blocks(ahead)])
        before = len(picked)
        # Pick as long as the largest bound is a current gain of a candidate.
        while True:
            row = int(bounds.argmax())
            at = np.searchsorted(candidates, row)
            if computed_at[row] < len(picked) or at == len(candidates) or candidates[at] != row:
                break
            picked.append(row)
            bounds[row] = -np.inf
            if len(picked) == k:
                break
            best = xp.maximum(best, similarity[:, at])
            gains = points.host(weight @ xp.clip(similarity - best[:, None], 0, None))
            left = bounds[candidates] >= 0
            bounds[candidates[left]], computed_at[candidates[left]] = gains[left], len(picked)
        renewed = ahead if len(picked) > before else 2 * renewed
    return np.array(picked, dtype=np.intp)


def _cosines(points: Points, a: Block, b: Block) -> Array:
    """Cosines of the rows of a and b, [rows of a, rows of b], 0 if negative."""
    return points.xp.clip(a.x @ b.x.T, 0, None)


def _gains(points: Points, rows: Rows, weight: Array, best: Array) -> NDArray[np.float64]:
    """The gain of each of these rows, [rows], where `best` [rows of x] is each row's best cosine so far."""
    gains = np.zeros(len(rows))
    for start in range(0, len(rows), points.block_rows()):
        block = points.take(rows[start : start + points.block_rows()])
        for where, others in points.blocks(len(block.norms)):
            more = others.x @ block.x.T
            # `best` is never below 0, so a negative cosine adds nothing.
            more -= best[where, None]
            more = points.xp.clip(more, 0, None)
            gains[start : start + len(block.norms)] += points.host(weight[where] @ more)
    return gains
