"""New questions out of hidden states, the whole way: decoder, candidates, filters, answers, teaching, report."""

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
from ka2l.augmentation.decoder import Decoder
from ka2l.common import atomic_files
from ka2l.common.answer_text import normalize_question
from ka2l.errors import DegenerateError, Ka2lError, WaitingForPeople
from ka2l.models.interface import Prompt
from ka2l.models.loading import load_causal_lm, resolve
from ka2l.pipeline.run import context_of, run, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.artifact_tables import read_signal
from ka2l.pipeline.shared.run_decoder import run_decoder
from ka2l.pipeline.shared.run_probe import read_probe
from places import HELPERS
from runs import WRITES, Ear, assert_same, content, questions_file, times, tiny_config
from tiny import TinyWorld
from tiny_t5 import build_tiny_t5

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
    found: list[dict[str, Any]] = atomic_files.read_table(directory.file("augmented.parquet")).to_pylist()
    return found


def kept(directory: RunDirectory) -> list[dict[str, Any]]:
    return [row for row in rows(directory) if row["kept"]]


def test_every_candidate_is_accounted_for(decoded: RunDirectory) -> None:
    record, found = decoded.stages["augment"], rows(decoded)
    bought = atomic_files.read_table(decoded.file("selection.parquet"))["question_id"].to_pylist()
    assert [(row["source_id"], row["sample"]) for row in found] == [
        (i, n) for i in bought for n in range(1, 7)
    ]
    dropped = sum(count for name, count in record.counts.items() if name.startswith("dropped_"))
    assert record.counts["candidates"] == len(found) == record.counts["kept"] + dropped
    assert record.counts["kept"] == len(kept(decoded)) > 0
    for row in found:
        assert row["kept"] == (row["reason"] == "")
        assert (row["noise"], row["temperature"], row["seed"]) == (0.3, 0.5, 0)


def test_what_is_kept_is_new_reads_as_a_question_and_is_still_unknown(decoded: RunDirectory) -> None:
    context = context_of(decoded, Ear())
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


def test_the_decoder_has_learned_from_the_state_the_probe_judges(decoded: RunDirectory) -> None:
    context = context_of(decoded, Ear())
    probe, _ = read_probe(context)
    ids, states = read_signal(decoded.file("decoder_states"), "state")
    questions = context.questions_by_id(set(ids))
    assert sorted(ids) == sorted(question.id for question in context.questions("decoder"))
    prompts = [Prompt(i, context.prompts.sensing(questions[i].question)) for i in ids[:3]]
    judged = context.prepared_model().states(prompts, None, position="tbg")[:, probe.layer]
    np.testing.assert_allclose(states[:3].astype(np.float32), judged, rtol=2e-3, atol=2e-3)
    card = atomic_files.read_json(decoded.file("decoder") / "decoder.json")
    assert (card["layer"], card["position"]) == (probe.layer, "tbg")
    assert card["sensing_hash"] == context.prompts.sensing_hash
    assert (card["trained_on"], card["validation"]) == (len(ids) - 4, 4)
    weights = sum(p.stat().st_size for p in decoded.file("decoder").iterdir())
    assert weights < 2_000_000  # the language model is not in it


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


def test_a_saved_decoder_says_the_same(decoded: RunDirectory, tmp_path: Path) -> None:
    made = run_decoder(context_of(decoded, Ear()))
    made.save_pretrained(tmp_path / "mine")
    loader = lambda: load_causal_lm(decoded.config.model, resolve(decoded.config.model))  # noqa: E731
    again = Decoder.from_pretrained(str(tmp_path / "mine"), model_loader=loader)
    states = np.stack([made.mean, made.mean + made.scale])
    said = [
        one.decode(states, ["a", "b"], [1, 2], noise=0.5, temperature=1.0, seed=3, max_new_tokens=12)
        for one in (made, again)
    ]
    assert said[0] == said[1]
    with pytest.raises(Ka2lError, match="Give model_loader"):  # the card has no path of this machine
        Decoder.from_pretrained(str(tmp_path / "mine"))


def test_a_decoder_of_another_state_is_refused(decoded: RunDirectory, tmp_path: Path) -> None:
    given = tmp_path / "decoder"
    shutil.copytree(decoded.file("decoder"), given)
    again = RunDirectory.open(decoded.path, [f"decoder.pretrained={given}"])
    mine, its = run_decoder(context_of(decoded, Ear())), run_decoder(context_of(again, Ear()))
    np.testing.assert_array_equal(mine.mean, its.mean)
    card = atomic_files.read_json(given / "decoder.json")
    for name, value in (("layer", card["layer"] - 1), ("position", "mean_prompt"), ("sensing_hash", "0")):
        atomic_files.write_json(given / "decoder.json", {**card, name: value})
        with pytest.raises(Ka2lError, match=str(given)) as caught:
            run_decoder(context_of(again, Ear()))
        assert str(value) in str(caught.value)


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


