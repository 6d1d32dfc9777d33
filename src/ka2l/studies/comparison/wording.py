"""The result of a comparison in sentences, and its numbers as text: for the terminal, Markdown and the page.

Usage:

    headline(summary)       # one or two sentences; a difference is named only if its test is clear
"""

import math
from collections.abc import Sequence

from ka2l.common.curve_statistics import Estimate
from ka2l.common.number_format import MISSING, duration, p_value
from ka2l.studies.comparison.measures import MEASURES
from ka2l.studies.comparison.summary import BETTER, CRITERIA, WHOLE, WORSE, Difference, Standing, Summary
from ka2l.studies.comparison.text_tables import one_line

MARKS = {BETTER: "*", WORSE: "†"}
_SHORT = {"per_label": "learned per label", "held_out": "held-out questions", "forgotten": "forgetting"}


def headline(summary: Summary) -> str:
    """The overall result; a difference is named only if its test is clear."""
    if not summary.arms:
        return "No cell is finished yet."
    return " ".join(part for part in (_against_reference(summary), _target(summary)) if part)


def standing_line(standing: Standing, reference: str) -> str:
    """A policy at a budget in one sentence."""
    parts = [f"clearly better on {_names(standing.better)}"] if standing.better else []
    parts += [f"clearly worse on {_names(standing.worse)}"] if standing.worse else []
    parts += [f"no clear difference on {_names(standing.unclear)}"] if standing.unclear else []
    return f"{one_line(standing.policy)} at {standing.budget:,} labels, against {reference}: {'; '.join(parts)}."


def mean_std(value: Estimate | None, unit: str) -> str:
    """57.9 ± 1.0 (a share in percent), 0.61 ± 0.02, 63 ± 2; one seed has no ±."""
    if value is None or not math.isfinite(value.mean):
        return MISSING
    if unit == "seconds":
        return duration(value.mean, plain=True)
    if unit == "count" and value.mean == round(value.mean) and not value.std > 0:
        return f"{value.mean:,.0f}"
    digits = 1 if unit in ("share", "count") else 2
    scale = 100 if unit == "share" else 1
    text = f"{scale * value.mean:,.{digits}f}"
    return f"{text} ± {scale * value.std:.{digits}f}" if math.isfinite(value.std) else text


def difference_text(difference: Difference | None) -> str:
    """+2.7 (−0.4 to +5.8), in points for a share."""
    if difference is None:
        return MISSING
    share = MEASURES[difference.measure].unit == "share"
    value, low, high = (
        f"{(100 if share else 1) * number:+.{1 if share else 2}f}".replace("-", "−")
        for number in difference.interval[:3]
    )
    return f"{value} ({low} to {high})"


def tested_text(difference: Difference | None) -> str:
    """+2.7 (−0.4 to +5.8; p 0.23)*: the difference, its 95 % interval, the corrected p, the mark if it is clear."""
    text = difference_text(difference)
    if difference is None:
        return text
    return f"{text[:-1]}; p {p_value(difference.p_holm)}){MARKS.get(difference.verdict, '')}"


def percent(share: float) -> str:
    """0.579 → 57.9 %, with a plain space for terminals and Markdown (pages use `number_format.percent`)."""
    return f"{100 * share:.1f} %" if math.isfinite(share) else MISSING


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def how_tested(summary: Summary) -> str:
    """How the tests are computed and corrected, for the legend."""
    return (
        f"Tests compare a policy with {summary.reference} at the same budget and seeds, by a bootstrap that draws "
        "question groups and seeds anew (95 % intervals, two-sided p). p is corrected for many comparisons by Holm's "
        "method, over all policies and budgets of a measure, differences from the whole pool for themselves. A "
        "difference is called clear if its interval leaves out 0 and the corrected p is below 0.05. Shares differ in "
        "points. No clear difference does not mean the same."
    )


