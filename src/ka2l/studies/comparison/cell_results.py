"""The result of one cell of a comparison: a policy, a budget and a seed, and every evaluated answer with its scores.

    save(result, folder); load(folder)     # cell.json and outcomes.parquet; a cell with a cell.json is complete

Plain values: the statistics, tables and figures of a comparison are pure functions over a list of these. This is the
only file of the statistics that reads and writes files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ka2l.common import atomic_files
from ka2l.errors import RunError

CELL, OUTCOMES = "cell.json", "outcomes.parquet"
GRID = "grid.json"  # the cells in the tables of a comparison, and the cost of a label
Place = tuple[str, int, int]  # policy, budget, seed
_TYPES: Mapping[str, type] = {
    "before": np.bool_,
    "after": np.bool_,
    "f1": np.float64,
    "rouge_l": np.float64,
    "meteor": np.float64,
}


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One evaluation set of one cell: a row per evaluated question, all columns in the same order.

    An id may be in several rows (the rewordings of a selected question).

    Attributes:
        ids: [rows].
        groups: [rows], the fact that each question asks for.
        before: [rows], whether the base model answers right.
        after: [rows], whether the tuned model answers right.
        f1: [rows], token F1 of the tuned model's answers, 0 to 1.
        rouge_l: [rows], likewise.
        meteor: [rows], likewise.
        bleu: corpus BLEU of the tuned model's answers, 0 to 1.

    Raises:
        ValueError: the lengths differ.
    """

    ids: Sequence[str]
    groups: Sequence[str]
    before: NDArray[np.bool_]
    after: NDArray[np.bool_]
    f1: NDArray[np.float64]
    rouge_l: NDArray[np.float64]
    meteor: NDArray[np.float64]
    bleu: float

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("ids", "groups", *_TYPES)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"outcomes of different lengths: {lengths}")


@dataclass(frozen=True, slots=True)
class CellResult:
    """One policy at one budget and seed.

    Attributes:
        policy: name in the tables: a strategy, a named policy, or "full" (the whole pool).
        strategy: the query strategy that the policy uses.
        budget: labels asked for.
        seed: number of the repetition.
        labels: labels obtained.
        replayed: known questions in the training data with the model's own answers; they need no label.
        cost: of the labels; 0 in a cell's file, see `priced`.
        select_seconds: time of the selection.
        finetune_seconds: time of the fine-tuning.
        evaluate_seconds: time of the evaluation.
        sets: held_out, pool (a fixed sample of the pool, the same in all cells, selected or not), bought and
            bought_reworded; a set may be empty or missing.
        teaching: equal for cells with the same fine-tuning settings.
    """

    policy: str
    strategy: str
    budget: int
    seed: int
    labels: int
    replayed: int
    cost: float
    select_seconds: float
    finetune_seconds: float
    evaluate_seconds: float
    sets: Mapping[str, Outcomes]
    teaching: str = ""


def cell_name(place: Place) -> str:
    """Folder of the cell at this place of the grid."""
    policy, budget, seed = place
    return f"{policy}-{budget}-{seed}"


def priced(result: CellResult, cost_per_label: float) -> CellResult:
    """The result with the cost of its labels, which a cell's file does not contain."""
    return replace(result, cost=result.labels * cost_per_label)


def save_grid(folder: Path, results: Sequence[CellResult], cost_per_label: float) -> None:
    """Write which cells under `folder`/cells belong to a comparison."""
    names = [cell_name((cell.policy, cell.budget, cell.seed)) for cell in results]
    atomic_files.write_json(folder / GRID, {"cells": names, "cost_per_label": cost_per_label})


def load_grid(folder: Path) -> list[CellResult]:
    """The cells that belong to a comparison, with costs; errors as `load`."""
    grid = atomic_files.read_json(folder / GRID)
    return [priced(load(folder / "cells" / name), grid["cost_per_label"]) for name in grid["cells"]]


def save(result: CellResult, folder: Path) -> None:
    """Write a cell; cell.json is written last, so a cell is either complete or not there."""
    import pyarrow as pa

    atomic_files.remove(folder / CELL)
    columns: dict[str, Any] = {
        "set": [name for name, rows in result.sets.items() for _ in rows.ids],
        "question_id": [id_ for rows in result.sets.values() for id_ in rows.ids],
        "group": [group for rows in result.sets.values() for group in rows.groups],
    }
    for name, dtype in _TYPES.items():
        parts: list[NDArray[Any]] = [np.asarray(getattr(rows, name), dtype=dtype) for rows in result.sets.values()]
        columns[name] = np.concatenate([*parts, np.empty(0, dtype=dtype)])
    text = dict.fromkeys(("set", "question_id", "group"), pa.string())
    atomic_files.write_table(
        folder / OUTCOMES,
        pa.table({name: pa.array(column, text.get(name)) for name, column in columns.items()}),
    )
    plain = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "sets"}
    plain["sets"] = {
        name: {"rows": len(rows.ids), "bleu": rows.bleu if math.isfinite(rows.bleu) else None}
        for name, rows in result.sets.items()
    }
    atomic_files.write_json(folder / CELL, plain)


def load(folder: Path) -> CellResult:
    """Read a cell back, exactly as it was saved.

    Raises:
        RunError: the cell is not finished, or its two files do not belong together.
    """
    if not (folder / CELL).is_file():
        raise RunError(f"{folder}: no {CELL}, so this cell is not finished. Run the same `ka2l compare` command again.")
    plain = atomic_files.read_json(folder / CELL)
    table = atomic_files.read_table(folder / OUTCOMES)
    lengths = {name: rows["rows"] for name, rows in plain["sets"].items()}
    names = [name for name, n in lengths.items() for _ in range(n)]
    if table["set"].to_pylist() != names:
        raise RunError(f"{folder}: {CELL} and {OUTCOMES} do not belong together. Delete the folder and run again.")
    sets, start = {}, 0
    for name, n in lengths.items():
        rows = table.slice(start, n)
        start += n
        bleu = plain["sets"][name]["bleu"]
        sets[name] = Outcomes(
            ids=rows["question_id"].to_pylist(),
            groups=rows["group"].to_pylist(),
            bleu=math.nan if bleu is None else float(bleu),
            **{column: rows[column].to_numpy().astype(dtype) for column, dtype in _TYPES.items()},
        )
    return CellResult(**{**plain, "sets": sets})
