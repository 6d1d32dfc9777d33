"""The figures of the report: each function takes plain values and returns an inline SVG."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ka2l.common.number_format import decimal, has_bounds, is_number, percent, shorten
from ka2l.report.arms import Comparison, SetView
from ka2l.report.run_page_data import LayerScore
from ka2l.report.svg import INK, KNOWN, UNKNOWN, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# A scatter plot with more points is unreadable, and a megabyte.
MOST_POINTS = 1500
# Vertical offset, edge colour, face colour, name.
_BEFORE_AFTER = (
    (-0.15, INK, "none", "before"),
    (0.15, UNKNOWN, UNKNOWN, "after"),
)


def entropy_histogram(entropies: Sequence[float], threshold: float | None, n_samples: int = 0) -> str:
    """Histogram of the semantic entropy (nats) of the probe questions, split at the threshold into known and
    unknown.
    """
    values = [value for value in entropies if is_number(value)]
    top = max([math.log(n_samples) if n_samples > 1 else 0.1, *values])
    cut = threshold if threshold is not None and is_number(threshold) else 0.0
    width = top / 24
    edges = [cut + step * width for step in range(-math.ceil(cut / width), math.ceil((top - cut) / width) + 1)]

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        _split_histogram(axes, values, edges, threshold, [1.0] * len(values))
        axes.set(
            xlabel="semantic entropy (nats)",
            ylabel="questions",
            xlim=(edges[0] - 0.02 * top, edges[-1] + 0.02 * top),
        )
        if threshold is not None and is_number(threshold):
            _threshold_line(axes, threshold, f"threshold {decimal(threshold)}", left=threshold > top / 2)
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=2)

    label = f"Histogram of the semantic entropy of {len(values)} questions"
    if threshold is not None and is_number(threshold):
        above = sum(value >= threshold for value in values)
        label += f"; {above} lie at or above the threshold {decimal(threshold)} and count as unknown"
    return drawn("entropy", label, paint)


def pool_histogram(p_unknown: Sequence[float]) -> str:
    """Histogram of the probe's probability that a pool question is unknown, as shares of the pool."""
    values = [value for value in p_unknown if is_number(value)]
    edges = [step / 20 for step in range(21)]

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        _split_histogram(axes, values, edges, 0.5, [100 / len(values)] * len(values))
        axes.set(xlabel="probability of unknown, by the probe", ylabel="% of the pool", xlim=(-0.02, 1.02))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return drawn("pool", f"Histogram of the probability of unknown over {len(values)} pool questions", paint)


def layer_curve(layers: Sequence[LayerScore]) -> str:
    """AUROC by layer, validation (dashed) and test, one colour per kind of probe, a ring around the chosen one."""
    from matplotlib.ticker import MaxNLocator

    rows = sorted(layers, key=lambda row: (row.kind, row.layer))
    colours = dict(zip(sorted({row.kind for row in rows}), (INK, UNKNOWN, KNOWN), strict=False))

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        axes.axhline(0.5, color=INK, alpha=0.5, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.annotate("chance", (1.0, 0.5), xycoords=axes.get_yaxis_transform(), **_note(-2, 3, "right"))
        for kind, colour in colours.items():
            _layer_lines(axes, [row for row in rows if row.kind == kind], kind, colour)
        for row in rows:
            if row.chosen and is_number(row.test_auroc):
                axes.plot(row.layer, row.test_auroc, "o", ms=12, mfc="none", mec=UNKNOWN, mew=1.6)
                axes.annotate("chosen", (row.layer, row.test_auroc), **_note(0, -17, "center"))
        axes.grid(axis="y")
        axes.set(xlabel="layer (0 = embedding)", ylabel="AUROC, known or unknown")
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.46), min(high, 1.01))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    chosen = [
        f"layer {row.layer}, {shorten(row.kind, 24)}, test AUROC {decimal(row.test_auroc)}"
        for row in rows
        if row.chosen
    ]
    label = f"AUROC of the probes over {len({row.layer for row in rows})} layers"
    return drawn("layers", "; chosen: ".join([label, *chosen]), paint)


def state_scatter(pca: Sequence[tuple[float, float, bool]], variance: tuple[float, float] = (0.0, 0.0)) -> str:
    """First two principal components of the hidden states, known (rings) and unknown (discs)."""
    points = [point for point in pca if is_number(point[0]) and is_number(point[1])]
    points = points[:: math.ceil(len(points) / MOST_POINTS)] if points else []
    styles: tuple[tuple[bool, dict[str, Any], str], ...] = (
        (False, {"mfc": "none", "mec": KNOWN, "mew": 1.0, "alpha": 0.8}, "known"),
        (True, {"mfc": UNKNOWN, "mec": "none", "mew": 0.0, "alpha": 0.6}, "unknown"),
    )

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for unknown, style, name in styles:
            xs = [x for x, _, flag in points if bool(flag) is unknown]
            ys = [y for _, y, flag in points if bool(flag) is unknown]
            axes.plot(xs, ys, "o", ms=4.4, label=name, **style)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel("first component" + _explains(variance[0]))
        axes.set_ylabel("second component" + _explains(variance[1]))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handletextpad=0.2, markerscale=1.5)

    return drawn("states", f"Principal components of {len(points)} hidden states, known and unknown", paint)


