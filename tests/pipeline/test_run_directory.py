"""The run directory: whole files or none, parts in order, and a manifest that never promises what is not there."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ka2l.common import atomic_files
from ka2l.config.recipes import load_config
from ka2l.config.run_config import RunConfig
from ka2l.errors import RunError
from ka2l.pipeline import run_directory
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import RunDirectory
from runs import WRITES, RecordingReporter


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def new_run(path: Path) -> RunDirectory:
    return RunDirectory.create(path, RunConfig())


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.txt"
    atomic_files.write_text(file, "old")
    with pytest.raises(ZeroDivisionError), atomic_files.atomic(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]
    assert file.read_text() == "old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_names_the_file_and_leaves_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(*((os, "fsync", full) if call == "fsync" else (Path, "replace", full)))
    with pytest.raises(RunError, match=r"b\.json: the disk is full.*same command again"):
        atomic_files.write_json(tmp_path / "b.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EACCES, "x"), False),
        # As raised by safetensors and by torch.save on a full file system.
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), True),
        (ValueError("something else"), False),
    ],
)
def test_full_disks_are_recognised(error: Exception, is_full: bool) -> None:
    assert atomic_files.is_disk_full(error) is is_full


def test_full_disk_inside_a_stage_is_a_run_error_and_the_stage_goes_on_later(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.raises(RunError, match="disk is full"), run.stage("sample", "k", {}, WRITES["sample"]):
        atomic_files.write_text(run.file("answers") / "part-00000.parquet", "x")
        full()
    again = RunDirectory.open(run.path)
    assert again.stages["sample"].state == "running"
    assert not again.is_done("sample", "k", WRITES["sample"])
    with again.stage("sample", "k", {}, WRITES["sample"]):
        assert len(atomic_files.parts(again.file("answers"), ".parquet")) == 1


def test_parts_come_in_order_and_count_on(tmp_path: Path) -> None:
    assert atomic_files.next_part(tmp_path, ".parquet").name == "part-00000.parquet"
    for number in (2, 0, 10, 1):
        (tmp_path / f"part-{number:05d}.parquet").touch()
    (tmp_path / ".part-00011.parquet.tmp").touch()  # what a killed writer leaves
    (tmp_path / "part-00012.safetensors").touch()
    assert [p.name[5:10] for p in atomic_files.parts(tmp_path, ".parquet")] == [
        "00000",
        "00001",
        "00002",
        "00010",
    ]
    assert atomic_files.next_part(tmp_path, ".parquet").name == "part-00011.parquet"


def test_tables_tensors_and_json_come_back_as_written(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "ü"], "values": [[1.5], []]})
    atomic_files.write_table(tmp_path / "t.parquet", table)
    assert atomic_files.read_table(tmp_path / "t.parquet").equals(table)
    assert atomic_files.read_table(tmp_path / "t.parquet", ["id"]).column_names == ["id"]
    arrays: dict[str, np.ndarray] = {
        "h": np.arange(6, dtype=np.float16).reshape(2, 3),
        "f": np.array([1e-30], np.float32),
    }
    atomic_files.write_tensors(tmp_path / "t.safetensors", arrays, {"ids": '["a"]'})
    back, metadata = atomic_files.read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"ids": '["a"]'} == atomic_files.read_tensors_metadata(tmp_path / "t.safetensors")
    assert {k: (v.dtype, v.tolist()) for k, v in back.items()} == {k: (v.dtype, v.tolist()) for k, v in arrays.items()}
    atomic_files.write_json(tmp_path / "t.json", {"a": [1, None, "ü"]})
    assert atomic_files.read_json(tmp_path / "t.json") == {"a": [1, None, "ü"]}
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_files.write_json(tmp_path / "t.json", {"a": float("nan")})
    assert atomic_files.read_json(tmp_path / "t.json") == {"a": [1, None, "ü"]}


def test_stage_of_another_key_starts_clean_and_of_the_same_key_goes_on(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    part = run.file("answers") / "part-00000.parquet"
    with pytest.raises(KeyboardInterrupt), run.stage("sample", "one", {}, WRITES["sample"]) as record:
        atomic_files.write_text(part, "x")
        record.tokens["prompt"] = 7
        raise KeyboardInterrupt
    with run.stage("sample", "one", {}, WRITES["sample"]) as record:
        assert part.exists()
        assert record.tokens == {"prompt": 7}
    with run.stage("sample", "two", {}, WRITES["sample"]) as record:
        assert not part.exists()
        assert record.tokens == {}


def test_crash_while_old_artifacts_are_removed_leaves_nothing_marked_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run")
    with run.stage("sample", "one", {}, WRITES["sample"]) as record:
        for name in ("answers/part-00000.parquet", "states/part-00000.safetensors"):
            atomic_files.write_text(run.file(name), "x")
        record.facts = {"samples": run.config.sample.n}
    assert run.is_done("sample", "one", WRITES["sample"])
    monkeypatch.setattr(atomic_files, "remove", full)
    with pytest.raises(OSError, match="space"), run.stage("sample", "two", {}, WRITES["sample"]):
        pass
    again = RunDirectory.open(run.path)
    assert not again.is_done("sample", "one", WRITES["sample"])  # half of it may be gone
    monkeypatch.undo()
    with again.stage("sample", "two", {}, WRITES["sample"]):
        assert not run.file("answers").exists()


def test_stage_is_done_only_while_all_its_artifacts_are_there(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with run.stage("measure", "k", {}, WRITES["measure"]):
        for name in ("entropy.parquet", "threshold.json"):
            atomic_files.write_text(run.file(name), "x")
    assert run.is_done("measure", "k", WRITES["measure"])
    assert not run.is_done("measure", "other", WRITES["measure"])
    run.file("threshold.json").unlink()
    assert not run.is_done("measure", "k", WRITES["measure"])


def test_sampling_is_done_only_with_enough_samples_and_all_its_parts(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    names = ["answers/part-00000.parquet", "answers/part-00001.parquet", "states/part-00000.safetensors"]
    with run.stage("sample", "k", {}, WRITES["sample"]) as record:
        for name in names:
            atomic_files.write_text(run.file(name), "x")
        record.facts = {"samples": 10, "parts": {"answers": 2, "states": 1}}

    def done_for(n: int) -> bool:
        wanted = RunDirectory(run.path, load_config(None, [f"sample.n={n}"]), run.stages)
        return context_of(wanted, RecordingReporter()).is_done("sample", "k")

    assert [done_for(n) for n in (5, 10, 11)] == [True, True, False]
    run.file(names[2]).unlink()
    assert not done_for(5)


def test_tidy_removes_what_a_kill_after_the_end_of_a_stage_left(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    for name in ("adapter/a.json", "checkpoints/checkpoint-1/c.json"):
        atomic_files.write_text(run.file(name), "x")
    run.tidy("finetune", WRITES["finetune"])
    assert run.file("adapter").exists()
    assert not run.file("checkpoints").exists()


def test_seconds_survive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(run_directory.time, "monotonic", lambda: now[0])
    run = new_run(tmp_path / "run")
    with run.stage("sample", "k", {}, WRITES["sample"]):
        now[0] += 5
        run.checkpoint("sample")
        killed_here = RunDirectory.open(run.path)
    with killed_here.stage("sample", "k", {}, WRITES["sample"]):
        now[0] += 2
    assert killed_here.stages["sample"].seconds == 7


def test_the_manifest_tells_speed_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(run_directory.time, "monotonic", lambda: now[0])
    run = new_run(tmp_path / "run")
    with run.stage("sample", "k", {}, WRITES["sample"]) as record:
        record.tokens = {"prompt": 300, "prompt_saved": 9999, "decoded": 100, "decoded_saved": 9999}
        now[0] += 4
    written = json.loads((run.path / "manifest.json").read_text())["stages"]["sample"]
    assert written["tokens_per_second"] == 100.0  # of what was computed, not of what was saved
    assert 20 < written["memory_mb"]["process"] < 100_000  # megabytes, whatever unit the system counts in


def test_run_killed_before_its_manifest_was_written_can_begin_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1")
    (folder / ".manifest.json.tmp").write_text("{")
    assert new_run(folder).stages == {}


def test_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="not empty and holds no run"):
        new_run(tmp_path)
    with pytest.raises(RunError, match="this is a file"):
        new_run(tmp_path / "thesis.tex")
    with pytest.raises(RunError, match="no run here"):
        RunDirectory.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # An older one, with settings that are gone since.
        ('{"format": 1, "ka2l": "0.1.0", "stages": {}}', r"made by KA2L 0\.1\.0 \(format 1\).*--out"),
        ('{"format": 99, "ka2l": "9.0", "stages": {}}', r"made by KA2L 9\.0 \(format 99\).*--out"),
        ('{"format": 3, "sta', "not a KA2L manifest"),
        ("", "not a KA2L manifest"),
        ("[]", "not a KA2L manifest"),
        ('{"format": 3}', "not a KA2L manifest"),
        ('{"format": 3, "stages": []}', "not a KA2L manifest"),
        ('{"format": 3, "stages": {"load": {"nonsense": 1}}}', "not a KA2L manifest"),
    ],
)
def test_foreign_and_damaged_manifests_are_refused(tmp_path: Path, text: str, message: str) -> None:
    # Another version's config.yaml holds keys this one does not know: the version must be told, not the key.
    (tmp_path / "config.yaml").write_text("unheard_of: 1")
    (tmp_path / "manifest.json").write_text(text)
    for attempt in (RunDirectory.open, lambda path: RunDirectory.create(path, RunConfig())):
        with pytest.raises(RunError, match=message):
            attempt(tmp_path)
    assert (tmp_path / "manifest.json").read_text() == text


def test_second_process_on_a_run_is_told_so(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    code = (
        "import sys, pathlib; from ka2l.config.run_config import RunConfig; from ka2l.pipeline.run_directory import "
        "RunDirectory\n"
        "with RunDirectory.create(pathlib.Path(sys.argv[1]), RunConfig()).locked(): pass"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with run.locked():
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another ka2l process is working on this run" in second.stderr
    assert subprocess.run(command, check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []  # neither the lock nor an empty run stays behind


def test_lock_reads_again_what_another_process_has_done(tmp_path: Path) -> None:
    late, early = new_run(tmp_path / "run"), new_run(tmp_path / "run")
    with early.locked(), early.stage("measure", "k", {}, WRITES["measure"]):
        pass
    with late.locked():
        assert late.stages["measure"].key == "k"


def test_failed_first_step_leaves_no_folders(tmp_path: Path) -> None:
    run = new_run(tmp_path / "a" / "b" / "run")
    with pytest.raises(ZeroDivisionError), run.locked():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_manifest_names_versions_and_seed(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with run.stage("measure", "k", {"sample": "s"}, WRITES["measure"]) as record:
        record.counts = {"questions": 3}
    stages = json.loads((run.path / "manifest.json").read_text())["stages"]
    assert stages["measure"]["inputs"] == {"sample": "s"}
    assert stages["measure"]["counts"] == {"questions": 3}
    assert {"ka2l", "torch", "transformers", "numpy"} <= stages["measure"]["versions"].keys()
