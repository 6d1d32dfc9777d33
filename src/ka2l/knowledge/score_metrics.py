"""How well a score (higher = more uncertain) predicts an event: an unknown question, or a wrong answer.

    table = evaluate_scores({"probe": p, "entropy": se}, wrong, groups, probabilities={"probe": p}, reference="entropy")
    table.rows[0].metrics["auroc"]       # Interval(value, low, high, n)
    table.rows[0].difference             # AUROC less the reference's, on the same resamples

A bootstrap resample is a column of whole-number weights: how often each row was drawn. The metrics (`ranking_metrics`,
`reliability`) take all columns of a chunk at once, so that a thousand resamples take about 25 ms per method at 300
rows.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.common.intervals import Interval, mean_interval
from ka2l.knowledge.ranking_metrics import accuracy_at, auprc, aurc, auroc, ranked
from ka2l.knowledge.reliability import Flags, Floats, Rows, brier, calibration_error, ece

COVERAGES = (0.5, 0.8)
_CHUNK = 1 << 16  # weights at a time; the arrays of a metric then stay in the cache
_NONE: Mapping[str, Rows] = {}


class Difference(NamedTuple):
    """AUROC of a method minus that of the reference, on the rows that both can score."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided: twice the share of resamples on the other side of 0, at least 2 / (resamples + 1)."""
    n: int


class MethodMetrics(NamedTuple):
    """One method on the rows it can score."""

    name: str
    metrics: dict[str, Interval]
    """`auroc`, `auprc`, `aurc`, `accuracy_at_50`, `accuracy_at_80`; of a probability `brier`, `ece`,
    `calibration_error`.
    """
    difference: Difference | None  # None for the reference itself, or without a reference


class ScoreTable(NamedTuple):
    """All methods on the same rows and the same resamples."""

    rows: list[MethodMetrics]
    event_rate: Interval  # AUPRC and AURC of a score without information
    reference: str | None

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """For JSON: method → metric → value, low, high, n, and `difference` if there is one; NaN becomes None."""
        result: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            parts: dict[str, Interval | Difference] = {**row.metrics}
            if row.difference is not None:
                parts["difference"] = row.difference
            result[row.name] = {
                name: {key: value if math.isfinite(value) else None for key, value in part._asdict().items()}
                for name, part in parts.items()
            }
        return result


def evaluate_scores(
    scores: Mapping[str, Rows],
    event: Flags,
    groups: Sequence[str],
    *,
    probabilities: Mapping[str, Rows] = _NONE,
    resamples: int = 1000,
    seed: int = 0,
    reference: str | None = None,
) -> ScoreTable:
    """Every metric of every method with 95 % bootstrap intervals, whole groups drawn with replacement.

    The draws are those of `ka2l.common.intervals.bootstrap_interval` and the same for all methods, so differences are
    paired. The paired test uses the bootstrap: DeLong's (1988) is exact in the limit but assumes independent rows, and
    three wordings of one question are not independent. Intervals are percentiles, except for `ece`, whose resamples lie
    above the true value by twice its bias: these are reflected at the value and clipped at 0.

    Args:
        scores: method → score, [rows]; NaN where the method cannot score a row. It is evaluated on the others.
        event: the event to predict, [rows].
        groups: one group name per row.
        probabilities: method → calibrated probability of the event, [rows], for methods that have one.
        resamples, seed: of the bootstrap.
        reference: the method whose AUROC is subtracted from the others'.

    Raises:
        ValueError: lengths differ, a probability lies outside [0, 1], or a name is not among the scores.
    """
    event = np.asarray(event, dtype=bool)
    _check(scores, event, groups, probabilities, reference)
    methods = []
    for name, score in scores.items():
        values, given = np.asarray(score, dtype=np.float64), probabilities.get(name)
        p = None if given is None else np.asarray(given, dtype=np.float64)
        methods.append(_Method(name, values, p, ~np.isnan(values)))
    base = next((method for method in methods if method.name == reference), None)
    measured = _measure(methods, base, event, np.ones((event.size, 1)), noise=1)
    chunks = [_measure(methods, base, event, weights, noise=2) for weights in _draws(groups, resamples, seed)]
    names = np.asarray(groups, dtype=str)
    rows = []
    for index, (method, own) in enumerate(zip(methods, measured, strict=True)):
        samples = {key: np.concatenate([chunk[index][key] for chunk in chunks] or [np.empty(0)]) for key in own}
        metrics = {
            key: _interval(float(own[key][0]), samples[key], names[method.rows], reflect=key == "ece")
            for key in own
            if key != "difference"
        }
        difference = None
        if base is not None and method is not base:
            common = names[method.rows & base.rows]
            difference = _difference(float(own["difference"][0]), samples["difference"], common)
        rows.append(MethodMetrics(method.name, metrics, difference))
    return ScoreTable(rows, mean_interval(event.tolist(), groups, resamples, seed), reference)


