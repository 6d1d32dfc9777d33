"""The computations under the strategies: centres, seedings, clusters, typicality, coverage. Pure functions of arrays.

Rows `x` are [rows, width] of any float type and may be a memory map: they are read in blocks (`_points.CHUNK`), and
arithmetic is float32. `device` is "cpu" or a CUDA device. Row numbers come back in the order in which they were picked;
ties go to the lower row. Order and draws are those of the plain algorithms, up to float32 rounding, but the rows are
not read once per pick: picks are made in advance where it is certain that they are right (`_farthest`, `_draws`), and
all rows then learn of them in one matrix product.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.selection._points import Array, Block, Points, Rows

Floats = NDArray[np.floating]
_NONE: Rows = np.empty(0, dtype=np.intp)
_AHEAD = 64, 1024  # fewest and most rows that picks are made among in advance
_SMALL = 1 << 16  # values: where reading all of them costs nothing, nothing is drawn in advance


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


class Clusters(NamedTuple):
    centers: NDArray[np.float32]  # [k, width]
    assignment: NDArray[np.int32]  # [rows], the nearest center of each


def k_means(
    x: Floats, k: int, rng: np.random.Generator, *, iterations: int = 50, device: str = "cpu"
) -> Clusters:
    """Lloyd's algorithm from a k-means++ start, until nothing changes or for that many iterations.

    A cluster that lost all its rows starts anew at the row that is farthest from its center.
    """
    _check(k, len(x))
    points = Points(x, device=device)
    start = points.take(_seed(points, np.ones(len(x)), k, rng, _NONE))
    centers = np.array(points.host(start.x))
    assignment = np.full(len(x), -1, dtype=np.int32)
    for _ in range(iterations):
        found, distance, sums = points.assign(centers)
        if (found == assignment).all():
            break
        assignment = found
        sizes = np.bincount(assignment, minlength=k)
        filled, empty = sizes > 0, np.flatnonzero(sizes == 0)
        centers[filled] = sums[filled] / sizes[filled, None]
        if len(empty):
            far = np.argsort(-distance, kind="stable")[: len(empty)]
            centers[empty] = points.host(points.take(far).x)
    else:
        assignment = points.assign(centers)[0]
    return Clusters(centers + points.shift, assignment)


def nearest_distances(x: Floats, neighbours: int, *, device: str = "cpu") -> NDArray[np.float32]:
    """[rows] mean distance to the nearest other rows (fewer where there are fewer; 0 for a row alone).

    Its inverse is TypiClust's typicality (Hacohen et al., arXiv 2202.02794).
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
            own = rows[(rows >= where.start) & (rows < where.stop)]
            values[own - rows[0], own - where.start] = np.inf
            some, at = points.smallest(values, min(count, values.shape[1]))
            best = np.concatenate([best, points.host(some)], axis=1)
            columns = np.concatenate([columns, points.host(at) + where.start], axis=1)
            if best.shape[1] > count:
                keep = np.argpartition(best, count - 1, axis=1)[:, :count]
                best = np.take_along_axis(best, keep, axis=1)
                columns = np.take_along_axis(columns, keep, axis=1)
        for i in range(count):
            best[:, i] = points.host(points.pairs(block, points.take(columns[:, i])))
        result[rows] = np.sqrt(best).mean(axis=1)
    return result


def coverage_radius(
    x: Floats, assignment: NDArray[np.integer], *, purity: float = 0.95, device: str = "cpu"
) -> float:
    """ProbCover's automatic radius: the largest at which that share of rows has only its own cluster around it.

    Infinite where there is one cluster.

    Args:
        x: [rows, width].
        assignment: [rows], cluster of each row, from k_means.
        purity: share of the balls around rows that hold no row of another cluster.
        device: where to compute.
    """
    points = Points(x, device=device)
    reach = np.full(len(x), np.inf)  # squared distance to the nearest row of another cluster
    for rows, block in points.outer():
        nearest = np.zeros(len(rows), dtype=np.intp)
        for where, others in points.blocks(len(rows)):
            values = points.rough(block, others)[0]
            values[points.put(assignment[rows][:, None] == assignment[where])] = np.inf
            some, at = (points.host(found)[:, 0] for found in points.smallest(values, 1))
            closer = some < reach[rows]
            reach[rows[closer]] = some[closer]
            nearest[closer] = at[closer] + where.start
        exact = points.host(points.pairs(block, points.take(nearest)))
        reach[rows] = np.where(np.isinf(reach[rows]), np.inf, exact)
    allowed = int((1 - purity) * len(x) + 1e-9)
    limit = np.sqrt(np.partition(reach, allowed)[allowed])
    return float(limit * (1 - 1e-6))  # just not reaching it


