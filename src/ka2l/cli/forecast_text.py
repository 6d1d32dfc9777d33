"""What `ka2l plan` says: the measured points beside the curve, what the next labels should buy, and whether to stop."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ka2l.cli.run_summary import print_json
from ka2l.studies.forecast.advice import Advice, Range, Target, hundredths
from ka2l.studies.forecast.collect import Forecast, collect, forecast
from ka2l.studies.forecast.measured_points import Collected

_WIDTH = 100


def plan(
    sources: Sequence[Path],
    *,
    next_labels: int,
    target: float | None,
    price: float | None,
    least_gain: float,
    score: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Collect, fit, draw and print: all of `ka2l plan`."""
    collected = collect(sources, score)
    found = forecast(collected, next_labels, target, price, least_gain)
    if plot is not None:
        from ka2l.studies.forecast.forecast_figure import save_curves

        save_curves(plot, found, next_labels)
    if as_json:
        print_json(as_values(collected, found))
        return
    print(f"Points from {collected.source}.")
    for one in found:
        print(f"\n{_text(one)}")
    if len(found) > 1:
        print(f"\n{_wrapped(_side_by_side(found, next_labels))}")
    if plot is not None:
        print(f"\nDrawn: {plot}")


def as_values(collected: Collected, found: Sequence[Forecast]) -> dict[str, Any]:
    """Everything as plain values; what is not reached, or not there, is null."""
    return {
        "source": collected.source,
        "score": collected.score,
        "strategies": {one.strategy: _values(one) for one in found},
    }


def _values(one: Forecast) -> dict[str, Any]:
    points, fit, advice = one.points, one.fit, one.advice
    if fit is not None:
        points = fit.points
    deviations = np.sqrt(np.diag(points.covariance))
    rows: list[dict[str, Any]] = [
        {"labels": labels, "score": score, "deviation": deviation, "trainings": trainings}
        for labels, score, deviation, trainings in zip(
            points.budgets.tolist(),
            points.scores.tolist(),
            deviations.tolist(),
            points.repeats.tolist(),
            strict=True,
        )
    ]
    if fit is None or advice is None:
        return {"points": rows, "supported": False, "doubt": _ONE_POINT}
    band, fitted = fit.band(points.budgets), fit.curve(points.budgets)
    for i, row in enumerate(rows):
        row |= {"fitted": float(fitted[i]), "band": _range(Range.of(band, i))}
    names = ("a_max", "delta", "alpha", "beta", "batch")
    target = advice.target
    return {
        "points": rows,
        "curve": {name: float(getattr(fit.curve, name)) for name in names},
        "identified": fit.identified,
        "note": fit.note,
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
            {"labels": step.labels, "score": _range(step.score), "gain": _range(step.gain)}
            for step in advice.steps
        ],
        "target": target
        and {
            "score": target.score,
            "labels": _range(target.labels),
            "share_of_curves": target.share,
            "horizon": target.horizon,
            "cost": target.cost and _range(target.cost),
        },
    }


def _range(value: Range) -> dict[str, float | None]:
    return {name: part if math.isfinite(part) else None for name, part in value._asdict().items()}


_ONE_POINT = (
    "One number of labels is a point, not a curve: nothing says what more labels buy. Measure a second one; the base "
    "model counts as 0 labels."
)


def _text(one: Forecast) -> str:
    """One strategy, in words."""
    if one.fit is None or one.advice is None:
        return f"{one.strategy}\n\n{_table(one)}\n\n{_wrapped(_ONE_POINT)}"
    curve = one.fit.curve
    formula = f"A(B) = {curve.a_max:.3f} · (1 − (1 − {curve.delta:.3g})^((B/{curve.batch:g} + {curve.alpha:.3g})^{curve.beta:.3g}))"
    parts = [one.strategy, _table(one)]
    if one.advice.trend == "rising":
        parts.append("\n".join(filter(None, [formula, _wrapped(one.fit.note)])))
    parts += [_wrapped(sentence) for sentence in _sentences(one.advice)]
    return "\n\n".join(parts)


