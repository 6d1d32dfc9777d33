"""Directions of embeddings, and picks that keep apart from each other.

All states at the last prompt token share a large mean, so that any two of them have a cosine near 1: rows are taken
relative to the pool's mean, then scaled to length 1. Sentence embeddings of one template's questions are alike in the
same way, and are treated the same.
"""

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.signals import Array, Rows

_CHUNK = 1 << 22  # float32 values at a time
_BLOCK = 512  # ranked rows looked at together
_ROUNDING = 1e-6  # of a cosine in float32: two equal rows do not exceed 1
_NOTHING = 1e-5  # a row this near the mean, against the lengths in the pool, has no direction but rounding


class Directions:
    """Rows of an embedding relative to the pool's mean, at length 1; computed where asked for, in float32.

    A row that lies at the mean has no direction and stays 0: its cosine with any other is 0.
    """

    def __init__(self, x: Array) -> None:
        """Args: x: [rows, width], any float type, maybe a memory map; read once here, in chunks."""
        self.x = x
        total = np.zeros(x.shape[1], dtype=np.float64)
        squares = 0.0
        for start in self._starts():
            chunk = np.asarray(x[start : start + self._step], dtype=np.float32)
            total += chunk.sum(axis=0, dtype=np.float64)
            squares += float(np.square(chunk).sum(dtype=np.float64))
        self.mean = (total / max(1, len(x))).astype(np.float32)
        self._shortest = _NOTHING * float(np.sqrt(squares / max(1, len(x))))

    def of(self, rows: Rows | slice) -> NDArray[np.float32]:
        """[rows, width]; for as many rows as a caller wants in memory."""
        found: NDArray[np.float32] = np.asarray(self.x[rows], dtype=np.float32) - self.mean
        lengths = np.sqrt(np.einsum("ij,ij->i", found, found))
        scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > self._shortest)
        found *= scale[:, None]
        return found

    def matrix(self, rows: Rows | None = None) -> Array:
        """The directions of `rows` (all: None) in the type of x: as large in memory as those rows are."""
        n = len(self.x) if rows is None else len(rows)
        found = np.empty((n, self.x.shape[1]), dtype=self.x.dtype)
        for start in range(0, n, self._step):
            stop = min(n, start + self._step)
            found[start:stop] = self.of(slice(start, stop) if rows is None else rows[start:stop])
        return found

    @property
    def _step(self) -> int:
        return max(1, _CHUNK // max(1, self.x.shape[1]))

    def _starts(self) -> range:
        return range(0, len(self.x), self._step)


class Apart:
    """Takes rows in the order they are ranked, and passes over near-copies of what is taken already.

    Args:
        directions: of the pool; None: nothing is a near-copy, every row is taken.
        near_copy: the cosine above which two rows are near-copies.
        labelled: rows bought before: near-copies of them are passed over too.
    """

    def __init__(self, directions: Directions | None, near_copy: float, labelled: Rows) -> None:
        self._directions = directions
        self._near_copy = near_copy + _ROUNDING
        self._taken: list[NDArray[np.float32]] = []  # blocks of directions
        if directions is not None:
            for start in range(0, len(labelled), _BLOCK):
                self._taken.append(directions.of(labelled[start : start + _BLOCK]))

    def take(self, ranked: Rows, k: int) -> Rows:
        """At most k of the ranked rows, each no near-copy of one taken before, in this call or an earlier one.

        Only cosines with taken rows are computed, a block of ranked rows at a time.
        """
        if self._directions is None:
            return ranked[:k]
        accepted: list[int] = []
        for start in range(0, len(ranked), _BLOCK):
            if len(accepted) >= k:
                break
            rows = ranked[start : start + _BLOCK]
            block = self._directions.of(rows)
            open_ = np.ones(len(rows), dtype=bool)
            for taken in self._taken:
                open_ &= (block @ taken.T).max(axis=1) <= self._near_copy
            kept: list[int] = []
            for i in np.flatnonzero(open_):  # among themselves, in rank order
                if len(accepted) >= k:
                    break
                if open_[i]:
                    kept.append(int(i))
                    accepted.append(int(rows[i]))
                    open_ &= block @ block[i] <= self._near_copy
            if kept:
                self._keep(block[kept])
        return np.array(accepted, dtype=np.intp)

    def _keep(self, block: NDArray[np.float32]) -> None:
        """Small blocks are joined, so that many short calls do not make many short products."""
        if self._taken and len(self._taken[-1]) + len(block) <= _BLOCK:
            self._taken[-1] = np.concatenate([self._taken[-1], block])
        else:
            self._taken.append(block)
