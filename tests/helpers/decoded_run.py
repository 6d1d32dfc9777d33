"""A run with decoded questions, made once per session, and the rows of its candidates."""

from pathlib import Path
from typing import Any

import pytest

from built_once import built_once
from ka2l.common import atomic_files
from ka2l.errors import WaitingForPeople
from ka2l.pipeline.run import run
from ka2l.pipeline.run_directory import RunDirectory
from runs import RecordingReporter, questions_file, tiny_config
from tiny import TinyWorld

# A tiny decoder that says what it was taught: many small steps, low noise.
DECODER = (
    "validation=4",
    "epochs=80",
    "batch_tokens=40",
    "learning_rate=4e-3",
    "soft_tokens=4",
    "lora_rank=8",
    "patience=50",
    "eval_steps=400",
)
AUGMENT = ("per_question=6", "noise=0.3", "temperature=0.5", "max_new_tokens=20", "near_copy=0.99")


def settings(*more: str) -> list[str]:
    return [
        "questions.roles={probe: 0.35, pool: 0.2, eval: 0.1, decoder: 0.35}",
        "annotate.annotator=file",
        "select.budget=4",
        "evaluate.unbought=4",
        *(f"decoder.{setting}" for setting in DECODER),
        *(f"augment.{setting}" for setting in AUGMENT),
        *more,
    ]


def make_decoded_run(world: TinyWorld, folder: Path) -> None:
    config = tiny_config(world, questions_file(world, folder), *settings())
    with pytest.raises(WaitingForPeople, match="wait for an answer"):
        run(config, folder / "run", RecordingReporter())


@pytest.fixture(scope="session")
def decoded(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that waits for people to answer the selected and the decoded questions: read it, or change a copy."""
    import torch

    torch.set_num_threads(1)
    folder = built_once(tmp_path_factory, "decoded", lambda folder: make_decoded_run(tiny_world, folder))
    return RunDirectory.open(folder / "run")


def rows(directory: RunDirectory) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = atomic_files.read_table(directory.file("augmented.parquet")).to_pylist()
    return found


def kept(directory: RunDirectory) -> list[dict[str, Any]]:
    return [row for row in rows(directory) if row["kept"]]
