"""The two computations under the diversity strategies, on plain arrays, one pass over the rows per pick."""

import numpy as np
from numpy.typing import NDArray

_CHUNK = 16_384  # rows at a time: float32 copies of a float16 matrix stay small


def k_center_greedy(embedding: NDArray[np.floating], k: int, first: int) -> NDArray[np.intp]:
    """Greedy k-center (Sener & Savarese, arXiv 1708.00489): always the row farthest from all picked ones.

    Args:
        embedding: [rows, width], any float type.
        k: how many, at most the number of rows.
        first: the row to start from.

    Returns:
        row numbers in the order they were picked; ties go to the lower row.
    """
    picked = np.empty(k, dtype=np.intp)
    distance = np.full(len(embedding), np.inf)
    row = first
    for i in range(k):
        picked[i] = row
        _shrink(distance, embedding, row)
        distance[row] = -1.0  # never again, also among duplicates of it
        row = int(distance.argmax())
    return picked


def weighted_seeding(
    embedding: NDArray[np.floating], weights: NDArray[np.floating], k: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """k-means++ seeding with P(row) ∝ D²(row) · weight(row), the paper's adaptation of BADGE (Section 4.5).

    The first row is drawn ∝ weight. Rows at distance 0 (duplicates of picked ones) or of weight 0 are drawn, evenly,
    only when nothing else is left.

    Args:
        embedding: [rows, width], any float type.
        weights: [rows], not negative.
        k: how many, at most the number of rows.
        rng: source of the draws.
    """
    picked = np.empty(k, dtype=np.intp)
    distance = np.full(len(embedding), np.inf)
    free = np.ones(len(embedding), dtype=bool)
    mass = weights.astype(np.float64)
    for i in range(k):
        mass = np.where(free, mass, 0.0)
        total = mass.sum()
        if total > 0:
            row = int(np.searchsorted(np.cumsum(mass), rng.random() * total, side="right"))
            row = min(row, int(np.flatnonzero(mass)[-1]))
        else:
            row = int(rng.choice(np.flatnonzero(free)))
        picked[i] = row
        free[row] = False
        _shrink(distance, embedding, row)
        mass = distance * weights
    return picked


def _shrink(distance: NDArray[np.float64], embedding: NDArray[np.floating], row: int) -> None:
    """Lower each row's squared distance to the picked set, in place, now that `row` is picked."""
    center = embedding[row].astype(np.float32)
    for start in range(0, len(embedding), _CHUNK):
        difference = embedding[start : start + _CHUNK].astype(np.float32) - center
        squared = np.einsum("ij,ij->i", difference, difference)
        np.minimum(distance[start : start + _CHUNK], squared, out=distance[start : start + _CHUNK])
