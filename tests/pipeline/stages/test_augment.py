"""Decoded questions from decoder to report: candidates, filters, answers, fine-tuning."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from console import Cli, assert_refused
from decoded_run import kept, rows
from ka2l.common import atomic_files
from ka2l.common.answer_text import normalize_question
from ka2l.errors import DegenerateError, Ka2lError, WaitingForPeople
from ka2l.models.interface import Prompt
from ka2l.pipeline.run import context_of, run, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.run_probe import read_probe
from places import HELPERS
from runs import WRITES, RecordingReporter, assert_same, content, times
from tiny import TinyWorld


def test_every_candidate_is_accounted_for(decoded: RunDirectory) -> None:
    record, found = decoded.stages["augment"], rows(decoded)
    bought = atomic_files.read_table(decoded.file("selection.parquet"))["question_id"].to_pylist()
    assert [(row["source_id"], row["sample"]) for row in found] == [(i, n) for i in bought for n in range(1, 7)]
    dropped = sum(count for name, count in record.counts.items() if name.startswith("dropped_"))
    assert record.counts["candidates"] == len(found) == record.counts["kept"] + dropped
    assert record.counts["kept"] == len(kept(decoded)) > 0
    for row in found:
        assert row["kept"] == (row["reason"] == "")
        assert (row["noise"], row["temperature"], row["seed"]) == (0.3, 0.5, 0)


def test_what_is_kept_is_new_reads_as_a_question_and_is_still_unknown(decoded: RunDirectory) -> None:
    context = context_of(decoded, RecordingReporter())
    texts = {
        normalize_question(text)
        for question in context.questions_by_id().values()
        if question.role != "decoder"
        for text in (question.question, *question.rewordings)
    }
    prompts = [Prompt(row["id"], context.prompts.sensing(row["question"])) for row in kept(decoded)]
    probe, card = read_probe(context)
    states = context.prepared_model().states(prompts, probe.layer, position=card["position"])
    for row, p_unknown in zip(kept(decoded), probe.predict(states), strict=True):
        assert row["question"].endswith("?")
        assert normalize_question(row["question"]) not in texts
        assert row["p_unknown"] == pytest.approx(p_unknown, abs=1e-5)
        assert row["p_unknown"] >= 0.5
    assert len({normalize_question(row["question"]) for row in kept(decoded)}) == len(kept(decoded))


def test_nobody_gives_a_new_question_the_old_answer(ka2l: Cli, decoded: RunDirectory, tmp_path: Path) -> None:
    """People get the new questions without an answer; what they say is taught, evaluated apart and shown."""
    folder = tmp_path / "run"
    shutil.copytree(decoded.path, folder)
    sheet = tmp_path / "todo.csv"
    assert ka2l("annotate", folder, "--export", sheet).code == 0
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        waiting = list(csv.DictReader(file))
    new = {row["id"]: row["question"] for row in kept(decoded)}
    assert {row["question_id"]: row["question"] for row in waiting if row["question_id"] in new} == new
    assert len(waiting) == 4 + len(new)
    assert {row["answer"] for row in waiting} == {""}
    for place, row in enumerate(waiting):
        row["answer"] = "skip" if place == len(waiting) - 1 else f"Answer {place}"
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, waiting[0].keys())
        writer.writeheader()
        writer.writerows(waiting)
    assert ka2l("annotate", folder, "--import", sheet).code == 0
    result = ka2l("run", "--out", folder, "--json")
    assert result.code == 0, result.err
    directory = RunDirectory.open(folder)
    assert directory.stages["annotate"].counts == {
        "labels": 3 + len(new), "refused": 1, "decoded_labels": len(new) - 1, "decoded_refused": 1,
    }  # fmt: skip
    taught = atomic_files.read_table(directory.file("annotations.parquet")).to_pylist()
    assert {row["question_id"]: row["answer"] for row in taught} == {
        row["question_id"]: row["answer"] for row in waiting[:-1]
    }
    assert directory.stages["finetune"].counts["examples"] == len(taught)
    arm = atomic_files.read_json(directory.file("evaluation.json"))["arms"]["unknown"]
    assert (arm["labels"], arm["sets"]["decoded"]["n"], arm["sets"]["bought"]["n"]) == (
        len(taught), len(new) - 1, 4,
    )  # fmt: skip
    assert json.loads(result.out)["augment"]["kept"] == len(new)
    page = directory.file("report.html").read_text(encoding="utf-8")
    assert "New questions out of hidden states" in page
    assert next(iter(new.values())) in page


def test_a_sheet_outlives_the_questions_that_were_decoded_again(
    ka2l: Cli, decoded: RunDirectory, tmp_path: Path
) -> None:
    """The answers to what was bought are taken; rows nobody asks for any more are counted."""
    folder, sheet = tmp_path / "run", tmp_path / "todo.csv"
    shutil.copytree(decoded.path, folder)
    assert ka2l("annotate", folder, "--export", sheet).code == 0
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = [{**row, "answer": "An answer"} for row in csv.DictReader(file)]
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    assert ka2l("augment", folder, "augment.budget=1").code == 0
    result = ka2l("annotate", folder, "--import", sheet, "--json")
    assert result.code == 0, result.err
    gone = len(kept(decoded)) - 1
    assert json.loads(result.out) == {"answers": 5, "refused": 0, "no longer asked": gone, "still waiting": 0}


def test_a_wrong_setting_takes_nothing_that_is_there(
    ka2l: Cli, decoded: RunDirectory, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    folder, given = tmp_path / "run", tmp_path / "decoder"
    shutil.copytree(decoded.path, folder)
    shutil.copytree(decoded.file("decoder"), given)
    card = atomic_files.read_json(given / "decoder.json")
    atomic_files.write_json(given / "decoder.json", {**card, "layer": card["layer"] - 1})
    before = times(folder)
    wrong = {
        f"decoder.pretrained={given}": f"layer {card['layer'] - 1}",
        "decoder.pretrained=/nowhere": "decoder.pretrained: /nowhere: no such folder",
        "decoder.t5=/nowhere": "decoder.t5=/nowhere: no such T5",
        f"decoder.t5={tiny_world.folder}": "not an encoder-decoder",
        "augment.embedding_model=/nowhere": "augment.embedding_model=/nowhere",
    }
    for setting, message in wrong.items():
        assert_refused(ka2l("augment", folder, setting), message)
    assert times(folder) == before


def test_the_page_needs_no_decoder_and_no_embeddings(ka2l: Cli, decoded: RunDirectory, tmp_path: Path) -> None:
    """What was made elsewhere may be gone by the time somebody looks."""
    folder, given = tmp_path / "run", tmp_path / "decoder"
    shutil.copytree(decoded.path, folder)
    shutil.copytree(decoded.file("decoder"), given)
    card = atomic_files.read_json(given / "decoder.json")
    del card["quality"], card["trained_on"]  # of somebody who does not say
    atomic_files.write_json(given / "decoder.json", card)
    assert ka2l("augment", folder, f"decoder.pretrained={given}").code == 0
    shutil.rmtree(given)
    result = ka2l("report", folder)
    assert result.code == 0, result.err
    assert "New questions out of hidden states" in (folder / "report.html").read_text(encoding="utf-8")
    assert ka2l("annotate", folder, "--export", tmp_path / "todo.csv").code == 0


def test_a_bad_state_is_named_and_nothing_is_lost(
    decoded: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ka2l.models.local.local_model import LocalModel

    folder = tmp_path / "run"
    shutil.copytree(decoded.path, folder)
    directory = RunDirectory.open(folder, ["augment.noise=0.4"])
    bought = atomic_files.read_table(directory.file("selection.parquet"))["question_id"].to_pylist()
    whole = LocalModel.states

    def broken(self: Any, prompts: Any, *args: Any, **more: Any) -> Any:
        states = whole(self, prompts, *args, **more)
        states[1, 3] = np.nan
        return states

    monkeypatch.setattr(LocalModel, "states", broken)
    with pytest.raises(Ka2lError, match=f"question {bought[1]}: its hidden state holds NaN"):
        run_verb("augment", directory, RecordingReporter())
    monkeypatch.undo()
    before = directory.file("decoder/decoder.json").stat().st_mtime_ns
    run_verb("augment", directory, RecordingReporter())
    assert directory.file("decoder/decoder.json").stat().st_mtime_ns == before


def test_an_empty_kept_set_says_why_and_how_to_go_on(decoded: RunDirectory, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(decoded.path, folder)
    with pytest.raises(DegenerateError, match=r"None of the 24 decoded questions is left: .*near"):
        run_verb("augment", RunDirectory.open(folder, ["augment.near_copy=0.01"]), RecordingReporter())
    with pytest.raises(WaitingForPeople, match="4 of 4 selected questions wait"):  # without new questions it goes on
        run(RunDirectory.open(folder, ["augment.per_question=0"]).config, folder, RecordingReporter())


def test_a_budget_takes_the_surest_unknown(decoded: RunDirectory, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(decoded.path, folder)
    run_verb("augment", RunDirectory.open(folder, ["augment.budget=1"]), RecordingReporter())
    (only,) = kept(RunDirectory.open(folder))
    assert only["p_unknown"] == max(row["p_unknown"] for row in kept(decoded))
    over = [row for row in rows(RunDirectory.open(folder)) if row["reason"] == "over_budget"]
    unknown = [row for row in rows(decoded) if row["reason"] in ("", "over_budget")]
    assert len(over) == len(unknown) - 1
    assert len(kept(decoded)) == min(len(unknown), 4)  # by default as many as were bought


def test_more_candidates_keep_the_first_ones(decoded: RunDirectory, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(decoded.path, folder)
    run_verb("augment", RunDirectory.open(folder, ["augment.per_question=2"]), RecordingReporter())
    texts = {(row["source_id"], row["sample"]): row["question"] for row in rows(decoded)}
    for row in rows(RunDirectory.open(folder)):
        assert row["question"] == texts[row["source_id"], row["sample"]]


PLACES = [
    "after:decoder_states/part-00001.safetensors",
    "step:decoder:30",
    "before:decoder/decoder.json",
    "before:decoded/part-00000.parquet",
    "after:decoded/part-00000.parquet",
    "before:augmented.parquet",
]


def test_killed_at_many_places_ends_like_the_uninterrupted_run(decoded: RunDirectory, tmp_path: Path) -> None:
    script = HELPERS / "killed_runs.py"
    plan = json.dumps({str(tmp_path / "run"): [*PLACES, ""]})
    shutil.copytree(decoded.path, tmp_path / "run")
    for name in ("decoder_states", "decoder", "candidates", "augment"):
        for output in (written.path for written in WRITES[name]):
            atomic_files.remove(tmp_path / "run" / output)
    command = [sys.executable, str(script), str(decoded.path / "config.yaml"), plan]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert made.returncode == 0, made.stderr
    (ended,) = json.loads(made.stdout.splitlines()[-1]).values()
    assert ended[:-1] == [-9] * len(PLACES), made.stderr  # every place was really reached
    assert "WaitingForPeople" in made.stderr
    assert_same(content(tmp_path / "run"), content(decoded.path))


def test_the_command_says_what_it_needs(
    ka2l: Cli, finished: RunDirectory, decoded: RunDirectory, tmp_path: Path
) -> None:
    plain = tmp_path / "run"
    shutil.copytree(finished.path, plain)
    assert_refused(ka2l("augment", plain), "augment.per_question=0", "augment.per_question=8")
    result = ka2l("augment", plain, "augment.per_question=2", "annotate.annotator=file")
    assert_refused(result, "none has the role decoder")
    shown = ka2l("run", "--out", decoded.path, "--dry-run")
    assert shown.code == 0, shown.err
    for stage in ("decoder_states", "decoder", "candidates", "augment"):
        assert re.search(rf"^{stage} .*done before", shown.out, re.MULTILINE)
