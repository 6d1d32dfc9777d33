"""The reliability diagram, predicted probability against observed rate, as an inline SVG."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ka2l.common.number_format import count, percent
from ka2l.knowledge.reliability import ReliabilityBin
from ka2l.report.svg import INK, KNOWN, UNKNOWN, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_HEIGHT = 340.0
_TICKS = [step / 5 for step in range(6)]


def reliability_diagram(bins: Sequence[ReliabilityBin], event: str = "unknown", name: str = "reliability") -> str:
    """Event rate by predicted probability with Wilson intervals, and below it how many questions each bin has.

    Args:
        bins: of `ka2l.knowledge.reliability.reliability_curve`.
        event: the event whose probability is predicted, as an adjective, for the axes.
        name: prefix of the figure's ids, unique on the page.
    """

    def paint(figure: "Figure") -> None:
        rates, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        _rates(rates, bins)
        rates.set_ylabel(f"of them {event} (%)")
        _counts(counts, bins)
        counts.set_xlabel(f"probability of {event}, as predicted (%)")
        figure.align_ylabels()

    label = f"Reliability of the probability of {event} over {count(sum(part.n for part in bins))} questions"
    parts = [f"predicted {percent(part.mean_p)}, came {percent(part.event_rate)} of {count(part.n)}" for part in bins]
    return drawn(name, "; ".join([label, *parts]), paint, height=_HEIGHT)


def _rates(axes: "Axes", bins: Sequence[ReliabilityBin]) -> None:
    for part in bins:
        axes.plot([part.mean_p] * 2, [part.rate_low, part.rate_high], color=UNKNOWN, linewidth=1.3, alpha=0.6)
    axes.plot(
        [part.mean_p for part in bins],
        [part.event_rate for part in bins],
        "o-",
        color=UNKNOWN,
        markersize=5,
        linewidth=1.4,
        label="measured, 95 % interval",
    )
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.6, linewidth=1.0, linestyle=(0, (1, 2)), label="as predicted")
    axes.set_yticks(_TICKS, [f"{100 * tick:.0f}" for tick in _TICKS])
    axes.set_ylim(-0.03, 1.03)
    axes.grid()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _counts(axes: "Axes", bins: Sequence[ReliabilityBin]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.bar(
        [(part.low + part.high) / 2 for part in bins],
        [part.n for part in bins],
        width=[0.9 * (part.high - part.low) for part in bins],
        color=KNOWN,
    )
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set(ylabel="questions", xlim=(-0.02, 1.02))
    axes.set_ylim(0, 1.08 * max((part.n for part in bins), default=1))
    axes.set_xticks(_TICKS, [f"{100 * tick:.0f}" for tick in _TICKS])
    axes.grid(axis="y")
