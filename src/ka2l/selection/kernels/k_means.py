"""k-means with k-means++ seeding, in blocks."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.checks import _NONE, Floats, _check
from ka2l.selection.kernels.distance_blocks import Points
from ka2l.selection.kernels.seeding import _seed


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
