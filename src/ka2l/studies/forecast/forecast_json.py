"""The result of `ka2l plan --json`: points, curve and advice of every strategy as plain values."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ka2l.studies.forecast.advice import ONE_POINT, Advice, Range, Target
from ka2l.studies.forecast.collect import Forecast
from ka2l.studies.forecast.measured_points import Collected


def as_values(collected: Collected, forecasts: Sequence[Forecast]) -> dict[str, Any]:
    """Everything as plain values; None for what is not reached or has no value."""
    return {
        "source": collected.source,
        "score": collected.score,
        "strategies": {one.strategy: _strategy(one) for one in forecasts},
    }


def _strategy(one: Forecast) -> dict[str, Any]:
    if one.fit is None or one.advice is None:
        return {"points": _points(one), "supported": False, "doubt": ONE_POINT}
    names = ("a_max", "delta", "alpha", "beta", "batch")
    return {
        "points": _points(one),
        "curve": {name: float(getattr(one.fit.curve, name)) for name in names},
        "identified": one.fit.identified,
        "note": one.fit.note,
        **_advice(one.advice),
    }


def _points(one: Forecast) -> list[dict[str, Any]]:
    """The measured points; with a fit also the curve and its band there."""
    points = one.points if one.fit is None else one.fit.points
    columns = {
        "labels": points.budgets,
        "score": points.scores,
        "deviation": np.sqrt(np.diag(points.covariance)),
        "trainings": points.repeats,
    }
    lists = [column.tolist() for column in columns.values()]
    rows: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
    if one.fit is not None and one.advice is not None:
        band, fitted = one.fit.band(points.budgets), one.fit.curve(points.budgets)
        for i, row in enumerate(rows):
            row |= {"fitted": float(fitted[i]), "band": _range(Range.of(band, i))}
    return rows


def _advice(advice: Advice) -> dict[str, Any]:
    return {
        "trend": advice.trend,
        "supported": advice.supported,
        "doubt": advice.doubt,
        "labels_now": advice.now,
        "next_labels": advice.next_labels,
        "score_now": _range(advice.score_now),
        "score_next": _range(advice.score_next),
        "gain": _range(advice.gain),
        "cost": advice.cost,
        "least_gain": advice.least_gain,
        "verdict": advice.verdict,
        "reason": advice.reason,
        "steps": [
            {"labels": step.labels, "score": _range(step.score), "gain": _range(step.gain)} for step in advice.steps
        ],
        "target": advice.target and _target(advice.target),
    }


def _target(target: Target) -> dict[str, Any]:
    return {
        "score": target.score,
        "labels": _range(target.labels),
        "share_of_curves": target.share,
        "horizon": target.horizon,
        "cost": target.cost and _range(target.cost),
    }


def _range(value: Range) -> dict[str, float | None]:
    return {name: part if math.isfinite(part) else None for name, part in value._asdict().items()}
