"""Scores that ask the model again, on the tiny model that truly knows half of its world."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ka2l.common.atomic_files import parts, read_json, read_table
from ka2l.config.recipes import load_config
from ka2l.errors import ConfigError
from ka2l.knowledge.uncertainty.baseline_scores import eigenscore
from ka2l.models.interface import Prompt
from ka2l.pipeline.run import context_of, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.artifact_tables import read_answers
from ka2l.pipeline.stages import measure_by_model
from runs import RecordingReporter, copy_of
from tiny import TinyWorld

ALL = "measure.scores=[p_true, ambiguity, eigenscore, kernel_entropy]"


@pytest.fixture(scope="module")
def scored(finished: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = copy_of(finished, tmp_path_factory.mktemp("scored"))
    directory = RunDirectory.open(directory.path, [ALL, "measure.p_true_shots=4"])
    run_verb("measure", directory, RecordingReporter())
    return directory


def table(directory: RunDirectory) -> dict[str, list[Any]]:
    return dict(read_table(directory.file("entropy.parquet")).to_pydict())


def test_every_wanted_score_has_its_column(scored: RunDirectory, finished: RunDirectory) -> None:
    columns, before = table(scored), table(finished)
    assert set(columns) - set(before) == {"p_false", "ambiguity", "ambiguous", "eigenscore", "kernel_entropy"}
    assert {name: columns[name] for name in before} == before
    for name in ("p_false", "ambiguity"):
        assert all(0 <= value <= 1 for value in columns[name] if value is not None)
    tokens = scored.stages["measure"].tokens
    assert tokens["p_true_prompt"] > 0
    assert tokens["p_true_prompt_saved"] > 0  # instruction and examples are computed once
    assert tokens["eigenscore_prompt"] > 0
    assert not scored.file(measure_by_model.MODEL_SCORES).exists()


def test_the_worked_examples_of_p_true_are_not_scored(scored: RunDirectory) -> None:
    """SPEC: shots came from the rows they were scored on."""
    columns = table(scored)
    shots = [i for i, value in enumerate(columns["p_false"]) if value is None]
    assert len(shots) == 4
    assert {columns["split"][i] for i in shots} == {"train"}
    assert sorted(columns["correct"][i] for i in shots) == [False, False, True, True]
    assert all(columns["ambiguity"][i] is None for i in shots)


def test_where_answers_agree_eigenscore_and_kernel_entropy_are_low(scored: RunDirectory, tiny_world: TinyWorld) -> None:
    columns = table(scored)
    known = {fact["id"] for fact in tiny_world.known}
    is_known = np.array([i in known for i in columns["question_id"]])
    for name in ("eigenscore", "kernel_entropy"):
        values = np.array(columns[name])
        assert values[is_known].mean() < values[~is_known].mean()
    agreed = [i for i, n in enumerate(columns["n_clusters"]) if n == 1]
    assert agreed
    assert np.array(columns["kernel_entropy"])[agreed] == pytest.approx(min(columns["kernel_entropy"]), abs=1e-9)


def test_eigenscore_reads_the_state_behind_each_answer(scored: RunDirectory) -> None:
    context = context_of(scored, RecordingReporter())
    columns = table(scored)
    model = context.prepared_model()
    answers = read_answers(scored.file("answers"), scored.config.sample.n)
    questions = context.questions_by_id(set(columns["question_id"][:5]))
    for question_id, expected in list(zip(columns["question_id"], columns["eigenscore"], strict=True))[:5]:
        prompt = context.prompts.sensing(questions[question_id].question)
        texts = [f"{prompt} {row['text']}" for k, row in answers[question_id].items() if k]
        states = model.states([Prompt("", text) for text in texts], model.n_layers // 2, position="tbg")
        assert expected == pytest.approx(eigenscore(states), rel=1e-3)


def test_an_interruption_keeps_the_finished_parts(
    finished: RunDirectory, scored: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_by_model, "PART", 10)
    copied = copy_of(finished, tmp_path)
    directory = RunDirectory.open(copied.path, [ALL, "measure.p_true_shots=4"])
    asked: list[int] = []
    real = measure_by_model._eigenscores

    def dies_in_the_third(*args: Any) -> Any:
        asked.append(len(args[3]))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(measure_by_model, "_eigenscores", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_verb("measure", directory, RecordingReporter())
    assert len(parts(directory.file(measure_by_model.MODEL_SCORES), ".parquet")) == 2
    assert directory.stages["measure"].state == "running"
    run_verb("measure", RunDirectory.open(copied.path, [ALL, "measure.p_true_shots=4"]), RecordingReporter())
    assert asked == [10, 10, 10, 10, 7]  # 37 questions: the third part is done again, the first two are not
    found, expected = table(directory), table(scored)
    for name in ("p_false", "eigenscore", "ambiguity"):
        ours, theirs = (np.array([np.nan if v is None else v for v in t[name]]) for t in (found, expected))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_report_says_how_many_are_ambiguous(scored: RunDirectory) -> None:
    run_verb("report", scored, RecordingReporter())
    page = scored.file("report.html").read_text(encoding="utf-8")
    assert "finds all of its different answers plausible" in page
    flagged = sum(map(bool, table(scored)["ambiguous"]))
    assert f"<strong>{flagged}</strong> questions the model finds" in page


def test_only_the_model_that_answered_can_be_asked() -> None:
    black_box = ["sample.engine=imported", "sample.states=none"]
    with pytest.raises(ConfigError, match=r"measure.scores=\['p_true'\] ask the model that answered"):
        load_config(None, [*black_box, "measure.scores=[p_true]"])
    assert load_config(None, [*black_box, "measure.scores=[kernel_entropy]"]).measure.scores == ["kernel_entropy"]


def test_the_table_of_probes_has_the_new_scores(scored: RunDirectory) -> None:
    run_verb("probe", scored, RecordingReporter())
    scores = read_json(scored.file("probe") / "probe.json")["scores"]
    assert {"probe", "linear_probe", "mlp_probe", "accuracy_probe", "entropy_probe"} <= set(scores)
    assert {"p_false", "eigenscore", "kernel_entropy", "semantic_entropy_rao"} <= set(scores)
    assert scores["semantic_entropy"]["se_label"] is None  # it defines that target
    assert 0 <= scores["semantic_entropy"]["wrong_answer"]["auroc"]["value"] <= 1
    for found in scores.values():
        for metrics in filter(None, found.values()):
            assert {"auroc", "auprc", "aurc", "accuracy_at_50"} <= set(metrics)