def _against_reference(summary: Summary) -> str:
    """The policies against the reference, on the three criteria."""
    if not summary.standings:
        return _untested(summary)
    winners = summary.winners
    if winners:
        budget = max(standing.budget for standing in winners)
        names = [standing.policy for standing in winners if standing.budget == budget]
        verb = "is" if len(names) == 1 else "are"
        text = (
            f"At {budget:,} labels, {listed([one_line(name) for name in names])} {verb} clearly better than "
            f"{summary.reference} on all three: "
        )
        return f"{text}learned per label, held-out questions and forgetting{_numbers(summary, names, budget)}."
    budget = max(standing.budget for standing in summary.standings)
    here = [standing for standing in summary.standings if standing.budget == budget]
    text = (
        f"No policy is clearly better than {summary.reference} on all three: learned per label, held-out questions and "
        f"forgetting. At {budget:,} labels, "
    )
    return text + "; ".join(_criterion(name, here, summary.reference) for name in CRITERIA) + "."


def _criterion(name: str, standings: Sequence[Standing], reference: str) -> str:
    """The policies that are clearly better or worse on one criterion."""
    better = [one_line(standing.policy) for standing in standings if name in standing.better]
    worse = [one_line(standing.policy) for standing in standings if name in standing.worse]
    if not any(name in standing.better + standing.worse + standing.unclear for standing in standings):
        return f"{_SHORT[name]}: not tested"
    if not better and not worse:
        return f"{_SHORT[name]}: no clear difference from {reference}"
    parts = [f"{listed(better)} better"] if better else []
    parts += [f"{listed(worse)} worse"] if worse else []
    return f"{_SHORT[name]}: {', '.join(parts)}"


def _numbers(summary: Summary, names: Sequence[str], budget: int) -> str:
    """The winner's differences from the reference; empty if there are several winners."""
    if len(names) > 1:
        return ""
    differences = [summary.differences[names[0], budget, name] for name in CRITERIA]
    values = [difference_text(one).partition(" (")[0] for one in differences]
    units = [" points" if MEASURES[one.measure].unit == "share" else "" for one in differences]
    return f" ({', '.join(value + unit for value, unit in zip(values, units, strict=True))})"


def _untested(summary: Summary) -> str:
    """The highest held-out score, with the remark that it is not tested."""
    scored = [arm for arm in summary.arms if arm.policy != WHOLE and math.isfinite(arm.measures["held_out"].mean)]
    if not scored:
        return "Nothing is evaluated on held-out questions yet."
    best = max(scored, key=lambda arm: arm.measures["held_out"].mean)
    text = (
        f"The highest held-out score so far is {percent(best.measures['held_out'].mean)}, with {one_line(best.policy)} "
        f"and {best.budget:,} labels (before teaching {percent(summary.base['held_out'])})"
    )
    if best.policy == summary.reference:
        return f"{text}."
    return f"{text}; whether it differs from {summary.reference} is not tested."


def _target(summary: Summary) -> str:
    """The policy that reaches the target with the fewest labels."""
    own = summary.reference if summary.target_of == f"the best of {summary.reference}" else None
    tried = [needed for needed in summary.labels_to_target if needed.policy != own]
    if not math.isfinite(summary.target) or not tried:
        return ""
    goal = f"the target of {percent(summary.target)} held-out ({summary.target_of})"
    reached = [needed for needed in tried if needed.labels is not None]
    if not reached:
        return f"No policy reaches {goal} within {max(summary.budgets, default=0):,} labels."
    first = min(reached, key=lambda needed: (needed.labels, needed.policy))
    share = ""
    if math.isfinite(first.share):
        share = f" ({100 * first.share:.0f} % of its resampled curves reach it)"
    if len(tried) == 1:
        return f"{one_line(first.policy)} reaches {goal} with about {first.labels:,.0f} labels{share}."
    others = len(reached) - 1
    text = (
        f"Of {len(tried)} policies, {one_line(first.policy)} reaches {goal} with the fewest labels, about "
        f"{first.labels:,.0f}{share}."
    )
    return text + (f" {others} other{'s' * (others > 1)} reach{'es' * (others == 1)} it with more." if others else "")


def _names(measures: Sequence[str]) -> str:
    return listed([_SHORT[name] for name in measures])
