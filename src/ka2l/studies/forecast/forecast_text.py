"""The screen of `ka2l plan` as text: the measured points beside the curve, the next labels, and whether to stop."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np

from ka2l.studies.forecast.advice import ONE_POINT, Advice, Range, Target, hundredths
from ka2l.studies.forecast.collect import Forecast
from ka2l.studies.forecast.measured_points import Collected

_WIDTH = 100


def forecast_text(collected: Collected, forecasts: Sequence[Forecast], next_labels: int) -> str:
    """Points, curve and advice of every strategy; with several strategies also how they compare."""
    parts = [f"Points from {collected.source}.", *(_strategy(one) for one in forecasts)]
    if len(forecasts) > 1:
        parts.append(_wrapped(_compared(forecasts, next_labels)))
    return "\n\n".join(parts)


def _strategy(one: Forecast) -> str:
    """One strategy: its name, the table, the formula, and the advice in sentences."""
    if one.fit is None or one.advice is None:
        return f"{one.strategy}\n\n{_table(one)}\n\n{_wrapped(ONE_POINT)}"
    curve = one.fit.curve
    formula = (
        f"A(B) = {curve.a_max:.3f} · "
        f"(1 − (1 − {curve.delta:.3g})^((B/{curve.batch:g} + {curve.alpha:.3g})^{curve.beta:.3g}))"
    )
    parts = [one.strategy, _table(one)]
    if one.advice.trend == "rising":
        parts.append("\n".join(filter(None, [formula, _wrapped(one.fit.note)])))
    parts += [_wrapped(sentence) for sentence in _sentences(one.advice)]
    return "\n\n".join(parts)


def _table(one: Forecast) -> str:
    """The measured points, beside them the curve with its band if the points rise."""
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
    """The expected gain of the next labels and their cost, the target, and the verdict."""
    gain = _next(advice) if advice.supported else advice.doubt
    cost = "" if advice.cost is None else f" The next {advice.next_labels:,} labels cost {advice.cost:,.2f}."
    sentences = [gain + cost]
    if advice.target is not None and advice.trend == "rising":
        sentences.append(_labels_to_target(advice.target, advice.now))
    elif advice.target is not None:
        sentences.append(f"Nothing says how many labels reach {advice.target.score:g}.")
    sentences.append(f"{advice.verdict.capitalize()}. {advice.reason}")
    return sentences


def _next(advice: Advice) -> str:
    """The expected gain of the next labels."""
    gain, after = advice.gain, advice.score_next
    text = (
        f"The next {advice.next_labels:,} labels should lift the score from {advice.score_now.middle:.3f} to "
        f"{after.middle:.3f} (95 % band {after.low:.3f} to {after.high:.3f}): {hundredths(gain.middle)} more (95 % "
        f"band {100 * gain.low:.1f} to {100 * gain.high:.1f})."
    )
    steps = ", ".join(f"{100 * step.gain.middle:.1f}" for step in advice.steps)
    return f"{text} Hundred by hundred, the labels after {advice.now:,.0f} should bring {steps}."


def _labels_to_target(target: Target, now: float) -> str:
    """Labels needed to reach the target, with their band and cost."""
    low, middle, high = target.labels
    beyond = f"not within {target.horizon:,.0f}"
    if not math.isfinite(low):
        return f"A score of {target.score:g} is not reached: {beyond} labels, ten times as many as were measured."
    band = f"95 % band {low:,.0f} to {f'{high:,.0f}' if math.isfinite(high) else beyond}"
    if middle <= now:
        return f"A score of {target.score:g} is reached already, at about {middle:,.0f} labels ({band})."
    if not math.isfinite(middle):
        return (
            f"A score of {target.score:g} is most likely not reached within {target.horizon:,.0f} labels; "
            f"{target.share:.0%} of the curves that agree with the points reach it, the soonest at about {low:,.0f}."
        )
    more = f"{middle - now:,.0f} more than now"
    text = f"A score of {target.score:g} takes about {middle:,.0f} labels in all, {more} ({band})"
    if target.cost is None:
        return f"{text}."
    cost_band = f"{target.cost.low:,.2f} to {target.cost.high:,.2f}"
    if not math.isfinite(target.cost.high):
        cost_band = f"at least {target.cost.low:,.2f}"
    return f"{text}; they cost {target.cost.middle:,.2f} ({cost_band})."


def _compared(forecasts: Sequence[Forecast], next_labels: int) -> str:
    """Whether the band of the best strategy is above all others.

    At the same number of labels: the fewest that any strategy has, plus the next.
    """
    fits = {
        one.strategy: one.fit
        for one in forecasts
        if one.fit is not None and one.advice is not None and one.advice.trend == "rising"
    }
    if len(fits) < 2:
        return "There are no two rising curves to compare."
    labels = min(float(fit.points.budgets[-1]) for fit in fits.values()) + next_labels
    scores = {name: Range.of(fit.band(labels)) for name, fit in fits.items()}
    first, *others = sorted(scores, key=lambda name: -scores[name].middle)
    best = f"With {labels:,.0f} labels {first} should be highest, {scores[first].middle:.3f}"
    overlapping = [name for name in others if scores[name].high >= scores[first].low]
    if overlapping:
        return f"{best}, but its band overlaps with that of {', '.join(overlapping)}: the points do not part them."
    return f"{best}, and its band is clear of all others'."


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH)
