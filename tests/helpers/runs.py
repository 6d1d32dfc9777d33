"""Runs on the tiny world: their configuration, one finished run for all tests, and how two runs are compared."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from built_once import built_once
from ka2l.common.atomic_files import read_json, read_table, read_tensors
from ka2l.common.progress import Reporter
from ka2l.config.recipes import load_config
from ka2l.config.run_config import RunConfig
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.stage_list import STAGES
from tiny import TinyWorld, write_questions

BUDGET = 8
# What each stage writes, by its name.
WRITES = {stage.name: stage.writes for stage in STAGES}


class RecordingReporter(Reporter):
    """A reporter that keeps its messages."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.messages: list[str] = []

    def say(self, text: str) -> None:
        self.messages.append(text)


def tiny_values(world: TinyWorld, source: Path) -> dict[str, Any]:
    """A recipe as plain values: everything small, with several parts per stage for tests of interruptions."""
    return {
        "model": {"name": str(world.folder), "device": "cpu", "threads": 1},
        "prompt": {"shots": 2},
        "questions": {"source": str(source), "roles": {"probe": 0.45, "pool": 0.35, "eval": 0.2}},
        "sample": {"n": 4, "max_new_tokens": 8, "part_size": 12},
        "map": {"part_size": 9},
        "probe": {"mlp_width": 8, "mlp_epochs": 3, "bootstrap": 100},
        "select": {"strategy": "unknown", "budget": BUDGET},
        "finetune": {
            "lora_rank": 4,
            "lora_alpha": 16,
            "learning_rate": 1e-2,
            "epochs": 2,
            "batch_size": 2,
            "gradient_accumulation": 1,
            "save_steps": 2,
            "replay": 0.0,
        },
        "evaluate": {"max_new_tokens": 8, "bootstrap": 100, "unbought": 10},
    }


def tiny_config(world: TinyWorld, source: Path, *overrides: str) -> RunConfig:
    return load_config(None, overrides, tiny_values(world, source))


def questions_file(world: TinyWorld, folder: Path) -> Path:
    path = folder / "questions.jsonl"
    write_questions(world, path)
    return path


def make_finished_run(world: TinyWorld, folder: Path) -> RunDirectory:
    """A complete run with enough training to learn the selected facts, and a recipe.yaml beside it."""
    from ka2l.config.recipes import to_yaml
    from ka2l.pipeline.run import run

    teach = ("epochs=30", "learning_rate=5e-3", "lora_rank=32", "lora_alpha=32", "save_steps=100")
    overrides = [f"finetune.{setting}" for setting in teach]
    config = tiny_config(world, questions_file(world, folder), *overrides)
    (folder / "recipe.yaml").write_text(to_yaml(config), encoding="utf-8")
    return run(config, folder / "run", RecordingReporter())


def copy_of(finished: RunDirectory, folder: Path) -> RunDirectory:
    """A copy that a test may change, with the same file times."""
    shutil.copytree(finished.path, folder / "run")
    return RunDirectory.open(folder / "run")


def content(run: Path) -> dict[str, Any]:
    """Everything that must be equal after an interruption, by file name; tensors as bytes."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(file.relative_to(run))
        if file.name in ("config.yaml", "report.html", "manifest.json"):
            continue
        if file.suffix == ".parquet":
            found[name] = read_table(file).to_pydict()
        elif file.suffix == ".safetensors":
            tensors, metadata = read_tensors(file)
            values = {key: (array.shape, str(array.dtype), array.tobytes()) for key, array in tensors.items()}
            found[name] = (values, metadata)
        elif file.suffix == ".json":
            found[name] = read_json(file)
        else:
            found[name] = file.read_bytes()
    found["stages"] = {
        name: (record["state"], record["key"], record["inputs"], record["counts"], record["facts"])
        for name, record in read_json(run / "manifest.json")["stages"].items()
        if name != "report"
    }
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Check that the artifacts are equal; the message names those that differ instead of printing them."""
    assert one.keys() == other.keys()
    differing = [name for name in one if one[name] != other[name]]
    assert differing == []


def times(run: Path) -> dict[str, int]:
    """When each file of a run was last written."""
    return {str(p.relative_to(run)): p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def finished(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """One finished run for all tests: read it only, and pass a `copy_of` it to whatever writes or locks it."""
    import torch

    torch.set_num_threads(1)
    folder = built_once(tmp_path_factory, "finished", lambda folder: make_finished_run(tiny_world, folder))
    return RunDirectory.open(folder / "run")
