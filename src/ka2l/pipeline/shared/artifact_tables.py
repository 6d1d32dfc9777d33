"""Reading and writing the artifacts of Stage 1: answers, hidden states and pool signals, in parts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ka2l.common import atomic_files
from ka2l.common.unknown_from import UNKNOWN_FROM
from ka2l.models.interface import SampledQuestion
from ka2l.questions.question import Question

if TYPE_CHECKING:
    import pyarrow as pa


# The first of the N samples. The hidden states of a question are computed together with it.
FIRST = 1
# The answers to one question by the number of the sample, in order.
Answers = dict[int, dict[str, Any]]


def finished_samples(folder: Path, states: Path | None) -> dict[str, set[int]]:
    """The numbers of the samples that the finished parts of answers contain, by question id.

    The first part of a question has its samples from 1 on, and its states if `states` is a folder. Parts that were
    added when the number of samples grew have no states. If the states of a first part were deleted, that part of
    answers is removed too, so that its questions are sampled again and counted once.
    """
    numbers_of: dict[str, set[int]] = {}
    for part in atomic_files.parts(folder, ".parquet"):
        table = atomic_files.read_table(part, ["question_id", "sample"]).to_pydict()
        if states is not None and FIRST in table["sample"] and not (states / f"{part.stem}.safetensors").exists():
            atomic_files.remove(part)
            continue
        for question_id, number in zip(table["question_id"], table["sample"], strict=True):
            numbers_of.setdefault(question_id, set()).add(number)
    return numbers_of


def read_answers(folder: Path, n: int) -> dict[str, Answers]:
    """Answers by question id and sample number, in order, up to sample `n`; sample 0 may be missing."""
    return {i: rows for batch in answer_batches(folder, n) for i, rows in batch.items()}


def answer_batches(folder: Path, n: int) -> Iterator[dict[str, Answers]]:
    """As `read_answers`, in batches: the questions that begin in one part, with the samples of later parts."""
    parts = atomic_files.parts(folder, ".parquet")
    # The parts each question is in.
    parts_of: dict[str, list[int]] = {}
    for number, part in enumerate(parts):
        for question_id in dict.fromkeys(atomic_files.read_table(part, ["question_id"])["question_id"].to_pylist()):
            parts_of.setdefault(question_id, []).append(number)
    # The questions by the first part they are in.
    batches: dict[int, list[str]] = {}
    for question_id, numbers in parts_of.items():
        batches.setdefault(numbers[0], []).append(question_id)
    for ids in batches.values():
        answers: dict[str, Answers] = {question_id: {} for question_id in ids}
        for number in sorted({number for question_id in ids for number in parts_of[question_id]}):
            for row in atomic_files.read_table(parts[number]).to_pylist():
                if row["sample"] <= n and row["question_id"] in answers:
                    answers[row["question_id"]][row["sample"]] = row
        yield {question_id: dict(sorted(rows.items())) for question_id, rows in answers.items() if rows}


def read_states(folder: Path, ids: Sequence[str], layers: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Hidden states of these questions in this order, [questions, layers, width].

    Args:
        folder: of the parts.
        ids: of the questions.
        layers: numbers of the layers, ascending; no other layer is read from disk. None: all of them.
    """
    wanted = set(ids)
    names = None if layers is None else [_layer_name(layer) for layer in layers]
    state_of: dict[str, NDArray[np.float32]] = {}
    for part in atomic_files.parts(folder, ".safetensors"):
        tensors, metadata = atomic_files.read_tensors(part, names)
        part_ids = json.loads(metadata["ids"])
        rows = [row for row, question_id in enumerate(part_ids) if question_id in wanted]
        if len(rows) < len(part_ids):
            tensors = {name: tensor[rows] for name, tensor in tensors.items()}
        stacked = np.stack([tensors[name] for name in sorted(tensors)], axis=1)
        state_of.update(zip((part_ids[row] for row in rows), stacked, strict=True))
    return np.stack([state_of[question_id] for question_id in ids])


def _layer_name(layer: int) -> str:
    return f"layer_{layer:03d}"


