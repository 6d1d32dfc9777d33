"""The top of the page: one sentence with the main result of the run, and the headline numbers."""

from collections.abc import Callable
from typing import NamedTuple

from ka2l.common.intervals import Interval
from ka2l.common.number_format import (
    MISSING,
    bounds,
    count,
    decimal,
    duration,
    has_bounds,
    is_number,
    percent,
    points,
    span,
)
from ka2l.report.arms import ArmView, Comparison
from ka2l.report.run_page_data import ReportData


class Figure(NamedTuple):
    """One number of a tile; `whose` names the arm if there are several."""

    value: str
    note: str
    whose: str = ""


class Tile(NamedTuple):
    """A named headline number, or one number per arm."""

    name: str
    figures: tuple[Figure, ...]


def unknown_share(data: ReportData) -> tuple[float, int, int, str] | None:
    """Share, count and total of unknown questions, of the pool or, before `map`, of the probe questions."""
    if data.n_pool:
        return data.n_pool_unknown / data.n_pool, data.n_pool_unknown, data.n_pool, "pool"
    values = [value for value in data.entropies if is_number(value)]
    if not values or data.threshold is None or not is_number(data.threshold):
        return None
    unknown = sum(value >= data.threshold for value in values)
    return unknown / len(values), unknown, len(values), "sampled"


def probe_auroc(data: ReportData) -> Interval | None:
    """The kept probe's AUROC on the test rows; without an interval from the pipeline, the value of its layer alone."""
    if data.probe_auroc is not None and is_number(data.probe_auroc[0]):
        return Interval(*data.probe_auroc)
    chosen = [row.test_auroc for row in data.layers if row.chosen and is_number(row.test_auroc)]
    return Interval(chosen[0], float("nan"), float("nan"), 0) if chosen else None


def verdict(data: ReportData, comparison: Comparison | None) -> str:
    """One sentence about what the run has measured so far."""
    share = unknown_share(data)
    if share is None:
        total = sum(data.role_counts.values())
        return f"{count(total)} questions are loaded; what {data.model} does not know has not been measured yet."
    where = "pool questions" if share[3] == "pool" else "sampled questions"
    about = "an estimated " if share[3] == "pool" else ""
    sentence = f"{data.model} does not know {about}{percent(share[0])} of the {count(share[2])} {where}"
    sentence += _learned_clause(comparison.arms) if comparison else ""
    return sentence + "."


def _learned_clause(arms: tuple[ArmView, ...]) -> str:
    """What the first arm has learned, compared with the second, and whether held-out accuracy changed."""
    first = arms[0] if arms else None
    if first is None or (per_label := first.per_label) is None:
        return ""
    of_them = f", {count(first.decoded_labels)} of them for decoded questions," if first.decoded_labels else ""
    learned = count(first.learned.get("learned", 0))
    taught = f"; {count(first.labels)} bought labels{of_them} taught it {learned} new answers"
    other = arms[1] if len(arms) > 1 else None
    if other is not None and other.per_label is not None:
        relation = "against" if _do_not_overlap(per_label, other.per_label) else "no clear difference from"
        answers = count(other.learned.get("learned", 0))
        # With decoded questions one arm has more labels: only what was learned per label can be compared.
        if first.decoded_labels:
            relation = "" if relation == "against" else f"per label {relation} "
            return f"{taught} ({relation}{other.title}: {answers} with {count(other.labels)})" + _held_out_clause(
                first, other
            )
        taught += f" ({relation} {answers} with {other.title}"
        taught += f" and {count(other.labels)})" if other.labels != first.labels else ")"
    return taught + _held_out_clause(first, other)


def _held_out_clause(first: ArmView, other: ArmView | None) -> str:
    """Whether held-out accuracy changed, with the second arm's change: such gains are seldom due to the strategy."""
    mine, theirs = first.set("held_out"), other.set("held_out") if other else None
    if mine is None or mine.difference is None:
        return ""
    if mine.verdict not in ("better", "worse"):
        return ", with no clear difference on held-out questions"
    moved = "rose" if mine.verdict == "better" else "fell"
    text = f", and held-out accuracy {moved} by {decimal(100 * abs(mine.difference.value), 1)} points"
    if other is None or theirs is None or theirs.difference is None:
        return text
    return f"{text} ({other.title}: {points(theirs.difference.value)})"


def _do_not_overlap(one: Interval, other: Interval) -> bool:
    """Whether two intervals do not overlap; stricter than a test at 5 %."""
    return has_bounds(one) and has_bounds(other) and (one.low > other.high or other.low > one.high)


def tiles(data: ReportData, comparison: Comparison | None) -> list[Tile]:
    """The headline numbers that the run has."""
    found: list[Tile] = []
    share = unknown_share(data)
    if share is not None:
        name = "Unknown, of the pool" if share[3] == "pool" else "Unknown, of those sampled"
        found.append(Tile(name, (Figure(percent(share[0]), f"{count(share[1])} of {count(share[2])}"),)))
    auroc = probe_auroc(data)
    new = data.augmentation
    if auroc is not None:
        note = bounds(auroc) if auroc.n else "test rows"
        found.append(Tile("Probe AUROC", (Figure(decimal(auroc.value), note),)))
    if new is not None:
        found.append(Tile("New questions", (Figure(count(new.kept), f"of {count(new.candidates)} decoded"),)))
    if comparison and comparison.arms:
        found += _arm_tiles(comparison.arms)
    elif data.bought:
        found.append(Tile("Selections made", (Figure(count(len(data.bought)), "not yet evaluated"),)))
    if data.stages:
        seconds = sum(stage.seconds for stage in data.stages if is_number(stage.seconds))
        found.append(Tile("Total time", (Figure(duration(seconds), data.device),)))
    return found


def _arm_tiles(arms: tuple[ArmView, ...]) -> list[Tile]:
    def per_arm(name: str, one: Callable[[ArmView], tuple[str, str]]) -> Tile:
        return Tile(name, tuple(Figure(*one(arm), arm.title if len(arms) > 1 else "") for arm in arms))

    def split(arm: ArmView) -> str:
        return f"{count(arm.decoded_labels)} for new questions" if arm.decoded_labels else ""

    labels = {(arm.labels, arm.decoded_labels) for arm in arms}
    note = "in each arm" if len(arms) > 1 else split(arms[0])
    same = Tile("Labels bought", (Figure(count(arms[0].labels), note),))
    return [
        same if len(labels) == 1 else per_arm("Labels bought", lambda arm: (count(arm.labels), split(arm))),
        per_arm("Learned per label", lambda arm: _with_span(arm.per_label, decimal, 1.0, 2)),
        per_arm("Forgotten", lambda arm: _with_span(arm.forgotten_share, percent, 100.0, 0)),
    ]


def _with_span(interval: Interval | None, write: Callable[[float], str], scale: float, digits: int) -> tuple[str, str]:
    if interval is None:
        return MISSING, "nothing to count"
    text = span(interval, scale, digits)
    return write(interval.value), f"{text}, n = {count(interval.n)}" if text else f"n = {count(interval.n)}"
