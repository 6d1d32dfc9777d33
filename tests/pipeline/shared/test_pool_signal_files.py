"""The signals of the pool on disk: plain arrays that belong to the map, also in a run of format 3."""

from pathlib import Path

import numpy as np
import pytest

from ka2l.common import atomic_files
from ka2l.errors import RunError
from ka2l.pipeline.run import run
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.artifact_tables import write_signals
from ka2l.questions.question import Question
from pool_runs import POOL, signals
from runs import WRITES, RecordingReporter, assert_same, content, copy_of


def test_a_signal_no_stage_computes_is_named(finished: RunDirectory) -> None:
    with pytest.raises(RunError, match=r"class_probabilities is not there .*ka2l map"):
        signals(finished, "class_probabilities")


def test_a_map_of_another_pool_is_refused(finished: RunDirectory, tmp_path: Path) -> None:
    directory = copy_of(finished, tmp_path)
    table = atomic_files.read_table(directory.file("knowledge_map.parquet"))
    atomic_files.write_table(directory.file("knowledge_map.parquet"), table.slice(1))
    with pytest.raises(RunError, match="hold different questions"):
        signals(directory, "p_unknown")


def test_a_run_of_format_3_is_gathered_and_nothing_asked_again(finished: RunDirectory, tmp_path: Path) -> None:
    """Its signals lie in parts in the order of the pool, and its manifest counts them."""
    directory = copy_of(finished, tmp_path)
    embedding, ids = (directory.file(f"pool_signals/{name}") for name in ("embedding.npy", "ids.parquet"))
    row_of = {i: row for row, i in enumerate(atomic_files.read_table(ids)["question_id"].to_pylist())}
    table = atomic_files.read_table(directory.file("knowledge_map.parquet")).to_pydict()
    rows, folder = np.load(embedding), directory.file("pool_signals/states")
    for start in range(0, POOL, 9):
        chunk = [Question(i, "?", (), role="pool") for i in table["question_id"][start : start + 9]]
        p_unknown = np.float32(table["p_unknown"][start : start + 9])
        arrays = {"p_unknown": p_unknown, "embedding": rows[[row_of[one.id] for one in chunk]]}
        write_signals(atomic_files.next_part(folder, ".safetensors"), chunk, arrays)
    embedding.unlink()
    ids.unlink()
    manifest = atomic_files.read_json(directory.file("manifest.json")) | {"format": 3}
    manifest["stages"]["map"]["facts"] = {"parts": {"pool_signals/states": 4}}
    atomic_files.write_json(directory.file("manifest.json"), manifest)
    run(directory.config, directory.path, RecordingReporter())
    assert_same(content(directory.path), content(finished.path))
    again = atomic_files.read_json(directory.file("manifest.json"))
    assert again["format"] == 4
    assert again["stages"]["map"]["tokens"] == manifest["stages"]["map"]["tokens"]


def test_arrays_are_plain_files_without_a_pickle(finished: RunDirectory) -> None:
    assert [w.working for w in WRITES["map"] if w.path == "pool_signals/states"] == [True]
    assert not finished.file("pool_signals/states").exists()
    array = np.load(finished.file("pool_signals/embedding.npy"), mmap_mode="r", allow_pickle=False)
    assert array.shape == (POOL, 64)
    assert array.flags.c_contiguous