def test_the_page_needs_no_decoder_and_no_embeddings(
    ka2l: Cli, decoded: RunDirectory, tmp_path: Path
) -> None:
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


def test_a_given_probes_worked_examples_make_other_states(decoded: RunDirectory, tmp_path: Path) -> None:
    """The prompt comes with the probe: states read with other examples are not those it judges."""
    keys = []
    for shots in ("hash-1", "hash-2"):
        folder = tmp_path / shots
        shutil.copytree(decoded.file("probe"), folder)
        card = atomic_files.read_json(folder / "probe.json")
        atomic_files.write_json(folder / "probe.json", {**card, "sensing_hash": shots})
        given = RunDirectory.open(decoded.path, [f"map.probe={folder}"])
        keys.append(context_of(given, Ear()).keys())
    assert keys[0]["decoder_states"] != keys[1]["decoder_states"]


def test_a_given_decoder_takes_the_place_of_training(decoded: RunDirectory, tmp_path: Path) -> None:
    given, folder = tmp_path / "decoder", tmp_path / "run"
    shutil.copytree(decoded.file("decoder"), given)
    shutil.copytree(decoded.path, folder)
    settings = [f"decoder.pretrained={given}"]
    assert run_verb("augment", RunDirectory.open(folder, settings), Ear()) == ["candidates", "augment"]
    assert rows(RunDirectory.open(folder)) == rows(decoded)


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
        run_verb("augment", directory, Ear())
    monkeypatch.undo()
    before = directory.file("decoder/decoder.json").stat().st_mtime_ns
    run_verb("augment", directory, Ear())
    assert directory.file("decoder/decoder.json").stat().st_mtime_ns == before


def test_an_empty_kept_set_says_why_and_how_to_go_on(decoded: RunDirectory, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(decoded.path, folder)
    with pytest.raises(DegenerateError, match=r"None of the 24 decoded questions is left: .*near"):
        run_verb("augment", RunDirectory.open(folder, ["augment.near_copy=0.01"]), Ear())
    with pytest.raises(
        WaitingForPeople, match="4 of 4 selected questions wait"
    ):  # without new questions it goes on
        run(RunDirectory.open(folder, ["augment.per_question=0"]).config, folder, Ear())


def test_a_budget_takes_the_surest_unknown(decoded: RunDirectory, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(decoded.path, folder)
    run_verb("augment", RunDirectory.open(folder, ["augment.budget=1"]), Ear())
    (only,) = kept(RunDirectory.open(folder))
    assert only["p_unknown"] == max(row["p_unknown"] for row in kept(decoded))
    over = [row for row in rows(RunDirectory.open(folder)) if row["reason"] == "over_budget"]
    unknown = [row for row in rows(decoded) if row["reason"] in ("", "over_budget")]
    assert len(over) == len(unknown) - 1
    assert len(kept(decoded)) == min(len(unknown), 4)  # by default as many as were bought


def test_more_candidates_keep_the_first_ones(decoded: RunDirectory, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(decoded.path, folder)
    run_verb("augment", RunDirectory.open(folder, ["augment.per_question=2"]), Ear())
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
    script = HELPERS / "killed.py"
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


def test_a_t5_is_taught_without_the_language_model(
    decoded: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paper's decoder: whole in its folder, trained on stored states alone."""
    folder = tmp_path / "run"
    shutil.copytree(decoded.path, folder)
    build_tiny_t5(tmp_path / "t5")
    settings = [f"decoder.t5={tmp_path / 't5'}", "decoder.pseudo_tokens=4", "decoder.epochs=2"]
    directory = RunDirectory.open(folder, settings)

    def no_model(*_args: Any) -> Any:
        raise AssertionError("the language model has no part in this")

    monkeypatch.setattr("ka2l.pipeline.shared.run_decoder.load_causal_lm", no_model)
    with pytest.raises(
        DegenerateError, match="None of the 24 decoded questions is left"
    ):  # it has learned nothing yet
        run_verb("augment", directory, Ear())
    assert directory.stages["decoder"].facts["kind"] == "t5"
    made = run_decoder(context_of(directory, Ear()))
    assert made.card["base"] == "t5"  # no path of this machine
    states = np.tile(made.mean, (2, 1))
    one, two = made.decode(states, ["a", "b"], [1], noise=0.0, temperature=0.0, seed=0, max_new_tokens=6)
    assert one == two  # the same state says the same
