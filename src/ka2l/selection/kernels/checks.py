"""Checks of the arguments that all kernels share."""

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.distance_blocks import Rows

Floats = NDArray[np.floating]
_NONE: Rows = np.empty(0, dtype=np.intp)


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
