"""A comparison on the tiny world: every cell through, shared Stage 1, going on, sharing the work, and what it finds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from console import Cli, assert_refused, strict_json
from ka2l.common import atomic_files
from ka2l.common.answer_text import is_correct
from ka2l.config.recipes import override, to_yaml
from ka2l.config.run_config import RunConfig
from ka2l.errors import RunError
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run import run
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.studies.comparison.cell import OWN, Cell
from ka2l.studies.comparison.cell_results import CellResult, load
from ka2l.studies.comparison.policies import parse_policies
from ka2l.studies.comparison.publish import publish
from ka2l.studies.comparison.run_grid import Comparison, Grid, cell_plans, compare
from ka2l.studies.forecast.collect import collect
from places import HELPERS
from runs import RecordingReporter, questions_file, times, tiny_config
from tiny import TinyWorld

TEACH = (
    "finetune.epochs=8",
    "finetune.batch_size=3",
    "finetune.learning_rate=1e-2",
    "finetune.lora_rank=16",
    "finetune.save_steps=100",
)


@pytest.fixture(scope="module")
def config(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("compare-source")
    return tiny_config(tiny_world, questions_file(tiny_world, folder), *TEACH)


def grid_of(config: RunConfig, *strategies: str, budgets: tuple[int, ...] = (6,), seeds: int = 1, **named: str) -> Grid:
    texts = [f"{name}: {settings}" for name, settings in named.items()]
    return Grid(parse_policies(config, strategies, texts), budgets, range(seeds))


@pytest.fixture(scope="module")
def finished(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, RecordingReporter]:
    reporter = RecordingReporter()
    grid = grid_of(config, "unknown", "random", "full", seeds=2, replayed="select.strategy=unknown finetune.replay=0.5")
    return compare(config, tmp_path_factory.mktemp("compare") / "run", grid, reporter), reporter


def cell(comparison: Comparison, policy: str, seed: int = 0) -> CellResult:
    return next(row for row in comparison.results if (row.policy, row.seed) == (policy, seed))


def cells(comparison: Comparison) -> Path:
    return comparison.directory.path / "compare" / "cells"


def test_every_cell_is_there(finished: tuple[Comparison, RecordingReporter]) -> None:
    comparison, _ = finished
    pool = comparison.directory.stages["load"].counts["pool"]
    found = {(row.policy, row.budget, row.seed): row.labels for row in comparison.results}
    assert found == {
        **{(name, 6, seed): 6 for name in ("unknown", "random", "replayed") for seed in (0, 1)},
        **{("full", pool, seed): pool for seed in (0, 1)},
    }
    assert comparison.waiting == 0
    assert [load(cells(comparison) / f"{row.policy}-{row.budget}-{row.seed}").labels for row in comparison.results]


def test_all_cells_are_asked_the_same_fixed_questions(finished: tuple[Comparison, RecordingReporter]) -> None:
    comparison, _ = finished
    for name in ("held_out", "pool"):
        asked = {tuple(row.sets[name].ids) for row in comparison.results}
        before = {tuple(row.sets[name].before.tolist()) for row in comparison.results}
        assert len(asked) == len(before) == 1
    roles = {
        row["id"]: row["role"]
        for row in atomic_files.read_table(comparison.directory.file("questions.parquet")).to_pylist()
    }
    for row in comparison.results:
        assert {roles[i] for i in row.sets["held_out"].ids} == {"eval"}
        assert {roles[i] for i in row.sets["pool"].ids} == {"pool"}
        assert len(set(row.sets["bought"].ids)) == row.labels


def test_before_and_after_are_what_the_models_said(finished: tuple[Comparison, RecordingReporter]) -> None:
    """Recomputed from the predictions on disk, by id: positions are never taken for ids."""
    comparison, _ = finished
    questions = {
        row["id"]: row["answers"]
        for row in atomic_files.read_table(comparison.directory.file("questions.parquet")).to_pylist()
    }
    row = cell(comparison, "unknown")
    folder = cells(comparison) / "unknown-6-0"
    said = {
        (p["question_id"], p["wording"]): p["text"]
        for p in atomic_files.read_table(folder / "predictions.parquet").to_pylist()
    }
    for name in ("held_out", "pool", "bought"):
        outcomes = row.sets[name]
        right = [is_correct(said[i, 0], questions[i], "exact_match") for i in outcomes.ids]
        np.testing.assert_array_equal(outcomes.after, right)
    assert row.sets["bought"].after.sum() > row.sets["bought"].before.sum()  # it was taught, and that can be seen


def test_unknown_questions_are_what_the_model_had_wrong(
    finished: tuple[Comparison, RecordingReporter],
) -> None:
    comparison, _ = finished
    unknown, random = (cell(comparison, name).sets["bought"].before.mean() for name in ("unknown", "random"))
    assert unknown < random


def test_replay_teaches_known_questions_beside_and_buys_no_more(
    finished: tuple[Comparison, RecordingReporter],
) -> None:
    comparison, _ = finished
    plain, replayed = cell(comparison, "unknown"), cell(comparison, "replayed")
    assert (plain.replayed, replayed.replayed) == (0, 3)
    assert replayed.labels == plain.labels == 6
    assert replayed.sets["bought"].ids == plain.sets["bought"].ids


def test_seeds_repeat_the_choice_and_the_teaching(finished: tuple[Comparison, RecordingReporter]) -> None:
    comparison, _ = finished
    first, second = (cell(comparison, "random", seed).sets["bought"].ids for seed in (0, 1))
    assert set(first) != set(second)
    # Where the choice has nothing to draw, the teaching differs.
    assert cell(comparison, "unknown", 0).sets["bought"].ids == cell(comparison, "unknown", 1).sets["bought"].ids
    seeds = [RunDirectory.open(cells(comparison) / f"unknown-6-{seed}").config.finetune.seed for seed in (0, 1)]
    assert seeds == [0, 1]


def test_a_cell_learns_what_a_run_learns(
    config: RunConfig, finished: tuple[Comparison, RecordingReporter], tmp_path: Path
) -> None:
    """The same choice, teaching and answers as `ka2l run` with these settings."""
    comparison, _ = finished
    settings = ["select.budget=6", "select.baseline=null", "select.seed=0", "finetune.seed=0"]
    alone = run(override(config, settings), tmp_path / "run", RecordingReporter())
    bought = atomic_files.read_table(alone.file("selection.parquet"))["question_id"].to_pylist()
    row = cell(comparison, "unknown")
    assert list(row.sets["bought"].ids) == bought
    evaluation = atomic_files.read_json(alone.file("evaluation.json"))["arms"]["unknown"]
    assert evaluation["learned"]["learned"] == int((~row.sets["bought"].before & row.sets["bought"].after).sum())
    held = row.sets["held_out"]
    assert evaluation["forgotten"]["forgotten"] == int((held.before & ~held.after).sum())


def test_again_does_nothing_and_more_does_only_what_is_new(
    config: RunConfig, finished: tuple[Comparison, RecordingReporter]
) -> None:
    comparison, _ = finished
    before = times(cells(comparison))
    grid = grid_of(config, "unknown", "random", seeds=2)
    again = compare(config, comparison.directory.path, grid, RecordingReporter())
    assert [row.policy for row in again.results] == ["unknown", "random"] * 2
    assert times(cells(comparison)) == before


def test_stage_1_runs_once_and_the_run_keeps_its_own_settings(
    finished: tuple[Comparison, RecordingReporter],
) -> None:
    comparison, reporter = finished
    assert sum(line.startswith("sample") for line in reporter.messages) == 1
    assert sum(line.startswith("probe") for line in reporter.messages) == 1
    kept = RunDirectory.open(comparison.directory.path).config
    assert (kept.select.strategy, kept.select.budget, kept.finetune.replay) == ("unknown", 8, 0)


def test_adapters_go_once_a_cell_is_done(finished: tuple[Comparison, RecordingReporter]) -> None:
    comparison, _ = finished
    assert not list(cells(comparison).glob("*/adapter"))
    assert not list(cells(comparison).glob("*/checkpoints"))


def test_interrupted_anywhere_it_ends_the_same(
    config: RunConfig,
    finished: tuple[Comparison, RecordingReporter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped while teaching, and again before the answers are written: the same results, and no training twice."""
    from ka2l.studies.comparison import cell as cell_module
    from ka2l.teaching.finetuning import lora

    comparison, _ = finished
    grid, out = grid_of(config, "random"), tmp_path / "run"
    finetune = lora.finetune
    trained = []

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def counted(*arguments: Any, **options: Any) -> Any:
        trained.append(arguments)
        return finetune(*arguments, **options)

    for owner, name in ((lora, "finetune"), (cell_module, "answers_to")):
        with monkeypatch.context() as patch:
            patch.setattr(lora, "finetune", counted)
            patch.setattr(owner, name, stop)
            with pytest.raises(KeyboardInterrupt):
                compare(config, out, grid, RecordingReporter())
    monkeypatch.setattr(lora, "finetune", counted)
    (again,) = compare(config, out, grid, RecordingReporter()).results
    assert len(trained) == 1
    expected = cell(comparison, "random")
    for name, rows in again.sets.items():
        assert list(rows.ids) == list(expected.sets[name].ids)
        np.testing.assert_array_equal(rows.after, expected.sets[name].after)


