"""Directions of embeddings, and a filter that passes over near-copies.

All states at the last prompt token share a large mean, so that any two of them have a cosine near 1. Rows are therefore
taken relative to the pool's mean, then scaled to length 1. Sentence embeddings of questions from one template are
similar in the same way and are treated alike.
"""

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.signals import Array, Rows

_CHUNK = 1 << 22  # float32 values at a time
_BLOCK = 512  # ranked rows compared at a time
_ROUNDING = 1e-6  # of a cosine in float32, so that two equal rows do not exceed 1
# Shortest row that has a direction, as a share of the root mean square length: below it there is only rounding.
_SHORTEST = 1e-5


class Directions:
    """Rows of an embedding relative to the pool's mean, scaled to length 1; computed on request, in float32.

    A row at the mean has no direction and stays 0: its cosine with any other row is 0.

    Args:
        x: [rows, width], any float type, possibly a memory map; read once on construction, in chunks.
    """

    def __init__(self, x: Array) -> None:
        self.x = x
        total = np.zeros(x.shape[1], dtype=np.float64)
        squares = 0.0
        for start in self._starts():
            chunk = np.asarray(x[start : start + self._step], dtype=np.float32)
            total += chunk.sum(axis=0, dtype=np.float64)
            squares += float(np.square(chunk).sum(dtype=np.float64))
        self.mean = (total / max(1, len(x))).astype(np.float32)
        self._shortest = _SHORTEST * float(np.sqrt(squares / max(1, len(x))))

    def of(self, rows: Rows | slice) -> NDArray[np.float32]:
        """The directions of `rows`, float32 [rows, width]."""
        moved: NDArray[np.float32] = np.asarray(self.x[rows], dtype=np.float32) - self.mean
        lengths = np.sqrt(np.einsum("ij,ij->i", moved, moved))
        scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > self._shortest)
        moved *= scale[:, None]
        return moved

    def matrix(self, rows: Rows | None = None) -> Array:
        """The directions of `rows` (None: all) in the type of x, [rows, width]: as large in memory as those rows."""
        n = len(self.x) if rows is None else len(rows)
        matrix = np.empty((n, self.x.shape[1]), dtype=self.x.dtype)
        for start in range(0, n, self._step):
            stop = min(n, start + self._step)
            matrix[start:stop] = self.of(slice(start, stop) if rows is None else rows[start:stop])
        return matrix

    @property
    def _step(self) -> int:
        return max(1, _CHUNK // max(1, self.x.shape[1]))

    def _starts(self) -> range:
        return range(0, len(self.x), self._step)


class NearCopyFilter:
    """Takes rows in ranked order and passes over near-copies of rows that are taken already.

    Args:
        directions: of the pool; None: no row is a near-copy, every row is taken.
        near_copy: the cosine above which two rows are near-copies.
        labelled: rows labelled before: near-copies of them are passed over too.
    """

    def __init__(self, directions: Directions | None, near_copy: float, labelled: Rows) -> None:
        self._directions = directions
        self._limit = near_copy + _ROUNDING
        self._taken: list[NDArray[np.float32]] = []  # blocks of directions
        if directions is not None:
            for start in range(0, len(labelled), _BLOCK):
                self._taken.append(directions.of(labelled[start : start + _BLOCK]))

    def take(self, ranked: Rows, k: int) -> Rows:
        """At most k of the ranked rows, none of them a near-copy of a row taken in this call or an earlier one.

        Only cosines with taken rows are computed, one block of ranked rows at a time.
        """
        if self._directions is None:
            return ranked[:k]
        accepted: list[int] = []
        for start in range(0, len(ranked), _BLOCK):
            if len(accepted) >= k:
                break
            rows = ranked[start : start + _BLOCK]
            block = self._directions.of(rows)
            free = np.ones(len(rows), dtype=bool)
            for taken in self._taken:
                free &= (block @ taken.T).max(axis=1) <= self._limit
            kept: list[int] = []
            # Among the rows of the block, in rank order.
            for i in np.flatnonzero(free):
                if len(accepted) >= k:
                    break
                if free[i]:
                    kept.append(int(i))
                    accepted.append(int(rows[i]))
                    free &= block @ block[i] <= self._limit
            if kept:
                self._keep(block[kept])
        return np.array(accepted, dtype=np.intp)

    def _keep(self, block: NDArray[np.float32]) -> None:
        """Store a block, joined with a small last one, so that many short calls do not make many short products."""
        if self._taken and len(self._taken[-1]) + len(block) <= _BLOCK:
            self._taken[-1] = np.concatenate([self._taken[-1], block])
        else:
            self._taken.append(block)
