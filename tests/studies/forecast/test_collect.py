"""Points of a learning curve from files, runs and comparisons."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curve_data import RISING, points
from ka2l.common.atomic_files import write_json
from ka2l.config.run_config import RunConfig
from ka2l.errors import ConfigError, RunError
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.studies.comparison.cell_results import GRID, CellResult, Outcomes, load, save
from ka2l.studies.forecast.collect import collect


def test_the_base_model_is_every_strategys_first_point(tmp_path: Path) -> None:
    found = collect([points(tmp_path, RISING)]).points
    assert list(found) == ["unknown", "random"]
    for own in found.values():
        assert own.budgets.tolist() == [0, 100, 200, 400]
        assert own.scores[0] == 0.12
        assert own.repeats.tolist() == [0, 2, 2, 2]
        assert own.shared[0, 0] == pytest.approx(0.12 * 0.88 / 1500)
    np.testing.assert_allclose(found["random"].scores, [0.12, 0.24, 0.33, 0.42])


def outcomes(right: np.ndarray, base: np.ndarray) -> Outcomes:
    ids = [f"q{i}" for i in range(len(right))]
    zeros = np.zeros(len(right))
    return Outcomes(ids, ids, base, right, zeros, zeros, zeros, 0.0)


def write_comparison(folder: Path) -> np.ndarray:
    """Two policies at two budgets and the whole pool, two seeds; returns which questions the base model had right."""
    rng = np.random.default_rng(1)
    ease = rng.uniform(size=200)
    base = ease < 0.1
    levels = {("unknown", 50): 0.3, ("unknown", 100): 0.42, ("random", 50): 0.2, ("random", 100): 0.3}
    levels |= {("replayed", 50): 0.3, ("full", 400): 0.6}
    for (policy, budget), level in levels.items():
        for seed in range(2):
            held_out = outcomes(ease < level + 0.02 * seed, base)
            replayed = 20 if policy == "replayed" else 0
            sets = {"held_out": held_out, "pool": outcomes(np.ones(200, bool), base)}
            save(
                CellResult(policy, policy, budget, seed, budget - seed, replayed, 2.0 * budget, 1, 1, 1, sets),
                folder / "compare" / f"{policy}-{budget}-{seed}",
            )
    return base


def test_points_of_a_comparison(tmp_path: Path) -> None:
    base = write_comparison(tmp_path)
    found = collect([tmp_path])
    assert set(found.points) == {"unknown", "random", "replayed"}
    unknown = found.points["unknown"]
    assert unknown.budgets.tolist() == [0, 49.5, 99.5, 399.5]  # the whole pool belongs to all who only buy
    assert found.points["replayed"].budgets.tolist() == [0, 49.5]
    assert unknown.scores[0] == base.mean()
    assert unknown.repeats.tolist() == [0, 2, 2, 2]
    # three budgets of its own, two of random and one of replayed, two seeds each: six degrees of freedom
    assert unknown.spread.freedom == 6
    assert unknown.shared[1, 2] > 0
    assert found.price == pytest.approx(2.0, rel=0.01)
    assert collect([tmp_path], "pool").points["random"].scores[-1] == 1.0
    with pytest.raises(ConfigError, match=r"held_out, pool"):
        collect([tmp_path], "train")


def test_cells_of_another_base_model_are_refused(tmp_path: Path) -> None:
    base = write_comparison(tmp_path)
    other = {"held_out": outcomes(base, ~base)}
    save(CellResult("x", "x", 50, 0, 50, 0, 0.0, 1, 1, 1, other), tmp_path / "compare" / "x")
    with pytest.raises(RunError, match="do not start from the same base model"):
        collect([tmp_path])
    with pytest.raises(RunError, match="some cells were not evaluated on pool"):
        collect([tmp_path], "pool")
    other = {"held_out": outcomes(base[:-1], base[:-1])}
    save(CellResult("x", "x", 50, 0, 50, 0, 0.0, 1, 1, 1, other), tmp_path / "compare" / "x")
    with pytest.raises(RunError, match="not evaluated on the same held_out questions"):
        collect([tmp_path])


def write_run(folder: Path, labels: int, score: float, base: float = 0.2, seed: int = 0) -> Path:
    """A run that is nothing but an evaluation."""

    def scored(value: float) -> dict[str, object]:
        return {"exact_match": {"value": value, "low": value - 0.0392, "high": value + 0.0392, "n": 400}}

    difference = {
        "value": score - base,
        "low": score - base - 0.0392,
        "high": score - base + 0.0392,
        "n": 400,
    }
    held_out = {"n": 400, "base": scored(base), "tuned": scored(score), "difference": difference}
    arm = {"strategy": "unknown", "labels": labels, "cost": 3.0 * labels, "sets": {"held_out": held_out}}
    run = RunDirectory(folder, RunConfig(seed=seed), {})
    run.save_config()
    run._save_manifest()
    write_json(folder / "evaluation.json", {"correct": "exact_match", "arms": {"unknown": arm}})
    return folder


def test_points_of_several_runs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(n), n, 0.2 + n / 1000) for n in (100, 200)]
    runs.append(write_run(tmp_path / "again", 200, 0.44, seed=1))
    found = collect(runs)
    own = found.points["unknown"]
    assert own.budgets.tolist() == [0, 100, 200]
    np.testing.assert_allclose(own.scores, [0.2, 0.3, 0.42])
    assert own.repeats.tolist() == [0, 1, 2]
    # deviations of 0.02 all, and of their difference as well: correlation 1/2
    np.testing.assert_allclose(own.shared, 0.0004 * (0.5 + 0.5 * np.eye(3)), rtol=1e-6)
    assert found.price == 3.0
    other = write_run(tmp_path / "other", 400, 0.5, base=0.3)
    with pytest.raises(RunError, match=r"same base model.*scores 0\.200 of 400.*scores 0\.300 of 400"):
        collect([*runs, other])
    with pytest.raises(ConfigError, match="only a comparison has the score 'pool'"):
        collect(runs, "pool")
    with pytest.raises(ConfigError, match="All sources must be of one kind"):
        collect([runs[0], points(tmp_path, RISING)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="contains neither a comparison nor an evaluation"):
        collect([tmp_path / "empty"])


def test_the_whole_pool_is_no_point_of_a_policy_that_teaches_in_another_way(tmp_path: Path) -> None:
    write_comparison(tmp_path)
    for folder in (tmp_path / "compare").glob("random-*"):
        save(replace(load(folder), teaching="nine epochs"), folder)
    found = collect([tmp_path])
    assert found.points["unknown"].budgets.tolist() == [0, 49.5, 99.5, 399.5]
    assert found.points["random"].budgets.tolist() == [0, 49.5, 99.5]


def test_only_cells_of_the_last_grid_count(tmp_path: Path) -> None:
    """Those of other settings, or of policies that are no longer compared, may lie beside them."""
    write_comparison(tmp_path)
    cells = tmp_path / "compare" / "cells"
    cells.mkdir()
    for folder in (tmp_path / "compare").glob("*-*-*"):
        folder.rename(cells / folder.name)
    names = ["random-50-0", "random-50-1", "random-100-0"]
    write_json(tmp_path / "compare" / GRID, {"cells": names, "cost_per_label": 3.0})
    found = collect([tmp_path])
    assert found.price == 3.0
    assert set(found.points) == {"random"}
    assert found.points["random"].repeats.tolist() == [0, 2, 1]
