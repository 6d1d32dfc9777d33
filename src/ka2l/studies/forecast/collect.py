"""Where the points of a learning curve come from: a comparison, finished runs, or a file of a user's own.

`collect` finds them, by strategy; `forecast` fits a curve to each and asks for advice. `ka2l plan` prints what comes out.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ka2l.errors import ConfigError, DataError, RunError
from ka2l.studies.comparison.cell_results import CELL, GRID, CellResult, load, load_grid
from ka2l.studies.forecast.advice import LEAST_GAIN, Advice, advise
from ka2l.studies.forecast.curve_points import Points, from_scores
from ka2l.studies.forecast.measured_points import Collected, from_cells, from_runs
from ka2l.studies.forecast.palm_curve import Fit, fit
from ka2l.studies.forecast.points_file import Row, read_points

SCORES = ("held_out", "pool")


@dataclass(frozen=True)
class Forecast:
    """One strategy: its points, and where there are two of them a curve and the advice."""

    strategy: str
    points: Points
    fit: Fit | None
    advice: Advice | None


def forecast(
    collected: Collected,
    next_labels: int = 100,
    target: float | None = None,
    price: float | None = None,
    least_gain: float = LEAST_GAIN,
    seed: int = 0,
) -> list[Forecast]:
    """A curve and advice for every strategy; those with one point have none.

    Raises:
        ConfigError: a number is out of its range.
    """
    _check(next_labels, target, price, least_gain)
    price = collected.price if price is None else price
    found = []
    for strategy, points in collected.points.items():
        fitted = fit(points, seed=seed) if len(points.budgets) > 1 else None
        advice = advise(fitted, next_labels, target, price, least_gain) if fitted else None
        found.append(Forecast(strategy, points, fitted, advice))
    return found


def collect(sources: Sequence[Path], score: str = "held_out") -> Collected:
    """The points in runs with a comparison, in evaluated runs, or in files; not in a mix of them.

    Args:
        sources: run directories, or .csv, .json and .jsonl files.
        score: `held_out`, or `pool` (only a comparison has it).

    Raises:
        ConfigError: a mix of kinds, or a score that does not exist.
        RunError: a run without a comparison and without an evaluation, or runs that cannot stand on one curve.
        DataError: a file is missing or its rows are wrong.
    """
    if score not in SCORES:
        raise ConfigError(f"score: {score!r} is not one of {', '.join(SCORES)}.")
    kinds = {source: _kind(source) for source in sources}
    if len(set(kinds.values())) != 1:
        listed = "; ".join(f"{source}: {kind}" for source, kind in kinds.items()) or "nothing"
        raise ConfigError(
            f"Points of one kind are needed: comparisons, evaluated runs, or files. Given: {listed}."
        )
    kind = next(iter(kinds.values()))
    if kind == "comparison":
        cells = [cell for source in kinds for cell in _cells(source)]
        return from_cells(cells, ", ".join(map(str, kinds)), score)
    if score != "held_out":
        raise ConfigError(f"score: only a comparison has the score {score!r}; {kind}s have held_out.")
    if kind == "file":
        rows = [row for source in kinds for row in read_points(source)]
        return Collected(", ".join(map(str, kinds)), "score", _from_rows(rows))
    return from_runs(list(kinds))


def _kind(source: Path) -> str:
    if source.is_file():
        return "file"
    if not source.exists():
        raise DataError(f"{source}: no such file or folder. Give a run directory, or a file of points.")
    if any(_compared(source).rglob(CELL)):
        return "comparison"
    if (source / "evaluation.json").is_file():
        return "run"
    raise RunError(
        f"{source}: neither a comparison nor an evaluation here. Run `ka2l compare` or `ka2l evaluate {source}` first."
    )


def _compared(source: Path) -> Path:
    return source / "compare" if (source / "compare").is_dir() else source


def _cells(source: Path) -> list[CellResult]:
    """The finished cells; of a comparison those of its last grid, since others may be of other settings."""
    folder = _compared(source)
    if (folder / GRID).is_file():
        return load_grid(folder)
    return [load(file.parent) for file in sorted(folder.rglob(CELL))]


def _from_rows(rows: Sequence[Row]) -> dict[str, Points]:
    """One curve a strategy; 0 labels is the base model of all of them."""
    base = [row for row in rows if row.labels == 0]
    names = list(dict.fromkeys(row.strategy for row in rows if row.labels > 0)) or [""]
    points = {}
    for name in names:
        own = [row for row in rows if row.strategy == name and row.labels > 0]
        mine = [row for row in base if row.strategy == name] or base
        scores: dict[float, list[float]] = defaultdict(list)
        variances: dict[float, list[float]] = defaultdict(list)
        for row in (*mine, *own):
            scores[row.labels].append(row.score)
            if row.questions:
                variances[row.labels].append(row.score * (1 - row.score) / row.questions)
        shared = np.diag(
            [np.mean(variances[labels]) if variances[labels] else 0.0 for labels in sorted(scores)]
        )
        points[name or "score"] = from_scores(scores, shared)
    return points


def _check(next_labels: int, target: float | None, price: float | None, least_gain: float) -> None:
    if next_labels < 1:
        raise ConfigError(f"--next: {next_labels} is no number of labels to buy; give 1 or more.")
    if target is not None and not 0 < target < 1:
        raise ConfigError(f"--target: {target:g} is not between 0 and 1. 80 per cent reads 0.8.")
    if price is not None and not 0 <= price < float("inf"):
        raise ConfigError(f"--price: {price:g} is not a price; give 0 or more.")
    if not 0 < least_gain < 1:
        raise ConfigError(
            f"--least-gain: {least_gain:g} is not between 0 and 1. One question in a hundred reads 0.01."
        )
