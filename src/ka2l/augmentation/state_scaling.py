"""Standardisation of hidden states: the mean and scale a decoder was trained with, and a check that states are
finite.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.errors import ModelError

Floats = NDArray[np.float32]
# Columns of the states that are converted to float64 at once.
_COLUMNS = 256


class Standardisation(NamedTuple):
    """Mean and standard deviation of states in each dimension, [width] float32; the scale of a constant is 1."""

    mean: Floats
    scale: Floats


def standardisation(states: Floats) -> Standardisation:
    """Mean and scale of the states [rows, width] a decoder is trained on, over the rows."""
    mean, scale = (np.empty(states.shape[1], dtype=np.float32) for _ in range(2))
    for first in range(0, states.shape[1], _COLUMNS):
        part = states[:, first : first + _COLUMNS].astype(np.float64)
        # Not std > 0: rounding can leave a tiny standard deviation in a constant column.
        varies = np.ptp(part, axis=0) > 0
        mean[first : first + _COLUMNS] = part.mean(0)
        scale[first : first + _COLUMNS] = np.where(varies, part.std(0), 1.0)
    return Standardisation(mean, scale)


def check_finite(states: Floats, names: Sequence[str]) -> None:
    """Refuse NaN and infinite states [rows, width].

    Raises:
        ModelError: states are not finite: the first question, and how many there are.
    """
    bad = np.flatnonzero(~np.isfinite(states).all(axis=1))
    if len(bad):
        raise ModelError(
            f"question {names[bad[0]]}: its hidden state holds NaN or infinite values ({len(bad)} of {len(names)} "
            "states do). Load the model in float32 or bfloat16 (model.dtype) and read the states again."
        )