def _table(one: Forecast) -> str:
    """Points, and the curve with its band beside them."""
    points = one.fit.points if one.fit else one.points
    deviations = np.sqrt(np.diag(points.covariance))
    lines = [f"{'labels':>10}{'trainings':>11}{'measured':>10}{'±':>8}"]
    for labels, trainings, score, deviation in zip(
        points.budgets, points.repeats, points.scores, deviations, strict=True
    ):
        trained = f"{trainings}" if trainings else "base"
        lines.append(f"{labels:>10,.0f}{trained:>11}{score:>10.3f}{deviation:>8.3f}")
    if one.fit is not None and one.advice is not None and one.advice.trend == "rising":
        lines[0] += f"{'curve':>9}{'95 % band':>18}"
        band = one.fit.band(points.budgets)
        for i, fitted in enumerate(one.fit.curve(points.budgets)):
            lines[i + 1] += f"{fitted:>9.3f}{f'{band.low[i]:.3f} to {band.high[i]:.3f}':>18}"
    return "\n".join(lines)


def _sentences(advice: Advice) -> list[str]:
    """What the next labels buy, what they cost, the target, and the verdict."""
    bring = _next(advice) if advice.supported else advice.doubt
    cost = "" if advice.cost is None else f" The next {advice.next_labels:,} labels cost {advice.cost:,.2f}."
    said = [bring + cost]
    if advice.target is not None and advice.trend == "rising":
        said.append(_reached(advice.target, advice.now))
    elif advice.target is not None:
        said.append(f"Nothing says how many labels reach {advice.target.score:g}.")
    said.append(f"{advice.verdict.capitalize()}. {advice.reason}")
    return said


def _next(advice: Advice) -> str:
    gain, after = advice.gain, advice.score_next
    text = (
        f"The next {advice.next_labels:,} labels should lift the score from {advice.score_now.middle:.3f} to {after.middle:.3f} "
        f"(95 % band {after.low:.3f} to {after.high:.3f}): {hundredths(gain.middle)} more (95 % band {_hundreds(gain)})."
    )
    steps = ", ".join(f"{100 * step.gain.middle:.1f}" for step in advice.steps)
    return f"{text} Hundred by hundred, the labels after {advice.now:,.0f} should bring {steps}."


def _hundreds(gain: Range) -> str:
    return f"{100 * gain.low:.1f} to {100 * gain.high:.1f}"


def _reached(target: Target, now: float) -> str:
    """Labels to the target, as far as anybody can tell."""
    low, middle, high = target.labels
    beyond = f"not within {target.horizon:,.0f}"
    if not math.isfinite(low):
        return f"A score of {target.score:g} is not reached: {beyond} labels, ten times as many as were measured."
    band = f"95 % band {low:,.0f} to {f'{high:,.0f}' if math.isfinite(high) else beyond}"
    if middle <= now:
        return f"A score of {target.score:g} is reached already, at about {middle:,.0f} labels ({band})."
    if not math.isfinite(middle):
        return (
            f"A score of {target.score:g} is most likely not reached within {target.horizon:,.0f} labels; {target.share:.0%} of "
            f"the curves that agree with the points reach it, the soonest at about {low:,.0f}."
        )
    text = f"A score of {target.score:g} takes about {middle:,.0f} labels in all, {middle - now:,.0f} more than now ({band})"
    if target.cost is None:
        return f"{text}."
    dear = f"{target.cost.low:,.2f} to {target.cost.high:,.2f}"
    if not math.isfinite(target.cost.high):
        dear = f"at least {target.cost.low:,.2f}"
    return f"{text}; they cost {target.cost.middle:,.2f} ({dear})."


def _side_by_side(found: Sequence[Forecast], next_labels: int) -> str:
    """Whether one strategy is clear of all others with the same number of labels: the fewest any has, and the next."""
    fits = {
        one.strategy: one.fit
        for one in found
        if one.fit is not None and one.advice is not None and one.advice.trend == "rising"
    }
    if len(fits) < 2:
        return "There are no two rising curves to compare."
    labels = min(float(fit.points.budgets[-1]) for fit in fits.values()) + next_labels
    scores = {name: Range.of(fit.band(labels)) for name, fit in fits.items()}
    first, *others = sorted(scores, key=lambda name: -scores[name].middle)
    best = f"With {labels:,.0f} labels {first} should be highest, {scores[first].middle:.3f}"
    level = [name for name in others if scores[name].high >= scores[first].low]
    if level:
        return f"{best}, but its band overlaps with that of {', '.join(level)}: the points do not part them."
    return f"{best}, and its band is clear of all others'."


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH)
