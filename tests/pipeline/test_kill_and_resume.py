"""`kill -9` at any moment, then the same command: the run ends like one that was never interrupted."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ka2l.common import atomic_files
from ka2l.config.recipes import load_config, to_yaml
from ka2l.errors import RunError
from ka2l.pipeline.run import run
from ka2l.pipeline.run_directory import RunDirectory
from places import HELPERS
from runs import RecordingReporter, assert_same, content, copy_of, questions_file, tiny_config
from tiny import TinyWorld

KILLED, DONE = -9, 0
SCRIPT = HELPERS / "killed_runs.py"


PLACES = [
    "after:config.yaml",  # before there is a manifest
    "before:manifest.json",
    "before:questions.parquet",
    "before:states/part-00000.safetensors",
    "after:states/part-00000.safetensors",  # states without their answers
    "step:sample:17",
    "before:answers/part-00001.parquet",
    "after:answers/part-00003.parquet",  # all parts, but the manifest does not know
    "after:entropy.parquet",  # without its threshold
    "after:probe/layers.parquet",
    "step:map:1",
    "before:pool_signals/states/part-00002.safetensors",
    "after:pool_signals/states/part-00003.safetensors",
    "before:knowledge_map.parquet",
    "before:pool_signals/embedding.npy",  # being gathered
    "after:pool_signals/embedding.npy",
    "after:pool_signals/ids.parquet",  # all that `map` writes, but its parts are there and the manifest does not know
    "step:signals:2",
    "after:pool_signals/top_probability.npy",
    "step:pool_answers:13",
    "before:pool_answers/part-00001.parquet",
    "after:pool_answers/part-00002.parquet",
    "before:pool_signals/semantic_entropy.npy",
    "step:finetune:1",
    "step:finetune:5",
    "step:finetune@semantic_entropy:3",
    "after:predictions/base-teaching.parquet",
    "after:predictions.parquet",
]


@pytest.fixture(scope="module")
def recipe(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    path = folder / "recipe.yaml"
    settings = ("select.strategy=entropy", "select.baseline=semantic_entropy")
    config = tiny_config(tiny_world, questions_file(tiny_world, folder), *settings)
    path.write_text(to_yaml(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def statuses(recipe: Path) -> dict[str, list[int]]:
    """How each child ended, for three runs of the same recipe: never, often and at random times killed."""
    seconds = [f"time:{random.uniform(0.05, 1.0):.2f}" for _ in range(4)]
    plan = {"uninterrupted": [""], "places": [*PLACES, ""], "times": [*seconds, ""]}
    named = json.dumps({str(recipe.parent / name): places for name, places in plan.items()})
    command = [sys.executable, str(SCRIPT), str(recipe), named]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert made.returncode == 0, made.stderr
    print("killed after", seconds, made.stderr)  # shown where a test fails
    return {Path(out).name: ended for out, ended in json.loads(made.stdout.splitlines()[-1]).items()}


@pytest.fixture(scope="module")
def uninterrupted(recipe: Path, statuses: dict[str, list[int]]) -> dict[str, Any]:
    assert statuses["uninterrupted"] == [DONE]
    return content(recipe.parent / "uninterrupted")


def test_killed_at_many_places_ends_like_the_uninterrupted_run(
    recipe: Path, uninterrupted: dict[str, Any], statuses: dict[str, list[int]]
) -> None:
    assert statuses["places"] == [KILLED] * len(PLACES) + [DONE]  # every place was really reached
    assert_same(content(recipe.parent / "places"), uninterrupted)
    assert not list((recipe.parent / "places").rglob(".*.tmp"))


def test_killed_at_random_times_ends_like_the_uninterrupted_run(
    recipe: Path, uninterrupted: dict[str, Any], statuses: dict[str, list[int]]
) -> None:
    assert statuses["times"][-1] == DONE
    assert_same(content(recipe.parent / "times"), uninterrupted)


def test_full_disk_keeps_the_parts_and_the_run_goes_on(
    recipe: Path, uninterrupted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, config, replace = tmp_path / "run", load_config(recipe), Path.replace

    def no_space(self: Path, target: Path) -> Path:
        if str(target).endswith("answers/part-00002.parquet"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(RunError, match=r"answers/part-00002\.parquet: the disk is full"):
        run(config, out, RecordingReporter())
    monkeypatch.undo()
    for number in range(2):
        assert atomic_files.read_table(out / f"answers/part-{number:05d}.parquet").num_rows == 12 * 5
        assert len(atomic_files.read_tensors(out / f"states/part-{number:05d}.safetensors")[0]) == 4
    run(config, out, RecordingReporter())
    assert_same(content(out), uninterrupted)


def test_deleted_states_are_made_again(finished: RunDirectory, tmp_path: Path) -> None:
    """States are by far the largest artifact; whoever deletes them must not get a broken or doubled run."""
    directory = copy_of(finished, tmp_path)
    shutil.rmtree(directory.file("states"))
    run(directory.config, directory.path, RecordingReporter())
    assert_same(content(directory.path), content(finished.path))


def test_deleted_artifact_is_made_again(finished: RunDirectory, tmp_path: Path) -> None:
    directory = copy_of(finished, tmp_path)
    directory.file("threshold.json").unlink()
    directory.file("predictions.parquet").unlink()
    run(directory.config, directory.path, RecordingReporter())
    assert_same(content(directory.path), content(finished.path))


def test_checkpoints_left_by_a_kill_after_training_go(finished: RunDirectory, tmp_path: Path) -> None:
    directory = copy_of(finished, tmp_path)
    for arm in ("main", "random"):
        atomic_files.write_text(directory.file("checkpoints", arm) / "checkpoint-2" / "optimizer.pt", "x")
    run(directory.config, directory.path, RecordingReporter())
    assert_same(content(directory.path), content(finished.path))
