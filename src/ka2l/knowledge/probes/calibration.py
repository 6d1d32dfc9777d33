"""From a probe's score to a probability that keeps its word: Platt scaling and isotonic regression.

    probe = calibrate(probe, states[validation], unknown[validation], "platt")
    probe.predict(states)          # of the questions at 0.8, about 80 % are unknown

Both are monotone in the score, so they leave the order of questions alone, but isotonic regression makes ties. They are
fitted on validation rows and stored with the weights: `platt` [slope, intercept], or `isotonic_x` (log-odds, rising)
and `isotonic_y` (probabilities), between which values are interpolated.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ka2l.knowledge.probes.calibration_curves import Floats

if TYPE_CHECKING:
    from ka2l.knowledge.probes.probe import Probe


_LEAST_SLOPE = (
    0.01  # of standardised log-odds: scores that say nothing, or the contrary, still keep their order
)


def calibrate(
    probe: "Probe",
    states: NDArray[np.floating],
    outcome: NDArray[np.bool_] | NDArray[np.floating],
    method: str,
) -> "Probe":
    """The probe with this calibration; one it had before is replaced.

    Args:
        probe: of any kind.
        states: what it reads, of validation rows.
        outcome: what its predictions should be probabilities of, [rows] in [0, 1]: the label; for a probe of target
            `value` too, so that it predicts p_unknown. Rows that are NaN are left out.
        method: platt, isotonic or none.
    """
    weights = {n: array for n, array in probe.weights.items() if not n.startswith(("platt", "isotonic"))}
    y = np.asarray(outcome, dtype=np.float64)
    judged = np.isfinite(y)
    if method != "none":
        fit = {"platt": platt, "isotonic": isotonic}[method]
        weights |= fit(probe.logits(states[judged]), y[judged])
    return replace(probe, weights=weights, calibration=method)


def platt(logits: NDArray[np.floating], outcome: NDArray[np.floating]) -> dict[str, Floats]:
    """A logistic curve of the log-odds (Platt 1999), never falling.

    Outcomes are smoothed as Platt does, (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2) in place of 1 and 0: a few rows that happen
    to be parted perfectly give no infinite slope.
    """
    import torch

    from ka2l.knowledge.probes.linear import logistic

    positive = outcome.sum()
    high, low = (positive + 1) / (positive + 2), 1 / (outcome.size - positive + 2)
    smoothed = low + outcome * (high - low)
    center, spread = float(np.mean(logits, dtype=np.float64)), float(np.std(logits, dtype=np.float64)) or 1.0
    x = ((np.asarray(logits, dtype=np.float64) - center) / spread).astype(np.float32)
    found = logistic(torch.from_numpy(x)[None, :, None], torch.from_numpy(smoothed), strengths=(1e6,))
    slope, intercept = float(found.weight[0, 0, 0]), float(found.bias[0, 0])
    if slope < _LEAST_SLOPE:
        slope, intercept = _LEAST_SLOPE, float(np.log(smoothed.mean() / (1 - smoothed.mean())))
    return {"platt": np.array([slope / spread, intercept - slope * center / spread], dtype=np.float32)}


def isotonic(logits: NDArray[np.floating], outcome: NDArray[np.floating]) -> dict[str, Floats]:
    """The best rising step curve of the log-odds (Zadrozny & Elkan 2002), straight between its corners."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0).fit(np.asarray(logits, dtype=np.float64), outcome)
    return {
        "isotonic_x": model.X_thresholds_.astype(np.float32),
        "isotonic_y": model.y_thresholds_.astype(np.float32),
    }
