"""The points of a learning curve from a comparison, from finished runs, or from the user's own file; and its forecast.

Usage:

    collected = collect([Path("runs/geo")])        # points by strategy
    forecasts = forecast(collected, next_labels=100)    # a curve and advice for each
    print(forecast_text(collected, forecasts, 100))     # the screen of `ka2l plan`
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
    """One strategy: its points, and with at least two points a curve and the advice."""

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
    """A curve and advice for every strategy with at least two points; the others have neither.

    Args:
        collected: the points.
        next_labels: labels in the next batch, at least 1.
        target: a score to reach, between 0 and 1; None: no target.
        price: of one label; None: what a label cost so far, if that is known.
        least_gain: the least that a batch must add to the score, between 0 and 1.
        seed: of the bootstrap.

    Raises:
        ConfigError: a number is out of range.
    """
    _check(next_labels, target, price, least_gain)
    price = collected.price if price is None else price
    forecasts = []
    for strategy, points in collected.points.items():
        fitted = fit(points, seed=seed) if len(points.budgets) > 1 else None
        advice = advise(fitted, next_labels, target, price, least_gain) if fitted else None
        forecasts.append(Forecast(strategy, points, fitted, advice))
    return forecasts


def collect(sources: Sequence[Path], score: str = "held_out") -> Collected:
    """The points in runs with a comparison, in evaluated runs, or in files; the sources must be of one kind.

    Args:
        sources: run directories, or .csv, .json and .jsonl files.
        score: `held_out`, or `pool` (only a comparison has it).

    Raises:
        ConfigError: a mix of kinds, or a score that does not exist.
        RunError: a run without a comparison and without an evaluation, or runs whose scores cannot be on one curve.
        DataError: a file is missing or has bad rows.
    """
    if score not in SCORES:
        raise ConfigError(f"score: {score!r} is not one of {', '.join(SCORES)}.")
    kinds = {source: _kind(source) for source in sources}
    if len(set(kinds.values())) != 1:
        listed = "; ".join(f"{source}: {kind}" for source, kind in kinds.items()) or "nothing"
        raise ConfigError(f"All sources must be of one kind: comparisons, evaluated runs, or files. Given: {listed}.")
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
    if any(_comparison_folder(source).rglob(CELL)):
        return "comparison"
    if (source / "evaluation.json").is_file():
        return "run"
    raise RunError(
        f"{source}: contains neither a comparison nor an evaluation. Run `ka2l compare` or `ka2l evaluate {source}` "
        f"first."
    )


def _comparison_folder(source: Path) -> Path:
    return source / "compare" if (source / "compare").is_dir() else source


def _cells(source: Path) -> list[CellResult]:
    """The finished cells of a comparison; of its last grid if known, as other cells may have other settings."""
    folder = _comparison_folder(source)
    if (folder / GRID).is_file():
        return load_grid(folder)
    return [load(file.parent) for file in sorted(folder.rglob(CELL))]


def _from_rows(rows: Sequence[Row]) -> dict[str, Points]:
    """One curve per strategy; rows with 0 labels are the base model of all strategies that have none of their own."""
    base = [row for row in rows if row.labels == 0]
    names = list(dict.fromkeys(row.strategy for row in rows if row.labels > 0)) or [""]
    points = {}
    for name in names:
        trained = [row for row in rows if row.strategy == name and row.labels > 0]
        untrained = [row for row in base if row.strategy == name] or base
        scores: dict[float, list[float]] = defaultdict(list)
        variances: dict[float, list[float]] = defaultdict(list)
        for row in (*untrained, *trained):
            scores[row.labels].append(row.score)
            if row.questions:
                variances[row.labels].append(row.score * (1 - row.score) / row.questions)
        shared = np.diag([np.mean(variances[labels]) if variances[labels] else 0.0 for labels in sorted(scores)])
        points[name or "score"] = from_scores(scores, shared)
    return points


def _check(next_labels: int, target: float | None, price: float | None, least_gain: float) -> None:
    if next_labels < 1:
        raise ConfigError(f"--next: {next_labels} is not a number of labels; give 1 or more.")
    if target is not None and not 0 < target < 1:
        raise ConfigError(f"--target: {target:g} is not between 0 and 1. For 80 per cent write 0.8.")
    if price is not None and not 0 <= price < float("inf"):
        raise ConfigError(f"--price: {price:g} is not a price; give 0 or more.")
    if not 0 < least_gain < 1:
        raise ConfigError(
            f"--least-gain: {least_gain:g} is not between 0 and 1. For one question in a hundred write 0.01."
        )
