"""k-means (Lloyd's algorithm) from a k-means++ seeding."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.checks import NO_ROWS, Floats, check_count
from ka2l.selection.kernels.distance_blocks import Points
from ka2l.selection.kernels.seeding import plus_plus_rows


class Clusters(NamedTuple):
    """Centers of k-means and the rows of each."""

    centers: NDArray[np.float32]  # [k, width]
    assignment: NDArray[np.int32]  # [rows], the nearest center of each


def k_means(x: Floats, k: int, rng: np.random.Generator, *, iterations: int = 50, device: str = "cpu") -> Clusters:
    """Lloyd's algorithm from a k-means++ start, until no row changes its cluster or for that many iterations.

    The center of a cluster without rows is moved to the row that is farthest from its own center.

    Raises:
        ValueError: k is negative or larger than the number of rows.
    """
    check_count(k, len(x))
    points = Points(x, device=device)
    start = points.take(plus_plus_rows(points, np.ones(len(x)), k, rng, NO_ROWS))
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
