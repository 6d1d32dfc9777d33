"""From a probe's score to a calibrated probability: Platt scaling and isotonic regression.

    probe = calibrate(probe, states[validation], unknown[validation], "platt")
    probe.predict(states)          # about 80 % of the questions at 0.8 are unknown

Both are monotone in the score, so they keep the order of questions, but isotonic regression makes ties. They are
fitted on validation rows and stored with the weights: `platt` [slope, intercept], or `isotonic_x` (log-odds, ascending)
and `isotonic_y` (probabilities), between which values are interpolated.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ka2l.knowledge.probes.calibration_curves import Floats

if TYPE_CHECKING:
    from ka2l.knowledge.probes.probe import Probe

# Of standardised log-odds: scores that do not predict the outcome, or predict its opposite, still keep their order.
_LEAST_SLOPE = 0.01


def calibrate(
    probe: "Probe",
    states: NDArray[np.floating],
    outcome: NDArray[np.bool_] | NDArray[np.floating],
    method: str,
) -> "Probe":
    """The probe with this calibration, in place of one it had before.

    Args:
        probe: of any kind.
        states: the probe's input, of validation rows (see `Probe.predict`).
        outcome: the event whose probability is predicted, [rows] in [0, 1]: the label, also for a probe of target
            `value`, so that it predicts p_unknown. Rows that are NaN are left out.
        method: platt, isotonic or none.
    """
    weights = {name: array for name, array in probe.weights.items() if not name.startswith(("platt", "isotonic"))}
    y = np.asarray(outcome, dtype=np.float64)
    given = np.isfinite(y)
    if method != "none":
        fit = {"platt": platt, "isotonic": isotonic}[method]
        weights |= fit(probe.logits(states[given]), y[given])
    return replace(probe, weights=weights, calibration=method)


def platt(logits: NDArray[np.floating], outcome: NDArray[np.floating]) -> dict[str, Floats]:
    """A logistic curve of the log-odds (Platt 1999), never decreasing.

    Outcomes are smoothed as by Platt, (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2) in place of 1 and 0, so that a few rows that
    happen to be perfectly separated do not give an infinite slope.

    Args:
        logits: log-odds, [rows].
        outcome: in [0, 1], [rows].

    Returns:
        `platt`: slope and intercept, float32 [2].
    """
    import torch

    from ka2l.knowledge.probes.linear import logistic

    positive = outcome.sum()
    high, low = (positive + 1) / (positive + 2), 1 / (outcome.size - positive + 2)
    smoothed = low + outcome * (high - low)
    center, spread = float(np.mean(logits, dtype=np.float64)), float(np.std(logits, dtype=np.float64)) or 1.0
    x = ((np.asarray(logits, dtype=np.float64) - center) / spread).astype(np.float32)
    curve = logistic(torch.from_numpy(x)[None, :, None], torch.from_numpy(smoothed), strengths=(1e6,))
    slope, intercept = float(curve.weight[0, 0, 0]), float(curve.bias[0, 0])
    if slope < _LEAST_SLOPE:
        slope, intercept = _LEAST_SLOPE, float(np.log(smoothed.mean() / (1 - smoothed.mean())))
    return {"platt": np.array([slope / spread, intercept - slope * center / spread], dtype=np.float32)}


def isotonic(logits: NDArray[np.floating], outcome: NDArray[np.floating]) -> dict[str, Floats]:
    """The best non-decreasing curve of the log-odds (Zadrozny & Elkan 2002), linear between its points.

    Arguments as for `platt`.

    Returns:
        `isotonic_x` and `isotonic_y`, float32 [points].
    """
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0).fit(np.asarray(logits, dtype=np.float64), outcome)
    return {
        "isotonic_x": model.X_thresholds_.astype(np.float32),
        "isotonic_y": model.y_thresholds_.astype(np.float32),
    }
