"""Arguments that the kernels share: their types, a default, and the check of the number of picks."""

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.distance_blocks import Rows

Floats = NDArray[np.floating]
NO_ROWS: Rows = np.empty(0, dtype=np.intp)


def check_count(k: int, available: int) -> None:
    """Refuse a number of picks that the rows cannot give.

    Raises:
        ValueError: k is negative or larger than the number of available rows.
    """
    if not 0 <= k <= available:
        raise ValueError(f"{k} rows are wanted of {available}")
