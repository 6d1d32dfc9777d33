"""The whole loop on a tiny model that truly knows half of its world: does it find and teach the other half?"""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from ka2l.cli.run_summary import summary
from ka2l.common.answer_text import normalize_question
from ka2l.common.atomic_files import parts, read_json, read_table, read_tensors
from ka2l.config.recipes import load_config
from ka2l.errors import DegenerateError, RunError, WaitingForPeople
from ka2l.knowledge.uncertainty.semantic_clusters import Pair
from ka2l.models.judges.kept_judgements import Judged
from ka2l.pipeline.commands.answer_sheets import export_sheet, import_sheet
from ka2l.pipeline.commands.check_question import check_question
from ka2l.pipeline.run import run, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from runs import BUDGET, RecordingReporter, copy_of, questions_file, times, tiny_config, tiny_values
from tiny import TinyWorld

TABLES = {
    "questions.parquet": {"id", "question", "answers", "role", "group", "meta"},
    "answers/part-00000.parquet": {"question_id", "sample", "text", "token_logprobs", "finish_reason"},
    "entropy.parquet": {
        "question_id",
        "semantic_entropy",
        "cluster_ids",
        "n_clusters",
        "negative_log_likelihood",
        "predictive_entropy",
    },
    "probe/layers.parquet": {"layer", "kind", "validation_auroc", "test_auroc", "chosen"},
    "knowledge_map.parquet": {"question_id", "p_unknown", "unknown"},
    "selection.parquet": {"question_id", "rank", "score", "strategy", "reason"},
    "arms/random/selection.parquet": {"question_id", "rank", "score", "strategy", "reason"},
    "annotations.parquet": {"question_id", "answer", "annotator", "confidence", "cost"},
    "arms/random/annotations.parquet": {"question_id", "answer", "annotator", "confidence", "cost"},
    "predictions.parquet": {"model", "question_id", "wording", "question", "text"},
}
FILES = [
    *("probe/probe.safetensors", "probe/probe.json", "threshold.json", "evaluation.json", "report.html"),
    *("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "manifest.json", "config.yaml"),
    *("arms/random/adapter/adapter_model.safetensors", "states/part-00000.safetensors"),
]


def bought(directory: RunDirectory, arm: str = "main") -> list[str]:
    ids: list[str] = read_table(directory.file("selection.parquet", arm))["question_id"].to_pylist()
    return ids


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_their_columns(finished: RunDirectory, name: str) -> None:
    table = read_table(finished.path / name)
    assert TABLES[name] <= set(table.column_names)
    assert table.num_rows > 0


def test_other_artifacts_are_there_and_nothing_half_done_is(finished: RunDirectory) -> None:
    assert [name for name in FILES if not (finished.path / name).is_file()] == []
    assert {"checkpoints", "predictions"}.isdisjoint(path.name for path in finished.path.rglob("*"))
    assert not list(finished.path.rglob("*.tmp"))
    assert list(finished.path.rglob("*.pkl")) == list(finished.path.rglob("*.bin")) == []
    assert {path.name for path in finished.path.parent.iterdir()} == {"run", "recipe.yaml", "questions.jsonl"}


def test_states_have_every_layer_and_travel_with_their_ids(finished: RunDirectory) -> None:
    for states, answers in zip(
        parts(finished.file("states"), ".safetensors"),
        parts(finished.file("answers"), ".parquet"),
        strict=True,
    ):
        tensors, metadata = read_tensors(states)
        ids = json.loads(metadata["ids"])
        assert sorted(tensors) == ["layer_000", "layer_001", "layer_002", "layer_003"]
        assert all(tensor.shape == (len(ids), 64) for tensor in tensors.values())
        rows = read_table(answers).to_pydict()
        assert rows["question_id"] == [question_id for question_id in ids for _ in range(5)]
        assert rows["sample"] == list(range(5)) * len(ids)


def test_manifest_tells_what_each_stage_did(finished: RunDirectory) -> None:
    stages = read_json(finished.file("manifest.json"))["stages"]
    assert {record["state"] for record in stages.values()} == {"done"}
    for name in ("sample", "evaluate"):
        assert stages[name]["tokens"]["prompt"] > 0
        assert stages[name]["tokens"]["decoded"] > 0
    assert stages["map"]["tokens"]["prompt"] > 0
    assert stages["finetune"]["tokens"]["trained"] > 0
    assert all(record["seconds"] >= 0 and record["versions"]["torch"] for record in stages.values())
    assert stages["finetune"]["inputs"] == {"annotate": stages["annotate"]["key"]}


def test_roles_are_disjoint_and_every_stage_reads_its_own(finished: RunDirectory) -> None:
    questions = read_table(finished.file("questions.parquet")).to_pylist()
    role_of = {row["id"]: row["role"] for row in questions}
    roles: dict[str, set[str]] = {}
    for row in questions:
        roles.setdefault(row["group"], set()).add(row["role"])
    assert all(len(found) == 1 for found in roles.values())
    measured = read_table(finished.file("entropy.parquet"))["question_id"].to_pylist()
    mapped = read_table(finished.file("knowledge_map.parquet"))["question_id"].to_pylist()
    assert sorted(measured) == sorted(i for i, role in role_of.items() if role == "probe")
    assert sorted(mapped) == sorted(i for i, role in role_of.items() if role == "pool")
    asked = read_table(finished.file("predictions.parquet")).to_pylist()
    assert {role_of[row["question_id"]] for row in asked} == {"eval", "pool"}


def test_probe_separates_what_is_known(finished: RunDirectory) -> None:
    card = read_json(finished.file("probe") / "probe.json")
    assert card["validation_auroc"] > 0.75
    assert card["scores"]["probe"]["se_label"]["auroc"]["value"] > 0.75
    assert card["scores"]["probe"]["wrong_answer"]["auroc"]["value"] > 0.75
    layers = read_table(finished.file("probe") / "layers.parquet").to_pylist()
    assert len(layers) == 4 * 2
    assert [row["layer"] for row in layers if row["chosen"]] == [card["layer"]]
    embedding = [row["test_auroc"] for row in layers if row["layer"] == 0]
    assert embedding == [0.5, 0.5]  # the last prompt token is always the same


def test_unknown_buys_more_of_what_is_truly_unknown(finished: RunDirectory, tiny_world: TinyWorld) -> None:
    unknown = {fact["id"] for fact in tiny_world.unknown}
    ours, random = (len(unknown & set(bought(finished, arm))) for arm in ("main", "random"))
    assert len(bought(finished)) == len(bought(finished, "random")) == BUDGET
    assert ours > random
    assert ours >= BUDGET - 1


def test_bought_facts_are_right_after_teaching(finished: RunDirectory) -> None:
    arm = read_json(finished.file("evaluation.json"))["arms"]["unknown"]
    before, after = (arm["sets"]["bought"][side]["exact_match"]["value"] for side in ("base", "tuned"))
    assert before < 0.3
    assert after > 0.6
    assert arm["learned"]["learned"] >= 5
    assert {"bought", "bought_reworded", "unbought", "held_out"} <= arm["sets"].keys()


def test_summary_is_plain_json(finished: RunDirectory) -> None:
    values = json.loads(json.dumps(summary(finished).values(), allow_nan=False))
    assert values["pool"] == 29
    assert set(values["evaluation"]) == {"unknown", "random"}


def test_second_run_does_nothing_and_says_so(finished: RunDirectory, tmp_path: Path) -> None:
    directory = copy_of(finished, tmp_path)
    before, reporter = times(directory.path), RecordingReporter()
    run(directory.config, directory.path, reporter)
    assert times(directory.path) == before
    assert all(line.endswith("(done before)") for line in reporter.messages[:-1])
    assert (
        reporter.messages[-1] == f"Nothing to do: {directory.path} is finished, and nothing it depends on has changed."
    )


def test_check_tells_known_from_unknown(finished: RunDirectory, tiny_world: TinyWorld) -> None:
    def share(facts: Sequence[dict[str, str]]) -> float:
        return float(np.mean([check_question(finished, f["question"])["unknown"] for f in facts[:15]]))

    assert share(tiny_world.unknown) > 0.8
    assert share(tiny_world.known) < 0.3


def test_check_and_map_agree(finished: RunDirectory) -> None:
    table = read_table(finished.file("knowledge_map.parquet")).to_pydict()
    questions = {row["id"]: row["question"] for row in read_table(finished.file("questions.parquet")).to_pylist()}
    for question_id, p in list(zip(table["question_id"], table["p_unknown"], strict=True))[:5]:
        assert check_question(finished, questions[question_id])["p_unknown"] == pytest.approx(p, abs=1e-4)


def test_budget_over_the_pool_takes_all_and_says_so(finished: RunDirectory, tmp_path: Path) -> None:
    copied = copy_of(finished, tmp_path)
    directory, reporter = RunDirectory.open(copied.path, ["select.budget=1000"]), RecordingReporter()
    run_verb("select", directory, reporter)
    assert sorted(bought(directory)) == sorted(bought(directory, "random"))
    assert len(bought(directory)) == 29
    assert any(
        "budget of 1000 is larger than the pool of 29; all of the pool is selected" in line
        for line in reporter.messages
    )


@pytest.mark.parametrize("strategy", ["known", "combine", "random", "entropy", "coreset", "badge"])
def test_every_strategy_selects(finished: RunDirectory, tmp_path: Path, strategy: str) -> None:
    copied = copy_of(finished, tmp_path)
    changes = [f"select.strategy={strategy}", "select.baseline=null"]
    directory = RunDirectory.open(copied.path, changes)
    mapped = read_table(directory.file("knowledge_map.parquet")).to_pydict()
    needs_signals = strategy in ("entropy", "badge")
    if needs_signals:
        with pytest.raises(RunError, match="`select` reads what `map` writes, and that is missing"):
            run_verb("select", directory, RecordingReporter())
        assert run_verb("map", directory, RecordingReporter()) == ["map", "signals"]
    run_verb("select", directory, RecordingReporter())
    table = read_table(directory.file("selection.parquet")).to_pydict()
    assert table["rank"] == list(range(1, BUDGET + 1))
    assert set(table["strategy"]) == {strategy}
    assert len(set(table["question_id"])) == BUDGET
    assert set(table["question_id"]) <= set(mapped["question_id"])
    p = dict(zip(mapped["question_id"], mapped["p_unknown"], strict=True))
    called_unknown = sum(p[i] >= 0.5 for i in table["question_id"])
    if strategy == "known":
        assert called_unknown == 0
    if strategy == "combine":
        assert called_unknown == BUDGET // 2


def people_config(world: TinyWorld, folder: Path) -> Path:
    """A recipe where only held-out questions have answers: people give the others. Roles are in a column."""
    roles = ["probe"] * 38 + ["pool"] * 28 + ["eval"] * 16 + ["shot"] * 2
    rows = []
    # Known and unknown facts are mixed by the order of ids already; the shots come from what is known.
    shots = [fact["id"] for fact in world.known[-2:]]
    ordered = [f for f in world.facts if f["id"] not in shots] + [f for f in world.facts if f["id"] in shots]
    for fact, role in zip(ordered, roles, strict=True):
        answers = fact["answers"] if role in ("eval", "shot") else []
        rows.append({"id": fact["id"], "question": fact["question"], "answers": answers, "role": role})
    source = folder / "bare.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    values = tiny_values(world, source)
    values["questions"] = {"source": str(source), "columns": {"role": "role"}}
    values["annotate"] = {"annotator": "file", "cost_per_label": 0.5}
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return recipe


def fill(sheet: Path, answers: dict[str, str]) -> None:
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["answer"] = answers.get(row["question_id"], "")
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_people_answer_and_their_answers_survive(tiny_world: TinyWorld, tmp_path: Path) -> None:
    gold = {fact["id"]: fact["answers"][0] for fact in tiny_world.facts}
    config, out, sheet = (
        load_config(people_config(tiny_world, tmp_path)),
        tmp_path / "run",
        tmp_path / "todo.csv",
    )
    with pytest.raises(WaitingForPeople, match=rf"{BUDGET} of {BUDGET} selected questions wait for an answer"):
        run(config, out, RecordingReporter())
    assert not (out / "adapter").exists()
    directory = RunDirectory.open(out)
    wanted = bought(directory)
    assert export_sheet(directory, sheet) == {
        "written": str(sheet),
        "questions": BUDGET,
        "answered before": 0,
    }

    fill(sheet, {wanted[0]: "?", **{i: f"{gold[i]}|Old {gold[i]}" for i in wanted[1:-1]}})  # the last not yet
    result = import_sheet(RunDirectory.open(out), sheet)
    assert result == {"answers": BUDGET - 2, "refused": 1, "still waiting": 1}
    with pytest.raises(WaitingForPeople, match=f"1 of {BUDGET} "):
        run(config, out, RecordingReporter())

    export_sheet(RunDirectory.open(out), sheet, overwrite=True)
    fill(sheet, {wanted[-1]: gold[wanted[-1]]})
    assert import_sheet(RunDirectory.open(out), sheet)["still waiting"] == 0
    directory = run(config, out, RecordingReporter())
    rows = read_table(out / "annotations.parquet").to_pydict()
    assert rows["question_id"] == wanted[1:]  # the one nobody could answer is left out
    assert rows["answer"] == [gold[i] for i in wanted[1:]]
    assert set(rows["annotator"]) == {"file"}
    assert set(rows["cost"]) == {0.5}
    assert directory.stages["annotate"].counts == {"labels": BUDGET - 1, "refused": 1}
    assert (out / "report.html").exists()

    changed = RunDirectory.open(out, ["measure.threshold=0.6", "select.budget=4", "sample.max_new_tokens=7"])
    with suppress(WaitingForPeople):  # another probe may want another question or two: only those are asked
        run(changed.config, out, RecordingReporter())
    id_of = {normalize_question(fact["question"]): fact["id"] for fact in tiny_world.facts}
    labels = {id_of[asked]: label for asked, label in read_json(out / "labels.json").items()}
    assert {i: label["answers"][:1] for i, label in labels.items()} == {
        i: [gold[i]] if i != wanted[0] else [] for i in wanted
    }


def test_nli_judge_puts_answers_together(
    finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SameFirstLetter:
        """Judges that answers with the same first letter entail each other."""

        key, symmetric = "letters", False

        def __init__(self, name: str, **_: object):
            assert name == "some/nli"

        def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
            alike = [pair.premise[:1] == pair.hypothesis[:1] for pair in pairs]
            yield Judged(range(len(pairs)), ["entailment" if held else "neutral" for held in alike])

    monkeypatch.setattr("ka2l.models.judges.entailment.EntailmentModel", SameFirstLetter)
    monkeypatch.setattr("ka2l.pipeline.identities.revision_of", lambda name: f"{name}@1")
    lexical = read_table(finished.file("entropy.parquet"))["semantic_entropy"].to_numpy()
    directory = RunDirectory.open(copy_of(finished, tmp_path).path, ["measure.judge=nli", "measure.nli_model=some/nli"])
    run_verb("measure", directory, RecordingReporter())
    merged = read_table(directory.file("entropy.parquet"))["semantic_entropy"].to_numpy()
    assert read_json(directory.file("threshold.json"))["judge"] == "nli"
    counts = directory.stages["measure"].counts
    assert counts["pairs_judged"] == counts["judgements_made"] > 0
    assert (counts["judge_calls"] > 0, counts["cache_hits"]) == (True, 0)
    assert (merged <= lexical + 1e-9).all()
    assert merged.sum() < lexical.sum()
    # Another rule over the same pairs: what was judged is not judged again.
    again = RunDirectory.open(directory.path, ["measure.clusters=components"])
    run_verb("measure", again, RecordingReporter())
    counts = again.stages["measure"].counts
    assert counts["cache_hits"] > 0
    assert counts["cache_hits"] + counts["judgements_made"] == counts["pairs_judged"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["questions.roles={probe: 0.7, pool: 0, eval: 0.3}"],
            "no question has the role pool, so the pool is empty",
        ),
        (["questions.roles={probe: 0, pool: 0.7, eval: 0.3}"], "no question has the role probe"),
        (["questions.roles={probe: 0.5, pool: 0.5, eval: 0}"], "no question has the role eval"),
    ],
)
def test_empty_roles_are_refused_before_anything_is_written(
    tiny_world: TinyWorld, tmp_path: Path, changes: list[str], message: str
) -> None:
    config = tiny_config(tiny_world, questions_file(tiny_world, tmp_path), *changes)
    with pytest.raises(DegenerateError, match=message):
        run(config, tmp_path / "run", RecordingReporter())
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_stage_one_alone_works_without_a_pool(tiny_world: TinyWorld, tmp_path: Path) -> None:
    source = questions_file(tiny_world, tmp_path)
    config = tiny_config(tiny_world, source, "questions.roles={probe: 0.7, pool: 0, eval: 0.3}")
    directory = RunDirectory.create(tmp_path / "run", config)
    for verb in ("load", "sample", "measure", "probe"):
        run_verb(verb, directory, RecordingReporter())
    assert check_question(directory, tiny_world.unknown[0]["question"])["model"] == str(tiny_world.folder)
    with pytest.raises(DegenerateError, match="The pool is empty"):
        run_verb("map", directory, RecordingReporter())
    run_verb("report", directory, RecordingReporter())  # a page of what there is
    assert (directory.path / "report.html").exists()


def test_a_page_made_half_way_is_made_again_at_the_end(finished: RunDirectory, tmp_path: Path) -> None:
    copied = copy_of(finished, tmp_path)
    copied.file("predictions.parquet").unlink()
    run_verb("report", copied, RecordingReporter())
    half = copied.file("report.html").read_text(encoding="utf-8")
    run(copied.config, copied.path, RecordingReporter())
    assert len(copied.file("report.html").read_text(encoding="utf-8")) > len(half)