def teaching_gain(comparison: Comparison) -> str:
    """Exact match before (ring) and after (disc) teaching, per set of questions and arm, with 95 % intervals."""
    names = list(dict.fromkeys(view.name for arm in comparison.arms for view in arm.sets))
    rows: list[tuple[float, str, SetView]] = []
    headers: list[tuple[float, str]] = []
    y = 0.0
    for name in names:
        views = [(arm.title, view) for arm in comparison.arms if (view := arm.set(name)) is not None]
        headers.append((y, views[0][1].title))
        rows += [(y + 0.95 * (index + 1), title, view) for index, (title, view) in enumerate(views)]
        y += 0.95 * len(views) + 1.35

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for _, colour, face, name in _BEFORE_AFTER:
            axes.plot([], [], "o", ms=6, mfc=face, mec=colour, mew=1.3, label=name)
        for at, _, view in rows:
            _before_and_after(axes, at, view)
        for at, title in headers:
            place: dict[str, Any] = {
                "xytext": (4, 0),
                "textcoords": "offset points",
                "va": "center",
                "weight": "bold",
            }
            axes.annotate(title, (0.0, at), xycoords=axes.get_yaxis_transform(), **place)
        axes.set(xlim=(-2, 102), ylim=(y - 0.75, -0.6), xlabel="exact match (%)")
        axes.set_yticks([at for at, _, _ in rows], [title for _, title, _ in rows])
        axes.grid(axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    label = "Exact match of the base and the tuned model with 95 % intervals, for " + ", ".join(
        f"{title}: {view.title}" for _, title, view in rows
    )
    return drawn("gain", label, paint, height=70 + 21 * y)


def _before_and_after(axes: "Axes", y: float, view: SetView) -> None:
    for interval, (dy, colour, face, _) in zip(view.cells["exact_match"].intervals, _BEFORE_AFTER, strict=True):
        if interval is None:
            continue
        if has_bounds(interval):
            axes.plot(
                [100 * interval.low, 100 * interval.high],
                [y + dy] * 2,
                color=colour,
                linewidth=1.3,
                alpha=0.7,
            )
        axes.plot(100 * interval.value, y + dy, "o", ms=6, mfc=face, mec=colour, mew=1.3)


def _explains(share: float) -> str:
    return f" ({percent(share)} of variance)" if is_number(share) and share > 0 else ""


def _note(dx: float, dy: float, align: str) -> dict[str, Any]:
    """The style of a small caption, offset in px from its point."""
    return {"xytext": (dx, dy), "textcoords": "offset points", "ha": align, "fontsize": 10, "alpha": 0.8}


def _split_histogram(
    axes: "Axes",
    values: Sequence[float],
    edges: Sequence[float],
    threshold: float | None,
    weights: Sequence[float],
) -> None:
    """One stacked histogram of the values below the threshold and of those at or above it."""
    from matplotlib.ticker import MaxNLocator

    cut = threshold if threshold is not None and is_number(threshold) else None
    sides = [(KNOWN, "known", [cut is not None and value < cut for value in values])]
    sides.append((UNKNOWN, "unknown", [cut is not None and value >= cut for value in values]))
    if cut is None:
        sides = [(KNOWN, "all", [True] * len(values))]
    axes.hist(
        [[value for value, inside in zip(values, flags, strict=True) if inside] for _, _, flags in sides],
        bins=list(edges),
        weights=[[w for w, inside in zip(weights, flags, strict=True) if inside] for _, _, flags in sides],
        stacked=True,
        color=[colour for colour, _, _ in sides],
        label=[name for _, name, _ in sides],
        rwidth=0.9,
    )
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y")


def _threshold_line(axes: "Axes", at: float, text: str, left: bool) -> None:
    axes.axvline(at, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    place = _note(-5 if left else 5, 2, "right" if left else "left")
    axes.annotate(text, (at, 1.0), xycoords=axes.get_xaxis_transform(), **place)


def _layer_lines(axes: "Axes", rows: Sequence[LayerScore], kind: str, colour: str) -> None:
    layers = [row.layer for row in rows]
    test = [row.test_auroc if is_number(row.test_auroc) else math.nan for row in rows]
    validation = [row.validation_auroc if is_number(row.validation_auroc) else math.nan for row in rows]
    axes.plot(
        layers,
        validation,
        color=colour,
        linewidth=1.1,
        linestyle=(0, (4, 2)),
        label=f"{shorten(kind, 24)}, validation",
    )
    axes.plot(layers, test, "o-", color=colour, linewidth=1.6, markersize=3, label=f"{shorten(kind, 24)}, test")
