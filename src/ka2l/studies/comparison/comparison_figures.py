"""The drawings of a comparison of strategies: learning curves by measure, and differences from random."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ka2l.common.number_format import clean, decimal, percent, shorten
from ka2l.report.svg import INK, drawn
from ka2l.studies.comparison.measures import MEASURES
from ka2l.studies.comparison.summary import UNCLEAR, WHOLE, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


CURVES = ("held_out", "pool", "per_label", "forgotten")


class Mark(NamedTuple):
    """How a policy is drawn: colour, matplotlib's marker, and a character of the same shape for the legend."""

    colour: str
    marker: str
    sign: str


# mid-tones, legible on white and on near-black; shapes distinguish policies whose colours are similar
_MARKS = (
    Mark("#d9692b", "o", "●"),
    Mark("#4f8fb8", "s", "■"),
    Mark("#3f9e7a", "^", "▲"),
    Mark("#b06aa8", "D", "◆"),
    Mark("#b8912a", "v", "▼"),
    Mark("#7a74cf", "P", "✚"),
    Mark("#c8545c", "X", "✖"),
    Mark("#3fa3a8", "<", "◀"),
    Mark("#868c3a", ">", "▶"),
    Mark("#a3775a", "*", "★"),
)
_REFERENCE = Mark(INK, "o", "●")


class Point(NamedTuple):
    """A policy at a budget: labels, and a measure's mean and standard deviation over seeds."""

    labels: float
    mean: float
    std: float


def marks(summary: Summary) -> dict[str, Mark]:
    """A mark for every policy except the whole pool; random is drawn in the colour of the text."""
    others = [name for name in summary.policies if name not in (summary.reference, WHOLE)]
    of_others = {name: _MARKS[at % len(_MARKS)] for at, name in enumerate(others)}
    return {
        name: _REFERENCE if name == summary.reference else of_others[name] for name in summary.policies if name != WHOLE
    }


def learning_curve(summary: Summary, measure: str) -> str | None:
    """A measure by number of labels, mean and ± one standard deviation over seeds; None if no policy has a value."""
    base = summary.base.get(measure, math.nan)
    lines = {name: _points(summary, name, measure) for name in marks(summary)}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return None
    whole = next((arm.measures[measure].mean for arm in summary.arms if arm.policy == WHOLE), math.nan)
    scale = 100 if MEASURES[measure].unit == "share" else 1

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        if math.isfinite(whole):
            axes.axhline(scale * whole, color=INK, alpha=0.55, linewidth=1.0, linestyle=(0, (1, 2)))
            note: dict[str, Any] = {
                "xytext": (0, 3),
                "textcoords": "offset points",
                "ha": "right",
                "fontsize": 10,
            }
            axes.annotate("whole pool", (1.0, scale * whole), xycoords=axes.get_yaxis_transform(), alpha=0.8, **note)
        for name, points in lines.items():
            first = [Point(0.0, base, math.nan)] if math.isfinite(base) else []
            _line(axes, [*first, *points], marks(summary)[name], scale, dashed=name == summary.reference)
        axes.set(xlabel="labels bought", ylabel=MEASURES[measure].title.lower() + (" (%)" if scale == 100 else ""))
        axes.set_xticks(sorted({0.0} | {point.labels for points in lines.values() for point in points}))
        axes.margins(x=0.04, y=0.08)
        axes.grid(axis="y")

    label = f"{MEASURES[measure].title} by labels bought: " + "; ".join(
        f"{shorten(name, 24)} {_value_text(points[-1].mean, scale)} at {points[-1].labels:,.0f}"
        for name, points in lines.items()
    )
    return drawn(f"curve-{measure}", label, paint)


def differences(summary: Summary, measure: str) -> str | None:
    """Every policy's paired difference from random with its 95 % interval, one line per budget; filled marks are
    clear.
    """
    tests = {key[:2]: test for key, test in summary.differences.items() if key[2] == measure}
    names = [name for name in marks(summary) if any(policy == name for policy, _ in tests)]
    if not tests:
        return None
    scale = 100 if MEASURES[measure].unit == "share" else 1
    budgets = sorted({budget for _, budget in tests})
    # how far the lines of a policy's budgets are from the height of its name
    offset = 0.22 if len(budgets) > 1 else 0.0
    better = "right" if MEASURES[measure].higher else "left"

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, alpha=0.6, linewidth=0.9)
        for row, name in enumerate(names):
            colour = marks(summary)[name].colour
            for at, budget in enumerate(budgets):
                test = tests.get((name, budget))
                if test is None:
                    continue
                y = row - offset + 2 * offset * at / max(1, len(budgets) - 1)
                value, low, high = (scale * number for number in test.interval[:3])
                axes.plot([low, high], [y, y], color=colour, linewidth=1.0 + 1.2 * (at == len(budgets) - 1))
                face = "none" if test.verdict == UNCLEAR else colour
                axes.plot(value, y, "o", ms=5.5, mfc=face, mec=colour, mew=1.4)
        axes.set_yticks(range(len(names)), [clean(shorten(name, 24)) for name in names])
        axes.set(ylim=(len(names) - 0.4, -0.6))
        unit = " (points)" if scale == 100 else ""
        axes.set_xlabel(f"{MEASURES[measure].title.lower()}{unit}, better to the {better}")
        axes.grid(axis="x")

    label = f"{MEASURES[measure].title}, difference from {summary.reference}: " + "; ".join(
        f"{shorten(name, 24)} at {budget:,}: {decimal(scale * test.interval.value)}, {test.verdict}"
        for (name, budget), test in tests.items()
    )
    return drawn(f"difference-{measure}", clean(label), paint, height=62 + len(names) * (12 + 9 * len(budgets)))


def _points(summary: Summary, policy: str, measure: str) -> list[Point]:
    """The policy's arms that have a value, sorted by labels."""
    arms = [arm.measures for arm in summary.arms if arm.policy == policy]
    points = [Point(arm["labels"].mean, arm[measure].mean, arm[measure].std) for arm in arms]
    return sorted(point for point in points if math.isfinite(point.mean))


def _line(axes: "Axes", points: Sequence[Point], mark: Mark, scale: int, *, dashed: bool) -> None:
    """A policy's curve with a band of one standard deviation either way."""
    labels = [point.labels for point in points]
    means = [scale * point.mean for point in points]
    spread = [scale * point.std if math.isfinite(point.std) else 0.0 for point in points]
    low = [mean - std for mean, std in zip(means, spread, strict=True)]
    high = [mean + std for mean, std in zip(means, spread, strict=True)]
    axes.fill_between(labels, low, high, color=mark.colour, alpha=0.1, linewidth=0)
    style = (0, (4, 2)) if dashed else "-"
    axes.plot(
        labels,
        means,
        color=mark.colour,
        linestyle=style,
        linewidth=1.6,
        marker=mark.marker,
        markersize=5,
        mew=0,
    )


def _value_text(value: float, scale: int) -> str:
    return percent(value, 1) if scale == 100 else decimal(value)


def legend(summary: Summary) -> Mapping[str, Mark]:
    """The marks for the legend beside the drawings, with the page's own text colour for random."""
    return {
        name: mark._replace(colour="currentColor") if mark.colour == INK else mark
        for name, mark in marks(summary).items()
    }
