"""How well a score (higher = more uncertain) ranks events: AUROC, AUPRC, AURC, accuracy at a coverage.

    r = ranked(scores, event, weights)        # one sort for all resamples
    auroc(r), auprc(r), aurc(r), accuracy_at(r, 0.8)

Each column of `weights` holds the number of times each row counts: a bootstrap resample, or ones for the data itself.
Each metric gives one value per column, equal to its value on rows repeated that many times.
"""

from typing import NamedTuple

import numpy as np

from ka2l.knowledge.reliability import Flags, Floats, Rows


class Ranked(NamedTuple):
    """Weights of a score's distinct values, ascending, and of all lower values, each [values, resamples]."""

    rows: Floats
    events: Floats
    rows_below: Floats
    events_below: Floats


def ranked(scores: Rows, event: Flags, weights: Floats) -> Ranked:
    """Sort once for all resamples; equal scores become one entry.

    Args:
        scores: [rows], without NaN.
        event: [rows].
        weights: number of times each row counts, whole numbers, [rows, resamples].
    """
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    rows = weights[order]
    events = rows * event[order, None]
    first = np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))
    if first.size < order.size:
        rows, events = np.add.reduceat(rows, first, axis=0), np.add.reduceat(events, first, axis=0)
    return Ranked(rows, events, np.cumsum(rows, axis=0) - rows, np.cumsum(events, axis=0) - events)


def auroc(r: Ranked) -> Floats:
    """P(score of an event > score of a non-event), ties one half, [resamples]; NaN for a single class."""
    others = r.rows - r.events
    won = (r.events * (r.rows_below - r.events_below + 0.5 * others)).sum(0)
    with np.errstate(invalid="ignore"):
        return won / (r.events.sum(0) * others.sum(0))


def auprc(r: Ranked) -> Floats:
    """Average precision, [resamples]: precision at each score, weighted by its events; NaN for a single class."""
    events, rows = r.events.sum(0), r.rows.sum(0)
    # Including the score itself, so that a tie is one step.
    above = rows - r.rows_below
    precision = (events - r.events_below) / np.where(above > 0, above, 1.0)
    with np.errstate(invalid="ignore"):
        return np.where(events < rows, (r.events * precision).sum(0) / events, np.nan)


def aurc(r: Ranked) -> Floats:
    """Area under the risk-coverage curve (Geifman & El-Yaniv, arXiv 1705.08500), [resamples]; lower is better.

    The mean, over k = 1 … rows, of the event rate among the k least uncertain rows. For ties, the expected value over
    random orders: a tie of t rows with share s of events, after T rows with E events, adds Σⱼ (E + j·s) / (T + j), j =
    1 … t, = t·s + (E − T·s)·(H(T + t) − H(T)) with the harmonic numbers H.
    """
    total = r.rows.sum(0)
    size = int(total.max(initial=0))
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, size + 1))])
    share = r.events / np.where(r.rows > 0, r.rows, 1.0)
    below = r.rows_below.astype(np.intp)
    steps = harmonic[below + r.rows.astype(np.intp)] - harmonic[below]
    with np.errstate(invalid="ignore"):
        return (r.events + (r.events_below - r.rows_below * share) * steps).sum(0) / total


def accuracy_at(r: Ranked, coverage: float) -> Floats:
    """Share without the event among the least uncertain rows, [resamples]: the fewest rows that reach the coverage.

    If the last of them are tied with others, the expected share.
    """
    kept = np.ceil(coverage * r.rows.sum(0) - 1e-9)
    taken = np.clip(kept - r.rows_below, 0.0, r.rows)
    events = (r.events * (taken / np.where(r.rows > 0, r.rows, 1.0))).sum(0)
    with np.errstate(invalid="ignore"):
        return 1.0 - events / kept