class _Method(NamedTuple):
    """One method's scores over all rows; it is measured on the rows it can score."""

    name: str
    scores: Floats
    p: Floats | None
    rows: Flags  # the rows it can score


def _measure(
    methods: Sequence[_Method], base: _Method | None, event: Flags, weights: Floats, noise: int
) -> list[dict[str, Floats]]:
    """Each method's metrics and the difference of its AUROC from that of `base`, each [resamples]."""
    measured = [_metrics(method, event, weights, noise) for method in methods]
    if base is not None:
        own = {method.name: metrics["auroc"] for method, metrics in zip(methods, measured, strict=True)}
        for method, metrics in zip(methods, measured, strict=True):
            common = method.rows & base.rows
            first, second = (
                own[side.name] if (side.rows == common).all() else _auroc(side, common, event, weights)
                for side in (method, base)
            )
            metrics["difference"] = first - second
    return measured


def _metrics(method: _Method, event: Flags, weights: Floats, noise: int) -> dict[str, Floats]:
    weights, event = weights[method.rows], event[method.rows]
    r = ranked(method.scores[method.rows], event, weights)
    metrics = {"auroc": auroc(r), "auprc": auprc(r), "aurc": aurc(r)}
    metrics |= {f"accuracy_at_{100 * coverage:.0f}": accuracy_at(r, coverage) for coverage in COVERAGES}
    if method.p is not None:
        p = method.p[method.rows]
        metrics |= {"brier": brier(p, event, weights), "ece": ece(p, event, weights)}
        metrics["calibration_error"] = calibration_error(p, event, weights, noise)
    return metrics


def _auroc(method: _Method, rows: Flags, event: Flags, weights: Floats) -> Floats:
    return auroc(ranked(method.scores[rows], event[rows], weights[rows]))


def _draws(groups: Sequence[str], resamples: int, seed: int) -> Iterator[Floats]:
    """Draws of whole groups with replacement, as weights [rows, at most a chunk of resamples]."""
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    if codes.size == 0:
        return
    n_groups = int(codes.max()) + 1
    chunk = max(16, _CHUNK // codes.size)
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        counts = [
            np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)
            for _ in range(min(chunk, resamples - start))
        ]
        yield np.array(counts, dtype=np.float64).T[codes]


def _interval(value: float, resampled: Floats, groups: NDArray[np.str_], reflect: bool = False) -> Interval:
    """Percentile interval, or its reflection at the value; NaN bounds if there are fewer than two groups."""
    low, high = _bounds(resampled, groups)
    if reflect:
        low, high = float(np.clip(2 * value - high, 0, 1)), float(np.clip(2 * value - low, 0, 1))
    return Interval(value, low, high, groups.size)


def _difference(value: float, resampled: Floats, groups: NDArray[np.str_]) -> Difference:
    low, high = _bounds(resampled, groups)
    finite = resampled[np.isfinite(resampled)]
    p = math.nan
    if math.isfinite(low):
        beyond = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
        # The data count as one more resample, so that p is never 0.
        p = min(1.0, 2 * (beyond + 1) / (finite.size + 1))
    return Difference(value, low, high, p, groups.size)


def _bounds(resampled: Floats, groups: NDArray[np.str_]) -> tuple[float, float]:
    # A resample with one class only has no AUROC.
    finite = resampled[np.isfinite(resampled)]
    if finite.size == 0 or np.unique(groups).size < 2:
        return math.nan, math.nan
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def _check(
    scores: Mapping[str, Rows],
    event: Flags,
    groups: Sequence[str],
    probabilities: Mapping[str, Rows],
    reference: str | None,
) -> None:
    if len(groups) != event.size:
        raise ValueError(f"{event.size} events, but {len(groups)} groups")
    for kind, table in (("scores", scores), ("probabilities", probabilities)):
        for name, rows in table.items():
            if np.shape(rows) != event.shape:
                raise ValueError(f"{kind}[{name!r}] has shape {np.shape(rows)}, but there are {event.size} events")
    unknown = [name for name in (*probabilities, *([reference] if reference else [])) if name not in scores]
    if unknown:
        raise ValueError(f"no scores of {unknown[0]!r}; there are {', '.join(scores) or 'none'}")
    for name, p in probabilities.items():
        used = np.asarray(p)[~np.isnan(scores[name])]
        if not bool(((used >= 0) & (used <= 1)).all()):
            raise ValueError(f"probabilities[{name!r}] must lie in [0, 1], but go from {used.min()} to {used.max()}")