def test_two_processes_share_the_cells(config: RunConfig, tmp_path: Path) -> None:
    """Each cell is done by one of them, and none twice."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(override(config, ["finetune.epochs=1"])), encoding="utf-8")
    out = tmp_path / "run"
    command = ["compare", str(recipe), "--strategies", "unknown,random", "--budgets", "4", "--seeds", "2"]
    command += ["--out", str(out), "--json"]
    script = [sys.executable, str(HELPERS / "commands_at_once.py"), str(tmp_path), json.dumps([command] * 2)]
    made = subprocess.run(script, capture_output=True, text=True, check=False, timeout=200)
    errors = [(tmp_path / f"{number}.err").read_text(encoding="utf-8") for number in range(2)]
    assert json.loads(made.stdout.splitlines()[-1]) == [0, 0], [made.stderr, *(err[-2000:] for err in errors)]
    worked = [line for err in errors for line in err.splitlines() if line.startswith("compare ")]
    assert len(worked) == len(set(worked)) == 4
    assert all((out / "compare" / "cells" / name / "cell.json").exists() for name in ("unknown-4-0", "random-4-1"))


def test_a_policy_that_means_something_else_now_is_done_again_and_that_is_said(
    config: RunConfig, finished: tuple[Comparison, RecordingReporter], tmp_path: Path
) -> None:
    comparison, _ = finished
    shutil.copytree(comparison.directory.path, tmp_path / "run")
    reporter = RecordingReporter()
    (changed,) = compare(
        config,
        tmp_path / "run",
        grid_of(config, replayed="select.strategy=random finetune.replay=0 finetune.epochs=1"),
        reporter,
    ).results
    assert (changed.strategy, changed.replayed) == ("random", 0)
    assert any("settings have changed since it was done" in line for line in reporter.messages)


def test_plans_begin_with_the_first_seed_of_all(config: RunConfig) -> None:
    plans = cell_plans(config, grid_of(config, "unknown", "full", budgets=(9, 4), seeds=2), pool=20)
    assert [plan.name for plan in plans] == [
        *("unknown-4-0", "unknown-9-0", "full-20-0"),
        *("unknown-4-1", "unknown-9-1", "full-20-1"),
    ]


def test_a_budget_of_the_whole_pool_is_refused_before_anything_is_asked(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--budgets 500: the pool has \d+ questions"):
        compare(config, tmp_path / "run", grid_of(config, "unknown", budgets=(4, 500)), RecordingReporter())
    assert list(RunDirectory.open(tmp_path / "run").stages) == ["load"]


def test_people_cannot_answer_a_comparison(config: RunConfig, tmp_path: Path) -> None:
    asking = override(config, ["annotate.annotator=file", "select.baseline=null"])
    with pytest.raises(RunError, match=r"annotate\.annotator=gold"):
        compare(asking, tmp_path / "run", grid_of(asking, "unknown"), RecordingReporter())
    assert not (tmp_path / "run").exists()


def test_nothing_is_compared_where_nothing_can_be_taught(config: RunConfig, tmp_path: Path) -> None:
    black_box = override(config, ["sample.engine=imported", "sample.states=none"])
    with pytest.raises(RunError, match="fine-tunes and evaluates, and that is not possible here"):
        compare(black_box, tmp_path / "run", grid_of(black_box, "unknown"), RecordingReporter())


def test_a_cell_takes_nothing_from_what_the_run_itself_has_chosen_and_taught(
    config: RunConfig, finished: tuple[Comparison, RecordingReporter], tmp_path: Path
) -> None:
    """The upstream run's own select and finetune are of the same name, and may be of the same key."""
    upstream = finished[0].directory
    upstream.stages |= {name: StageRecord("done", "k", seconds=900.0) for name in ("select", "finetune")}
    try:
        plan = cell_plans(config, grid_of(config, "unknown"), pool=29)[0]
        cell = Cell(upstream, tmp_path / plan.name, plan)
    finally:
        for name in ("select", "finetune"):
            del upstream.stages[name]
    assert not set(OWN) & set(cell.stages)
    assert "map" in cell.stages