def signal_ids(folder: Path) -> set[str]:
    """The question ids in the finished parts of a pool signal."""
    ids: set[str] = set()
    for part in atomic_files.parts(folder, ".safetensors"):
        ids.update(json.loads(atomic_files.read_tensors_metadata(part)["ids"]))
    return ids


def read_signal(folder: Path, name: str) -> tuple[list[str], NDArray[Any]]:
    """One pool signal with its ids, in the order of the parts."""
    ids: list[str] = []
    arrays = []
    for part in atomic_files.parts(folder, ".safetensors"):
        tensors, metadata = atomic_files.read_tensors(part)
        ids += json.loads(metadata["ids"])
        arrays.append(tensors[name])
    return ids, np.concatenate(arrays)


def write_states(path: Path, rows: list[SampledQuestion]) -> None:
    """Write one part of states: a tensor [questions, width] per layer, with the ids in the metadata."""
    stacked = np.stack([row.states for row in rows if row.states is not None])
    tensors = {_layer_name(layer): np.ascontiguousarray(stacked[:, layer]) for layer in range(stacked.shape[1])}
    atomic_files.write_tensors(path, tensors, {"ids": json.dumps([row.question_id for row in rows])})


def answer_table(rows: list[SampledQuestion], numbers: Sequence[int]) -> "pa.Table":
    """One part of answers as a table: a row per question and sample; sample 0 is the low-temperature one."""
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
    """Write one part of pool signals: arrays whose rows are in the order of the ids in the metadata."""
    atomic_files.write_tensors(path, arrays, {"ids": json.dumps([question.id for question in chunk])})


def gather(folder: Path, targets: Mapping[str, Path]) -> list[str]:
    """Merge the parts of pool signals into one .npy file per name, rows sorted by id; returns the ids in this order.

    One part is in memory at a time. If one part needed float32 for its range, the whole array is float32.
    """
    parts = atomic_files.parts(folder, ".safetensors")
    ids_of = [json.loads(atomic_files.read_tensors_metadata(part)["ids"]) for part in parts]
    ids = sorted(question_id for ids in ids_of for question_id in ids)
    row_of = {question_id: row for row, question_id in enumerate(ids)}
    for name, target in targets.items():
        forms = [atomic_files.tensor_form(part, name) for part in parts]
        widest = forms[0].astype(np.result_type(*forms))
        with atomic_files.array_of_rows(target, len(ids), widest) as write:
            for part, of_part in zip(parts, ids_of, strict=True):
                write([row_of[i] for i in of_part], atomic_files.read_tensors(part)[0][name])
    return ids


def save_signal(path: Path, ids: Sequence[str], values: NDArray[Any]) -> None:
    """Write a whole signal, [questions], to an .npy file, rows sorted by id."""
    order = np.argsort(np.asarray(ids, dtype=str), kind="stable")
    with atomic_files.array_of_rows(path, len(values), values[:0]) as write:
        write(range(len(values)), values[order])


def write_map(folder: Path, target: Path) -> int:
    """Merge the parts' p_unknown into one Parquet file, one part in memory at a time; returns how many are unknown."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("question_id", pa.string()), ("p_unknown", pa.float32()), ("unknown", pa.bool_())])
    n_unknown = 0
    with (
        atomic_files.atomic(target) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for part in atomic_files.parts(folder, ".safetensors"):
            tensors, metadata = atomic_files.read_tensors(part)
            unknown = tensors["p_unknown"] >= UNKNOWN_FROM
            n_unknown += int(unknown.sum())
            columns = [json.loads(metadata["ids"]), tensors["p_unknown"], unknown]
            writer.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], schema=schema))
    return n_unknown


def compact(embedding: NDArray[np.float32]) -> NDArray[Any]:
    """The embedding as float16 if its range allows it: it is used for distances, not by the probe."""
    return embedding.astype(np.float16) if np.abs(embedding).max() < 6e4 else embedding


def id_table(ids: Sequence[str]) -> "pa.Table":
    """Ids of questions as a table."""
    import pyarrow as pa

    return pa.table({"question_id": pa.array(ids, pa.string())})


def as_table(rows: list[dict[str, Any]]) -> "pa.Table":
    """Rows as a table, types inferred."""
    import pyarrow as pa

    return pa.Table.from_pylist(rows)
