"""Apply a fitted calibration to scores. Fitting is in `calibration.py`."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def apply_calibration(method: str, weights: Mapping[str, Floats], logits: Floats) -> Floats:
    """Probabilities, float32 [rows] in [0, 1], from a probe's log-odds [rows].

    Args:
        method: platt, isotonic or none.
        weights: of the probe; the arrays of the calibration are among them.
        logits: log-odds, [rows].
    """
    if method == "isotonic":
        return np.interp(logits, weights["isotonic_x"], weights["isotonic_y"]).astype(np.float32)
    if method == "platt":
        slope, intercept = weights["platt"]
        logits = slope * logits + intercept
    return (0.5 * (1.0 + np.tanh(0.5 * logits))).astype(np.float32)
