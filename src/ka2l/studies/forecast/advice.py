"""Advice from a fitted curve: the expected gain of the next labels, the labels to a target, and whether to stop.

The stopping rule: stop when even the upper end of the 95 % band of the next batch's gain is below `least_gain`. If the
points do not support a forecast, `supported` is false and `doubt` says why.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ka2l.studies.forecast.curve_points import Points, Trend
from ka2l.studies.forecast.palm_curve import Band, Fit

HORIZON = 10.0  # times the largest measured budget: the curve is not extrapolated further
LEAST_GAIN = 0.01  # one question in a hundred, per batch
ONE_POINT = (
    "One number of labels is a point, not a curve: nothing says what more labels buy. Measure a second one; the base "
    "model counts as 0 labels."
)
_NARROWER = "Another measured number of labels, more seeds or more held-out questions make it narrower."
_STEP, _STEPS = 100, 5  # labels per step, and the number of steps, in the table of marginal gains

Verdict = Literal["go on", "stop", "unclear"]


class Range(NamedTuple):
    """A number with its 95 % band; infinite if a target is not reached."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, band: Band, place: int = 0) -> "Range":
        """One place of a band."""
        return cls(*(float(part[place]) for part in band))


class Step(NamedTuple):
    """A hundred more labels: the total after them, the score there, and what they add to it."""

    labels: float
    score: Range
    gain: Range


@dataclass(frozen=True)
class Target:
    """Total labels that reach a score.

    Attributes:
        score: the target, 0 to 1.
        labels: infinite beyond `horizon`.
        share: of the curves in the band, those that reach the target within the horizon, 0 to 1.
        horizon: labels.
        cost: of the labels that are still to be bought; None without a price.
    """

    score: float
    labels: Range
    share: float
    horizon: float
    cost: Range | None


@dataclass(frozen=True)
class Advice:
    """What to do next. Scores and gains are shares of questions, 0 to 1.

    `now` is the number of labels at the last measured point. `supported`: whether the points determine the gain of the
    next labels at least to its own size; `doubt` says why not.
    """

    now: float
    next_labels: int
    score_now: Range
    score_next: Range
    gain: Range
    cost: float | None
    least_gain: float
    trend: Trend
    verdict: Verdict
    reason: str
    supported: bool
    doubt: str
    steps: list[Step] = field(default_factory=list)
    target: Target | None = None


def advise(
    fit: Fit,
    next_labels: int = 100,
    target: float | None = None,
    price: float | None = None,
    least_gain: float = LEAST_GAIN,
) -> Advice:
    """The expected gain of the next labels, and whether to buy them.

    Args:
        fit: the curve through the points so far.
        next_labels: labels in the next batch, at least 1.
        target: a score to reach, between 0 and 1; None: no target.
        price: of one label, in any currency; None: unknown.
        least_gain: the least that a batch must add to the score to be worth its labels, more than 0.
    """
    now = float(fit.points.budgets[-1])
    gain = Range.of(fit.gain(now, float(next_labels)))
    doubt = _doubt(fit.points, fit.trend, gain, least_gain, next_labels)
    verdict, reason = _verdict(fit.trend, gain, least_gain, next_labels)
    return Advice(
        now=now,
        next_labels=next_labels,
        score_now=Range.of(fit.band(now)),
        score_next=Range.of(fit.band(now + next_labels)),
        gain=gain,
        cost=None if price is None else price * next_labels,
        least_gain=least_gain,
        trend=fit.trend,
        verdict=verdict,
        reason=reason,
        supported=not doubt,
        doubt=doubt,
        steps=[_step(fit, now + _STEP * i) for i in range(_STEPS)],
        target=None if target is None else _target(fit, target, price),
    )


def hundredths(share: float) -> str:
    """A share of questions as text: 0.034 → "3.4 questions in a hundred"."""
    number = 100 * share
    text = f"{number:.0f}" if number >= 9.95 else f"{number:.1f}"
    text = text.removesuffix(".0")
    return f"{text} question{'' if text == '1' else 's'} in a hundred"


def _step(fit: Fit, start: float) -> Step:
    end = start + _STEP
    return Step(end, Range.of(fit.band(end)), Range.of(fit.gain(start, float(_STEP))))


def _target(fit: Fit, score: float, price: float | None) -> Target:
    now, horizon = float(fit.points.budgets[-1]), HORIZON * float(fit.points.budgets[-1])
    needed = fit.draws.labels_for(score)
    within = needed <= horizon
    labels = Range.of(fit.labels_for(score))
    labels = Range(*(value if value <= horizon else float("inf") for value in labels))
    cost = None if price is None else Range(*(price * max(0.0, value - now) for value in labels))
    return Target(score, labels, float(within.mean()), horizon, cost)


def _doubt(points: Points, trend: Trend, gain: Range, least_gain: float, next_labels: int) -> str:
    """Why the points do not support a forecast of the next labels' gain; empty if they do."""
    if trend == "falling":
        return f"No forecast. {_fall(points)}"
    if trend == "flat":
        return (
            f"No forecast. From {points.budgets[0]:,.0f} to {points.budgets[-1]:,.0f} labels the score does not rise "
            "beyond its noise, so there is no curve to follow."
        )
    if gain.high - gain.low > max(gain.middle, least_gain):
        return (
            f"The points say only roughly what the next {next_labels:,} labels bring, anything from "
            f"{100 * gain.low:.1f} to {hundredths(gain.high)}: that band is wider than the gain."
        )
    return ""


def _verdict(trend: Trend, gain: Range, least_gain: float, next_labels: int) -> tuple[Verdict, str]:
    """Whether to buy the next labels, and the reason."""
    asked = f"the {hundredths(least_gain)} that a batch of {next_labels:,} has to bring"
    if trend == "falling":
        return "stop", "The score falls as labels are added; more of the same kind do not mend that."
    if gain.high < least_gain:
        return "stop", f"Even the upper end of the band, {hundredths(gain.high)}, is below {asked}."
    if trend == "flat":
        return "unclear", f"The band reaches up to {hundredths(gain.high)}, above {asked}. {_NARROWER}"
    if gain.low >= least_gain:
        return "go on", f"Even the lower end of the band, {hundredths(gain.low)}, is at least {asked}."
    return "unclear", f"The band holds both less and more than {asked}. {_NARROWER}"


def _fall(points: Points) -> str:
    """The highest score and the last one, and what may have caused the fall."""
    best = int(points.scores.argmax())
    return (
        f"The score fell from {points.scores[best]:.3f} at {points.budgets[best]:,.0f} labels to "
        f"{points.scores[-1]:.3f} at {points.budgets[-1]:,.0f}, beyond its noise. This curve can only rise, so it "
        "forecasts nothing here. Perhaps more was forgotten than learned: look at what was, at finetune.replay, at "
        "the learning rate and at the epochs."
    )
