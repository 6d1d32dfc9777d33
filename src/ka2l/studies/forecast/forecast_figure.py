"""The figure of `ka2l plan --plot`: measured points with their noise, the curve through them, its band, the next
labels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ka2l.errors import ConfigError
from ka2l.report.svg import INK, KNOWN, UNKNOWN, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ka2l.studies.forecast.collect import Forecast


_COLOURS = (UNKNOWN, KNOWN, INK)
_GRID = 120  # labels at which curve and band are drawn
_HEIGHT, _ROW = 265.0, 16.0  # px: of the figure, and of a line of the legend
_COLUMNS = 3


def save_curves(path: Path, forecasts: Sequence["Forecast"], next_labels: int) -> None:
    """Draw the strategies' curves into an .svg or .png file; up to three with their bands, more without.

    Raises:
        ConfigError: another kind of file, or a folder that does not exist.
    """
    if path.suffix.lower() not in (".svg", ".png"):
        raise ConfigError(f"--plot: {path} is neither an .svg nor a .png file.")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot: {path.parent}: no such folder.")

    def paint(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for place, one in enumerate(forecasts):
            _draw(axes, one, next_labels, place, banded=len(forecasts) <= len(_COLOURS))
        axes.set(xlabel="labels", ylabel="score")
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
        axes.grid(axis="y")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=_COLUMNS)

    save(path, paint, _HEIGHT + _ROW * ((len(forecasts) - 1) // _COLUMNS))


def _draw(axes: "Axes", one: "Forecast", next_labels: int, place: int, *, banded: bool) -> None:
    """One strategy: the curve is solid up to the last measured point, dashed beyond; only rising points have a
    curve.
    """
    colour = _COLOURS[place % len(_COLOURS)]
    marker = "osD^v<>"[place // len(_COLOURS) % 7]
    points = one.fit.points if one.fit is not None else one.points
    deviations = np.sqrt(np.diag(points.covariance))
    style: dict[str, Any] = {"color": colour, "markersize": 5.0, "elinewidth": 1.1, "linestyle": "none"}
    axes.errorbar(points.budgets, points.scores, 1.96 * deviations, fmt=marker, label=one.strategy, **style)
    if one.fit is None or one.advice is None or one.advice.trend != "rising":
        axes.plot(points.budgets, points.scores, color=colour, linewidth=0.9, linestyle=(0, (1, 2)))
        return
    last = float(points.budgets[-1])
    before = np.linspace(float(points.budgets[0]), last, _GRID)
    beyond = np.linspace(last, last + next_labels, _GRID // 2)
    axes.plot(before, one.fit.curve(before), color=colour, linewidth=1.6)
    axes.plot(beyond, one.fit.curve(beyond), color=colour, linewidth=1.6, linestyle=(0, (4, 2)))
    if banded:
        labels = np.concatenate([before, beyond])
        band = one.fit.band(labels)
        axes.fill_between(labels, band.low, band.high, color=colour, alpha=0.15)
