"""New questions out of hidden states, the whole way: decoder, candidates, filters, answers, teaching, report."""

from typing import Any

import pytest

from ka2l import files
from ka2l.errors import WaitingForPeople
from ka2l.pipeline import run
from ka2l.store import RunDirectory
from runs import Ear, questions_file, tiny_config
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
AUGMENT = ("per_question=6", "noise=0.3", "temperature=1.0", "max_new_tokens=20", "near_copy=0.99")


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


@pytest.fixture(scope="module")
def decoded(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run that waits for people to answer what was bought and what was decoded."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("decoded")
    config = tiny_config(tiny_world, questions_file(tiny_world, folder), *settings())
    with pytest.raises(WaitingForPeople, match="wait for an answer"):
        run(config, folder / "run", Ear())
    return RunDirectory.open(folder / "run")


def rows(directory: RunDirectory) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = files.read_table(directory.file("augmented.parquet")).to_pylist()
    return found


def test_look(decoded: RunDirectory) -> None:
    for row in rows(decoded):
        print(row["source_id"], row["question"], row["reason"], row["p_unknown"])
    print(decoded.stages["augment"].counts, decoded.stages["decoder"])
