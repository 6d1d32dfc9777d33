"""Picks in advance: how many rows to pick among before all distances are updated, and the rows at the top."""

import numpy as np

from ka2l.selection.kernels.checks import Floats
from ka2l.selection.kernels.distance_blocks import Rows

LOOKAHEAD = 64, 1024  # fewest and most rows that picks are made among in advance


def top_rows(values: Floats, count: int) -> tuple[Rows, int, float]:
    """The rows of the largest values, ascending; and the best other row with its value. Ties: the lower row first."""
    if count >= len(values):
        return np.arange(len(values)), len(values), -np.inf
    cut = np.partition(values, len(values) - count - 1)[len(values) - count - 1]
    above, tied = np.flatnonzero(values > cut), np.flatnonzero(values == cut)
    fill = count - len(above)
    return np.sort(np.concatenate([above, tied[:fill]])), int(tied[fill]), float(cut)