def test_what_cells_do_not_read_does_not_train_them_again(
    config: RunConfig, finished: tuple[Comparison, RecordingReporter]
) -> None:
    comparison, _ = finished
    before = times(cells(comparison))
    dearer = override(config, ["evaluate.bootstrap=300", "annotate.cost_per_label=2.5", "select.baseline=known"])
    grid = grid_of(dearer, "unknown", seeds=2)
    again = compare(dearer, comparison.directory.path, grid, RecordingReporter())
    assert [row.cost for row in again.results] == [15.0, 15.0]
    publish(again, grid)
    assert collect([comparison.directory.path]).price == 2.5  # `ka2l plan` knows it too
    assert times(cells(comparison)) == before


def test_the_command(ka2l: Cli, finished: tuple[Comparison, RecordingReporter]) -> None:
    comparison, _ = finished
    out = comparison.directory.path
    arguments = [
        "compare",
        "--out",
        out,
        "--strategies",
        "unknown,random,full",
        "--budgets",
        "6",
        "--seeds",
        "2",
    ]
    shown = ka2l(*arguments, "-q")
    assert shown.code == 0, shown.err
    assert shown.err == ""
    for name in ("unknown", "random", "full"):
        assert name in shown.out
    values = strict_json(ka2l(*arguments, "-q", "--json").out)
    assert values["cells"] == 6
    for name in ("compare.md", "cells.parquet", "summary.parquet", "compare.html"):
        assert (out / "compare" / name).stat().st_size > 500
    assert json.dumps(values)
    for wrong in ("two", "0", "1,x"):
        assert_refused(ka2l(*arguments[:-2], "--seeds", wrong), f"--seeds '{wrong}'")
    assert_refused(ka2l(*arguments, "--policy", "x: sample.n=3"), "sample.n=3 cannot differ")
