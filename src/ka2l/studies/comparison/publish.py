"""Write the results of a comparison: compare.md, compare.html, cells.parquet and summary.parquet under RUN/compare."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from ka2l.common import atomic_files
from ka2l.common.progress import Reporter
from ka2l.common.version import __version__
from ka2l.config.recipes import to_yaml
from ka2l.config.run_config import RunConfig
from ka2l.studies.comparison import tables
from ka2l.studies.comparison.cell_results import CellResult, save_grid
from ka2l.studies.comparison.comparison_page import StrategiesPage, render_comparison
from ka2l.studies.comparison.measures import values as measured
from ka2l.studies.comparison.policies import FULL, Policy
from ka2l.studies.comparison.run_grid import FOLDER, Comparison, Grid
from ka2l.studies.comparison.summarize import summarize
from ka2l.studies.comparison.summary import Summary
from ka2l.studies.comparison.text_tables import text
from ka2l.studies.comparison.wording import headline


class Published(NamedTuple):
    """The same result as text for the terminal and as values for `--json`."""

    text: str
    values: dict[str, Any]


def publish(comparison: Comparison, grid: Grid, target: float | None = None) -> Published:
    """Summarize the finished cells, write the tables and the page, and return the result as text and values.

    Args:
        comparison: the result of `compare`.
        grid: the grid that was compared.
        target: held-out share of right answers to reach; None: that of the whole pool, else of `random`.
    """
    from filelock import FileLock

    results = comparison.results
    folder = comparison.directory.path / FOLDER
    summary = summarize(results, target=target, order=[policy.name for policy in grid.policies])
    config = comparison.directory.config
    planned = len(comparison.planned)
    page = StrategiesPage(
        title=config.report.title,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        model=config.model.name,
        summary=summary,
        planned=planned,
        device=_device(config),
        settings=_settings(config, comparison, grid),
        policies={policy.name: settings_text(policy, config) for policy in grid.policies},
        config_yaml=to_yaml(config),
    )
    # processes that share the work may write the page at the same moment
    with FileLock(folder / ".page.lock"):
        write_tables(summary, results, folder)
        save_grid(folder, results, config.annotate.cost_per_label)
        atomic_files.write_text(folder / "compare.html", render_comparison(page))
    values = {
        "run": str(comparison.directory.path),
        "cells": len(results),
        "waiting": comparison.waiting,
        **tables.as_json(summary),
        "page": str(folder / "compare.html"),
    }
    parts = [headline(summary), *(text(view(summary)) for view in (tables.scores, tables.learning))]
    if summary.differences:
        parts.append(text(tables.against(summary)))
    if comparison.waiting:
        busy = len(comparison.running)
        parts.append(
            f"{comparison.waiting} of {planned} cells are not done; other processes are working on {busy} of them. Run "
            "the same command again to continue."
        )
    parts.append(f"Tables, curves and tests: {folder / 'compare.html'} (and compare.md, cells.parquet)")
    return Published("\n\n".join(parts), values)


def write_tables(summary: Summary, cells: Sequence[CellResult], folder: Path) -> None:
    """Write compare.md, cells.parquet (one row per cell and measure) and summary.parquet to the folder."""
    atomic_files.write_text(folder / "compare.md", tables.markdown(summary))
    atomic_files.write_table(folder / "cells.parquet", tables.cells_table(cells))
    atomic_files.write_table(folder / "summary.parquet", tables.summary_table(summary))


def publish_progress(comparison: Comparison, grid: Grid, reporter: Reporter, target: float | None = None) -> None:
    """After a cell: report the state of the grid, and write the page with the results so far."""
    done = {(cell.policy, cell.budget, cell.seed): measured(cell)["held_out"] for cell in comparison.results}
    reporter.say("\n" + tables.progress_table(comparison.planned, done, comparison.running) + "\n")
    publish(comparison, grid, target)


def settings_text(policy: Policy, config: RunConfig) -> str:
    """A policy's settings that differ from the run's own, as `key=value`s."""
    if policy.name == FULL:
        return "every question of the pool"
    return " ".join(
        f"{name}={value}"
        for section in ("select", "finetune")
        for name, value in _changed(getattr(policy.config, section), getattr(config, section), section).items()
    )


def _changed(of_policy: BaseModel, of_run: BaseModel, section: str) -> Mapping[str, Any]:
    """The settings of a section that a policy changes; the strategy is always named."""
    unchanged = of_run.model_dump(mode="json")
    return {
        f"{section}.{name}": value
        for name, value in of_policy.model_dump(mode="json").items()
        if value != unchanged[name] or (section, name) == ("select", "strategy")
    }


def _settings(config: RunConfig, comparison: Comparison, grid: Grid) -> dict[str, str]:
    """The settings that all cells share, for the page."""
    counts = comparison.directory.stages["load"].counts
    tuning = config.finetune
    batch = tuning.batch_size * tuning.gradient_accumulation
    return {
        "Questions": (
            f"{config.questions.source}: {counts.get('pool', 0):,} in the pool, {counts.get('eval', 0):,} held out"
        ),
        "Budgets": _listed(sorted(set(grid.budgets))),
        "Seeds": _listed(grid.seeds),
        "Teaching": (
            f"LoRA rank {tuning.lora_rank}, {tuning.epochs} epochs, batch {batch}, "
            f"learning rate {tuning.learning_rate:g}"
        ),
        "Right": config.measure.correct.replace("_", " "),
    }


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)


def _device(config: RunConfig) -> str:
    from ka2l.models.loading import pick_device

    return pick_device(config.model)
