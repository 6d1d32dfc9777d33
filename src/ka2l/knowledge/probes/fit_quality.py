"""Quality of a probe on rows it was not trained on: AUROC with a standard error, and cross-entropy."""

import numpy as np
from numpy.typing import NDArray

from ka2l.common.intervals import auroc
from ka2l.knowledge.probes.probe import Probe, ProbeFit


def evaluate_fit(
    probe: Probe,
    states: NDArray[np.floating],
    values: NDArray[np.bool_] | NDArray[np.floating],
    event: NDArray[np.bool_] | None = None,
    epochs: int = 0,
) -> ProbeFit:
    """A probe with its AUROC for `event` and its cross-entropy on rows it was not trained on.

    Args:
        probe: not calibrated.
        states: the probe's input (see `Probe.predict`).
        values: targets in [0, 1], [rows].
        event: what the score should rank high, [rows]; None: values >= 0.5.
        epochs: of the training, stored with the result.
    """
    logits = probe.logits(states).astype(np.float64)
    values = np.asarray(values, dtype=np.float64)
    loss = float(np.mean(np.logaddexp(0.0, logits) - values * logits))
    event = values >= 0.5 if event is None else np.asarray(event)
    return ProbeFit(probe, auroc(logits, event), auroc_error(logits, event), loss, epochs, choice_loss=loss)


def auroc_error(scores: NDArray[np.floating], event: NDArray[np.bool_]) -> float:
    """Standard error of an AUROC (DeLong, DeLong & Clarke-Pearson 1988); NaN for one class.

    It is the variance of placements, a row's share of rows of the other class on the correct side of it. For a class
    of one row, the largest possible variance is taken.
    """
    from scipy.stats import rankdata

    if not 0 < event.sum() < event.size:
        return float("nan")
    ranks = rankdata(scores)
    variance = 0.0
    for own in (event, ~event):
        others = event.size - own.sum()
        placements = (ranks[own] - rankdata(scores[own])) / others
        variance += (placements.var(ddof=1) if placements.size > 1 else 0.25) / placements.size
    return float(np.sqrt(variance))
