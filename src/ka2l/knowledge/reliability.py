"""Calibration of probabilities: Brier score, calibration errors and the reliability curve.

    reliability_curve(p_unknown, unknown)      # drawn by report/reliability_diagram.py

Each error takes a matrix of integer weights, one column per resample, and gives one value per column; a column of
ones is the data itself. Bins are of equal width, closed below and open above (the last one is closed).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 10
_Z = 1.959963984540054  # the normal distribution's 97.5 % point

Floats = NDArray[np.float64]
Rows = NDArray[np.floating]
Flags = NDArray[np.bool_]


class ReliabilityBin(NamedTuple):
    """Rows whose probability lies in [low, high), and their event rate with its 95 % Wilson interval."""

    low: float
    high: float
    mean_p: float
    event_rate: float
    n: int
    rate_low: float
    rate_high: float


def reliability_curve(p: Rows, event: Flags, bins: int = BINS) -> list[ReliabilityBin]:
    """Mean probability and event rate of each bin; bins without rows are left out.

    Args:
        p: probabilities of the event, [rows].
        event: whether it occurred, [rows].
        bins: number of bins of equal width.
    """
    p, event = np.asarray(p, dtype=np.float64), np.asarray(event, dtype=bool)
    number = _bin_numbers(p, bins)
    curve = []
    for index in np.unique(number):
        inside = number == index
        hits, count = int(event[inside].sum()), int(inside.sum())
        mean_p = float(p[inside].mean())
        edges = (float(index / bins), float((index + 1) / bins))
        curve.append(ReliabilityBin(*edges, mean_p, hits / count, count, *wilson_interval(hits, count)))
    return curve


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): inside [0, 1], also for few rows and for shares of 0 and 1.

    Rows are assumed to be independent.
    """
    share = hits / count
    spread = _Z * math.sqrt(share * (1 - share) / count + (_Z / (2 * count)) ** 2)
    centre = share + _Z**2 / (2 * count)
    scale = 1 + _Z**2 / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def brier(p: Rows, event: Flags, weights: Floats) -> Floats:
    """Mean squared difference of probability and event (Brier 1950), [resamples].

    Args:
        p: probabilities in [0, 1], [rows].
        event: [rows].
        weights: number of times each row counts, [rows, resamples].
    """
    with np.errstate(invalid="ignore"):
        return ((p.astype(np.float64) - event) ** 2) @ weights / weights.sum(0)


def ece(p: Rows, event: Flags, weights: Floats, bins: int = BINS) -> Floats:
    """Expected calibration error (Naeini et al. 2015; Guo et al., arXiv 1706.04599), [resamples]; arguments as `brier`.

    It is biased upwards by few rows per bin, even for perfect probabilities: 0.06 at 300 rows. It is given because it
    is commonly reported; `calibration_error` corrects this bias.
    """
    members = _members(p, bins)
    with np.errstate(invalid="ignore"):
        return np.abs((members * (p.astype(np.float64) - event)) @ weights).sum(0) / weights.sum(0)


def calibration_error(p: Rows, event: Flags, weights: Floats, noise: int = 1, bins: int = BINS) -> Floats:
    """Root mean square calibration error over bins, without sampling noise, [resamples]; arguments as `brier`.

    Each bin's squared gap is, in expectation, the true one plus the variance of its event rate, which is estimated and
    subtracted (Bröcker 2012; Kumar et al., arXiv 1909.10155, Section 5). A sum below 0 counts as 0; a bin of one row,
    whose variance is unknown, counts as no gap.

    Args:
        noise: how many times the variance is contained: once in the data, twice in a bootstrap resample of the data.
    """
    members = _members(p, bins)
    count = members @ weights
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = (members * event) @ weights / count
        gap = (members * (p.astype(np.float64) - event)) @ weights / count
        squared = count * (gap**2 - noise * rate * (1 - rate) / (count - 1))
        return np.sqrt(np.maximum(np.where(count > 1, squared, 0.0).sum(0) / weights.sum(0), 0.0))


def _members(p: Rows, bins: int) -> Floats:
    """1 where a row lies in a bin, else 0, [bins, rows]."""
    return (_bin_numbers(p, bins) == np.arange(bins)[:, None]).astype(np.float64)


def _bin_numbers(p: Rows, bins: int) -> NDArray[np.intp]:
    return np.minimum((np.asarray(p, dtype=np.float64) * bins).astype(np.intp), bins - 1)