def max_coverage(x: Floats, k: int, radius: float, *, labelled: Rows = _NONE, device: str = "cpu") -> Rows:
    """ProbCover (Yehuda et al., arXiv 2205.11514): always the row whose ball holds most rows not yet covered.

    When all rows are covered, coverage starts again among those not picked, so that picks go on where rows are
    dense but spread as before.

    Args:
        x: [rows, width].
        k: how many, at most the number of rows that are not labelled.
        radius: of the balls, which hold rows at this distance too.
        labelled: rows that count as picked before, in no round again.
        device: where to compute.
    """
    _check(k, len(x) - len(labelled))
    picked = np.empty(k, dtype=np.intp)
    if k == 0:
        return picked
    points = Points(x, device=device)
    free = np.ones(len(x), dtype=bool)
    free[labelled] = False
    uncovered = free & (points.count(labelled, radius) == 0)
    unpicked_in = points.count(np.flatnonzero(free), radius)  # each ball
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
        if not len(left):
            uncovered, gain = free.copy(), unpicked_in.copy()
        elif len(new) <= len(left):
            gain -= points.count(new, radius)
        else:
            gain = points.count(left, radius)
    return picked


def facility_location(
    x: Floats, k: int, *, weights: Floats | None = None, labelled: Rows = _NONE, device: str = "cpu"
) -> Rows:
    """Greedy maximum of Σ_i w_i max_j∈picked sim(i, j), sim the cosine, 0 where negative.

    Lazy (Minoux 1978): gains only fall, so only those at the top are computed again, twice as many each time that none
    of them is certain to be the largest. Ties are usual here (two rows that serve each other) and end at the lower row
    only where rounding leaves them ties.

    Args:
        x: [rows, width].
        k: how many, at most the number of rows that are not labelled.
        weights: [rows], not negative; None: all 1.
        labelled: rows that count as picked before and are not picked again.
        device: where to compute.
    """
    _check(k, len(x) - len(labelled))
    points = Points(x, unit=True, device=device)
    xp = points.xp
    weight = points.put(np.ones(len(x), np.float32) if weights is None else weights.astype(np.float32))
    best = points.put(np.zeros(len(x), dtype=np.float32))
    for rows, block in points.outer(labelled):
        for where, others in points.blocks(len(rows)):
            best[where] = xp.maximum(best[where], xp.amax(_cosines(points, others, block), 1))
    bounds, of = np.full(len(x), -np.inf), np.full(len(x), -1)  # of gains, and how many picks they know of
    bounds[np.setdiff1d(np.arange(len(x)), labelled)] = np.inf
    picked = list[int]()
    ahead = int(np.clip(points.block_rows() * points.width // max(1, len(x)), 1, 32))
    renewed = len(x)
    while len(picked) < k:
        rows = _top(bounds, renewed)[0]
        rows = rows[(of[rows] < len(picked)) & (bounds[rows] >= 0)]
        bounds[rows], of[rows] = _gains(points, rows, weight, best), len(picked)
        candidates = _top(bounds, ahead)[0]
        block = points.take(candidates)
        similarity = xp.concatenate([_cosines(points, others, block) for _, others in points.blocks(ahead)])
        before = len(picked)
        while True:
            row = int(bounds.argmax())
            at = np.searchsorted(candidates, row)
            if of[row] < len(picked) or at == len(candidates) or candidates[at] != row:
                break
            picked.append(row)
            bounds[row] = -np.inf
            if len(picked) == k:
                break
            best = xp.maximum(best, similarity[:, at])
            gains = points.host(weight @ xp.clip(similarity - best[:, None], 0, None))
            left = bounds[candidates] >= 0
            bounds[candidates[left]], of[candidates[left]] = gains[left], len(picked)
        renewed = ahead if len(picked) > before else 2 * renewed
    return np.array(picked, dtype=np.intp)


def _cosines(points: Points, a: Block, b: Block) -> Array:
    return points.xp.clip(a.x @ b.x.T, 0, None)


def _gains(points: Points, rows: Rows, weight: Array, best: Array) -> NDArray[np.float64]:
    """What each of the rows would add to a facility location that has `best` for each row, [rows of x]."""
    gains = np.zeros(len(rows))
    for start in range(0, len(rows), points.block_rows()):
        block = points.take(rows[start : start + points.block_rows()])
        for where, others in points.blocks(len(block.norms)):
            more = others.x @ block.x.T
            more -= best[where, None]  # never below 0, so that a negative cosine adds nothing
            more = points.xp.clip(more, 0, None)
            gains[start : start + len(block.norms)] += points.host(weight[where] @ more)
    return gains


def _check(k: int, available: int) -> None:
    if not 0 <= k <= available:
        raise ValueError(f"{k} rows are wanted of {available}")


def _top(values: Floats, count: int) -> tuple[Rows, int, float]:
    """The rows of the largest values, in row order, and the best of the others with its value; ties: lower first."""
    if count >= len(values):
        return np.arange(len(values)), len(values), -np.inf
    cut = np.partition(values, len(values) - count - 1)[len(values) - count - 1]
    above, tied = np.flatnonzero(values > cut), np.flatnonzero(values == cut)
    fill = count - len(above)
    return np.sort(np.concatenate([above, tied[:fill]])), int(tied[fill]), float(cut)


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
