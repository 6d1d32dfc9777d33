"""What the next labels should buy, how many reach a target, and whether to stop: answers, with their bands, from a fit.

The stopping rule: stop when even the upper end of the band of the next batch's gain is below what the user asks of a
batch. Where the points do not support a forecast, the advice says so in words, and so does `supported`.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ka2l.studies.forecast.curve_points import Points, Trend
from ka2l.studies.forecast.palm_curve import Band, Fit

HORIZON = 10.0  # times the largest measured budget: a curve says nothing about what lies beyond
LEAST_GAIN = 0.01  # one question in a hundred, per batch
_STEP, _STEPS = 100, 5  # labels, and how many such steps the table of marginal gains has

Verdict = Literal["go on", "stop", "unclear"]


class Range(NamedTuple):
    """A number with its 95 % band; infinite where a target is not reached."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, band: Band, place: int = 0) -> "Range":
        return cls(*(float(part[place]) for part in band))


class Step(NamedTuple):
    """A hundred further labels: their number in all after them, the score there, and what they add."""

    labels: float
    score: Range
    gain: Range


@dataclass(frozen=True)
class Target:
    """Labels in all that reach a score; infinite beyond `horizon`."""

    score: float
    labels: Range
    share: float  # of the curves in the band that reach it at all within the horizon
    horizon: float
    cost: Range | None  # of the labels that are still to be bought


@dataclass(frozen=True)
class Advice:
    """The answers. Scores and gains are shares of questions, 0 to 1."""

    now: float  # labels at the last measured point
    next_labels: int
    score_now: Range
    score_next: Range
    gain: Range
    cost: float | None
    least_gain: float
    trend: Trend
    verdict: Verdict
    reason: str
    supported: bool  # whether the points say what the next labels buy, at least to the size of the gain
    doubt: str  # why not
    steps: list[Step] = field(default_factory=list)
    target: Target | None = None


def advise(
    fit: Fit,
    next_labels: int = 100,
    target: float | None = None,
    price: float | None = None,
    least_gain: float = LEAST_GAIN,
) -> Advice:
    """What the next labels should buy.

    Args:
        fit: of the points so far.
        next_labels: of the next batch, at least 1.
        target: a score, between 0 and 1.
        price: of one label, in any currency.
        least_gain: what a batch has to add to the score to be worth buying, more than 0.
    """
    now = float(fit.points.budgets[-1])
    gain = Range.of(fit.gain(now, float(next_labels)))
    way = fit.trend
    doubt = _doubt(fit.points, way, gain, least_gain, next_labels)
    verdict, reason = _verdict(way, gain, least_gain, next_labels)
    return Advice(
        now=now,
        next_labels=next_labels,
        score_now=Range.of(fit.band(now)),
        score_next=Range.of(fit.band(now + next_labels)),
        gain=gain,
        cost=None if price is None else price * next_labels,
        least_gain=least_gain,
        trend=way,
        verdict=verdict,
        reason=reason,
        supported=not doubt,
        doubt=doubt,
        steps=[_step(fit, now + _STEP * i) for i in range(_STEPS)],
        target=None if target is None else _target(fit, target, price),
    )


def hundredths(share: float) -> str:
    """A share of questions in words: 0.034 → "3.4 questions in a hundred"."""
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


def _doubt(points: Points, way: Trend, gain: Range, least_gain: float, next_labels: int) -> str:
    """Why the points do not say what the next labels buy; empty where they do."""
    if way == "falling":
        return f"No forecast. {_fall(points)}"
    if way == "flat":
        return (
            f"No forecast. From {points.budgets[0]:,.0f} to {points.budgets[-1]:,.0f} labels the score does not rise beyond its noise, so "
            "there is no curve to follow."
        )
    if gain.high - gain.low > max(gain.middle, least_gain):
        return (
            f"The points say only roughly what the next {next_labels:,} labels bring, anything from {100 * gain.low:.1f} to "
            f"{hundredths(gain.high)}: that band is wider than the gain."
        )
    return ""


def _verdict(way: Trend, gain: Range, least_gain: float, next_labels: int) -> tuple[Verdict, str]:
    asked = f"the {hundredths(least_gain)} that a batch of {next_labels:,} has to bring"
    if way == "falling":
        return "stop", "The score falls as labels are added; more of the same kind do not mend that."
    if gain.high < least_gain:
        return "stop", f"Even the upper end of the band, {hundredths(gain.high)}, is below {asked}."
    if way == "flat":
        return "unclear", f"The band reaches up to {hundredths(gain.high)}, above {asked}. {_MEASURE}"
    if gain.low >= least_gain:
        return "go on", f"Even the lower end of the band, {hundredths(gain.low)}, is at least {asked}."
    return "unclear", f"The band holds both less and more than {asked}. {_MEASURE}"


_MEASURE = "Another measured number of labels, more seeds or more held-out questions make it narrower."


def _fall(points: Points) -> str:
    """Where the score was highest, and where it is now."""
    best = int(points.scores.argmax())
    return (
        f"The score fell from {points.scores[best]:.3f} at {points.budgets[best]:,.0f} labels to {points.scores[-1]:.3f} at "
        f"{points.budgets[-1]:,.0f}, beyond its noise. This curve can only rise, so it forecasts nothing here. Perhaps "
        "more was forgotten than learned: look at what was, at finetune.replay, at the learning rate and at the epochs."
    )
