"""The artifacts of Stage 1 on disk: answers, hidden states and pool signals, written and read in parts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ka2l import files
from ka2l.models.base import SampledQuestion
from ka2l.questions import Question

if TYPE_CHECKING:
    import pyarrow as pa

FIRST = 1  # the first of the N samples: every question that was asked has it


def answered(folder: Path, states: Path | None) -> dict[str, set[int]]:
    """Which samples of which questions the finished parts of answers hold.

    The first part of a question has its samples from 1 on, and its states if `states` is a folder; parts by which the
    number of samples grew later have none. A first part whose states somebody has deleted is removed: its questions
    are asked again, and counted once.
    """
    found: dict[str, set[int]] = {}
    for part in files.parts(folder, ".parquet"):
        table = files.read_table(part, ["question_id", "sample"]).to_pydict()
        if (
            states is not None
            and FIRST in table["sample"]
            and not (states / f"{part.stem}.safetensors").exists()
        ):
            files.remove(part)
            continue
        for question_id, number in zip(table["question_id"], table["sample"], strict=True):
            found.setdefault(question_id, set()).add(number)
    return found


def read_answers(folder: Path, n: int) -> dict[str, dict[int, dict[str, Any]]]:
    """Answers by question id and sample number, in order, up to sample `n`; sample 0 may be missing."""
    answers: dict[str, dict[int, dict[str, Any]]] = {}
    for part in files.parts(folder, ".parquet"):
        for row in files.read_table(part).to_pylist():
            if row["sample"] <= n:
                answers.setdefault(row["question_id"], {})[row["sample"]] = row
    return {question_id: dict(sorted(rows.items())) for question_id, rows in answers.items()}


def read_states(folder: Path, ids: Sequence[str]) -> NDArray[np.float32]:
    """States of these questions in this order, [questions, layers + 1, width]."""
    found: dict[str, NDArray[np.float32]] = {}
    for part in files.parts(folder, ".safetensors"):
        tensors, metadata = files.read_tensors(part)
        stacked = np.stack([tensors[name] for name in sorted(tensors)], axis=1)
        found.update(zip(json.loads(metadata["ids"]), stacked, strict=True))
    return np.stack([found[question_id] for question_id in ids])


def signal_ids(folder: Path) -> set[str]:
    """Ids in the finished parts of a pool signal."""
    ids: set[str] = set()
    for part in files.parts(folder, ".safetensors"):
        ids.update(json.loads(files.read_tensors_metadata(part)["ids"]))
    return ids


def read_signal(folder: Path, name: str) -> tuple[list[str], NDArray[Any]]:
    """One pool signal with its ids, in the order of the parts."""
    ids: list[str] = []
    arrays = []
    for part in files.parts(folder, ".safetensors"):
        tensors, metadata = files.read_tensors(part)
        ids += json.loads(metadata["ids"])
        arrays.append(tensors[name])
    return ids, np.concatenate(arrays)


def write_states(path: Path, rows: list[SampledQuestion]) -> None:
    """One part of states: a tensor [questions, width] per layer, ids in the metadata."""
    stacked = np.stack([row.states for row in rows if row.states is not None])
    tensors = {
        f"layer_{layer:03d}": np.ascontiguousarray(stacked[:, layer]) for layer in range(stacked.shape[1])
    }
    files.write_tensors(path, tensors, {"ids": json.dumps([row.question_id for row in rows])})


def answer_table(rows: list[SampledQuestion], numbers: Sequence[int]) -> "pa.Table":
    """One part of answers: a row per question and sample; sample 0 is the low-temperature one."""
    import pyarrow as pa

    records = [
        {"question_id": row.question_id, "sample": number, **answer._asdict()}
        for row in rows
        for number, answer in zip(numbers, row.answers, strict=True)
    ]
    schema = pa.schema(
        [
            ("question_id", pa.string()),
            ("sample", pa.int32()),
            ("text", pa.string()),
            ("token_logprobs", pa.list_(pa.float32())),
            ("finish_reason", pa.string()),
        ]
    )
    return pa.Table.from_pylist(records, schema=schema)


def write_signals(path: Path, chunk: list[Question], arrays: dict[str, NDArray[Any]]) -> None:
    """One part of pool signals: arrays whose rows follow the ids in the metadata."""
    files.write_tensors(path, arrays, {"ids": json.dumps([question.id for question in chunk])})


def write_map(folder: Path, target: Path) -> int:
    """Gather the parts' p_unknown into one Parquet file, one part in memory at a time; returns how many are unknown."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("question_id", pa.string()), ("p_unknown", pa.float32()), ("unknown", pa.bool_())])
    n_unknown = 0
    with (
        files.atomic(target) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for part in files.parts(folder, ".safetensors"):
            tensors, metadata = files.read_tensors(part)
            unknown = tensors["p_unknown"] >= 0.5
            n_unknown += int(unknown.sum())
            columns = [json.loads(metadata["ids"]), tensors["p_unknown"], unknown]
            writer.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], schema=schema))
    return n_unknown


def compact(embedding: NDArray[np.float32]) -> NDArray[Any]:
    """float16 where the range allows it: the embedding serves distances, not the probe."""
    return embedding.astype(np.float16) if np.abs(embedding).max() < 6e4 else embedding


def as_table(rows: list[dict[str, Any]]) -> "pa.Table":
    """Rows as a table, types inferred."""
    import pyarrow as pa

    return pa.Table.from_pylist(rows)
