"""A probe trained before maps a new pool: no question is asked N times, and what was trained for another model is
refused.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ka2l as package
from console import Cli, assert_refused
from ka2l.common.atomic_files import read_json, read_table
from ka2l.pipeline.run import run, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from runs import RecordingReporter, copy_of, times
from tiny import TinyWorld


@pytest.fixture
def pool(finished: RunDirectory, tmp_path: Path) -> Path:
    """The questions the finished run has mapped, as somebody else's file: other ids, no answers, no roles."""
    table = read_table(finished.file("questions.parquet")).to_pylist()
    rows = [{"id": f"new-{row['id']}", "question": row["question"]} for row in table if row["role"] == "pool"]
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def mapped(run_folder: Path) -> dict[str, float]:
    table = read_table(run_folder / "knowledge_map.parquet").to_pydict()
    return dict(zip(table["question_id"], table["p_unknown"], strict=True))


def test_a_new_pool_is_mapped_as_the_probes_own_run_would(
    ka2l: Cli, finished: RunDirectory, pool: Path, tmp_path: Path
) -> None:
    result = ka2l("map", tmp_path / "new", "--probe", finished.file("probe"), "--questions", pool, "--quiet")
    assert result.code == 0, result.err
    own, new = mapped(finished.path), mapped(tmp_path / "new")
    assert sorted(new) == sorted(f"new-{i}" for i in own)
    np.testing.assert_allclose([new[f"new-{i}"] for i in own], list(own.values()), atol=1e-4)
    stages = read_json(tmp_path / "new" / "manifest.json")["stages"]
    assert list(stages) == ["load", "map"]
    assert stages["map"]["facts"]["probe"]["kind"] == read_json(finished.file("probe") / "probe.json")["kind"]
    again = times(tmp_path / "new")
    assert ka2l("map", tmp_path / "new", "--quiet").code == 0  # the probe is part of the run now
    assert times(tmp_path / "new") == again


def test_what_stage_1_would_do_has_no_place_there(
    ka2l: Cli, finished: RunDirectory, pool: Path, tmp_path: Path
) -> None:
    ka2l("map", tmp_path / "new", "--probe", finished.file("probe"), "--questions", pool, "--quiet")
    assert_refused(ka2l("sample", tmp_path / "new"), "`sample` is not part of this run", "map.probe=")
    result = ka2l("check", "What is the capital of Nowhere?", "--run", tmp_path / "new", "--json")
    assert 0 <= json.loads(result.out)["p_unknown"] <= 1


def test_the_report_and_the_rest_of_the_run_do_without_stage_1(
    ka2l: Cli, finished: RunDirectory, pool: Path, tmp_path: Path
) -> None:
    ka2l("map", tmp_path / "new", "--probe", finished.file("probe"), "--questions", pool, "--quiet")
    assert ka2l("select", tmp_path / "new", "select.budget=3", "select.baseline=null", "--quiet").code == 0
    assert read_table(tmp_path / "new" / "selection.parquet").num_rows == 3
    assert ka2l("report", tmp_path / "new", "--quiet").code == 0
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "That probe was trained before" in page
    assert "How well can it be seen" not in page


def test_in_a_run_with_a_probe_of_its_own_only_the_map_is_made_anew(finished: RunDirectory, tmp_path: Path) -> None:
    other = tmp_path / "other"
    probe = package.Probe.from_pretrained(str(finished.file("probe")))
    weights = {**probe.weights, "bias": probe.weights["bias"] + np.float32(1)}
    changed: Any = package.Probe(probe.kind, probe.layer, weights, probe.target, probe.calibration, probe.card)
    changed.save_pretrained(other)
    directory = RunDirectory.open(copy_of(finished, tmp_path).path, [f"map.probe={other}"])
    before, old = times(directory.path), mapped(directory.path)
    run_verb("map", directory, RecordingReporter())
    after, new = times(directory.path), mapped(directory.path)
    assert [name for name in before if name.startswith(("answers", "states", "probe/", "entropy"))]
    for name in before:
        if name.startswith(("answers", "states", "probe/", "entropy", "questions")):
            assert after[name] == before[name], name
    assert all(abs(new[i] - old[i]) > 1e-3 for i in old)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"revision": "sha256-other"}, "trained with another model revision"),
        ({"sensing_hash": "0"}, "trained with another sensing prompt"),
        (
            {"prompt": {"instruction": "Speak!", "template": "plain", "shots": []}},
            "trained with another prompt.instruction",
        ),
    ],
    ids=["revision", "hash", "instruction"],
)
def test_another_model_or_prompt_is_refused(
    finished: RunDirectory, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "probe"
    shutil.copytree(finished.file("probe"), folder)
    card = read_json(folder / "probe.json") | change
    (folder / "probe.json").write_text(json.dumps(card), encoding="utf-8")
    directory = RunDirectory.open(copy_of(finished, tmp_path).path, [f"map.probe={folder}"])
    before = times(directory.path)
    with pytest.raises(package.Ka2lError, match=message):
        run_verb("map", directory, RecordingReporter())
    assert times(directory.path) == before


def test_the_same_model_in_another_folder_is_the_same(
    finished: RunDirectory, tiny_world: TinyWorld, pool: Path, tmp_path: Path, ka2l: Cli
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tiny_world.folder, moved)
    result = ka2l(
        "map",
        tmp_path / "new",
        f"model.name={moved}",
        "--probe",
        finished.file("probe"),
        "--questions",
        pool,
        "-q",
    )
    assert result.code == 0, result.err
    assert len(mapped(tmp_path / "new")) == len(mapped(finished.path))


def test_wrong_calls_say_what_to_do(ka2l: Cli, finished: RunDirectory, pool: Path, tmp_path: Path) -> None:
    assert_refused(ka2l("map", tmp_path / "new", "--questions", pool), "name it with --probe")
    assert_refused(
        ka2l("map", finished.path, "--probe", finished.file("probe"), "--questions", pool),
        "this run already has questions",
    )
    assert_refused(
        ka2l("map", tmp_path / "new", "--probe", finished.path, "--questions", pool),
        "holds no probe",
        f"Give {finished.path / 'probe'}",
    )
    assert not (tmp_path / "new").exists()


def test_teaching_goes_on_from_there(finished: RunDirectory, tmp_path: Path) -> None:
    """All of Stage 1 left out, from questions to the report."""
    values = finished.config.model_copy(
        update={"map": finished.config.map.model_copy(update={"probe": str(finished.file("probe"))})}
    )
    quick = values.model_copy(
        update={
            "select": values.select.model_copy(update={"baseline": None, "budget": 2}),
            "finetune": values.finetune.model_copy(update={"epochs": 1}),
        }
    )
    directory = run(quick, tmp_path / "new", RecordingReporter())
    assert list(directory.stages) == ["load", "map", "select", "annotate", "finetune", "evaluate", "report"]
    assert "arms" not in [path.name for path in directory.path.iterdir()]
