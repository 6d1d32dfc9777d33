"""The likelihood of answers as a signal of the pool, and signals that cannot be computed."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ka2l
from ka2l.common import atomic_files
from ka2l.errors import ConfigError, RunError
from ka2l.models.interface import Answer, Prompt, SampledQuestion, Usage
from ka2l.pipeline.run import run, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from pool_runs import ALONE, POOL, SERVER, opened, pool_prompts, signals
from runs import BUDGET, RecordingReporter, copy_of, questions_file, tiny_config
from tiny import TinyWorld


def test_likelihood_is_the_mean_over_the_low_temperature_answer(finished: RunDirectory, tmp_path: Path) -> None:
    directory = opened(finished, tmp_path, "select.strategy=likelihood")
    assert run_verb("map", directory, RecordingReporter()) == ["map", "pool_likelihood"]
    context, prompts = pool_prompts(directory)
    said = {
        result.question_id: result.answers[0].token_logprobs
        for result in context.prepared_model().sample(prompts, {0: 0.1}, seed=0, max_new_tokens=8)
    }
    found = signals(directory, "sequence_log_likelihood")
    expected = [np.mean(said[i]) for i in found.ids]
    np.testing.assert_allclose(found.sequence_log_likelihood, expected, atol=1e-3)
    assert not directory.file("pool_answers").exists()  # ten further answers would tell it nothing
    run_verb("select", directory, RecordingReporter())
    bought = atomic_files.read_table(directory.file("selection.parquet"))["question_id"].to_pylist()
    ranked = found.ids[np.argsort(found.sequence_log_likelihood, kind="stable")]
    assert bought == ranked[:BUDGET].tolist()


class Speaker:
    """Answers with what it was given for a question, else with two likely tokens."""

    said: dict[str, Answer]

    def __init__(self, *_: object, **__: object):
        self.usage = Usage()

    def sample(self, prompts: Sequence[Prompt], temperatures: dict[int, float], **_: Any) -> Iterator[SampledQuestion]:
        self.usage += Usage(prompt=len(prompts))
        for prompt in prompts:
            answer = self.said.get(prompt.question_id, Answer("Rome", [-0.25, -0.75], "stop"))
            yield SampledQuestion(prompt.question_id, [answer for _ in temperatures], None)


@pytest.fixture
def served(finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDirectory]:
    """A run mapped by a probe that was trained before, whose pool a server is asked about."""
    monkeypatch.setattr("ka2l.models.server.server_model.ServerModel", Speaker)

    def make(*changes: str) -> RunDirectory:
        Speaker.said = {}
        probe = f"map.probe={finished.file('probe')}"
        return opened(finished, tmp_path, *SERVER, probe, *changes)

    return make


def test_an_empty_answer_counts_as_the_least_likely(served: Callable[..., RunDirectory]) -> None:
    directory = served("select.strategy=likelihood")
    _, prompts = pool_prompts(directory)
    first, second = (prompt.question_id for prompt in prompts[:2])
    Speaker.said = {first: Answer("", [], "stop"), second: Answer("Oslo", [-3.0, -4.0], "stop")}
    run_verb("map", directory, RecordingReporter())
    found = signals(directory, "sequence_log_likelihood").sequence_log_likelihood
    assert found.tolist() == [-3.5, -3.5] + [-0.5] * (POOL - 2)
    record = directory.stages["pool_likelihood"]
    assert record.counts == {"questions": POOL, "empty_answers": 1}
    assert record.tokens == {"prompt": POOL, "prompt_saved": 0, "decoded": 0, "decoded_saved": 0}


def test_answers_without_log_probabilities_have_no_likelihood(served: Callable[..., RunDirectory]) -> None:
    directory = served("select.strategy=likelihood")
    _, prompts = pool_prompts(directory)
    Speaker.said = {prompts[3].question_id: Answer("Oslo", [], "stop")}
    with pytest.raises(
        RunError,
        match=rf"without token log-probabilities, first: {prompts[3].question_id}\. .*server\.logprobs",
    ):
        run_verb("map", directory, RecordingReporter())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [*SERVER, "server.logprobs=false", "select.strategy=likelihood"],
            r"server\.logprobs=false the server does not return them",
        ),
        (
            ["measure.judge=embedding", "select.strategy=semantic_entropy", "map.probe=PROBE"],
            "fitted on the probe",
        ),
    ],
    ids=["likelihood", "cosine"],
)
def test_signals_that_cannot_be_had_are_refused_before_anything_is_written(
    finished: RunDirectory, tiny_world: TinyWorld, tmp_path: Path, changes: list[str], message: str
) -> None:
    placed = [change.replace("PROBE", str(finished.file("probe"))) for change in changes]
    config = tiny_config(tiny_world, questions_file(tiny_world, tmp_path), *placed)
    with pytest.raises(ConfigError, match=message):
        run(config, tmp_path / "run", RecordingReporter())
    assert not (tmp_path / "run").exists()


def test_a_pool_without_imported_answers_is_named(finished: RunDirectory, tmp_path: Path) -> None:
    rows = atomic_files.read_table(finished.file("questions.parquet")).to_pylist()
    given_ = [row for row in rows if row["role"] == "probe"]
    lines = [{"question": row["question"], "answers": ["a", "b"], "low_temperature_answer": "a"} for row in given_]
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    out = copy_of(finished, tmp_path).path
    settings_ = ["sample.states=same", "sample.n=2", ALONE]
    directory = ka2l.import_answers(out, file, settings_, replace=True, reporter=RecordingReporter())
    for strategy, what in (
        ("likelihood", r"low-temperature answer"),
        ("semantic_entropy", "sampled answers"),
    ):
        wanted = RunDirectory.open(
            directory.path, [f"select.strategy={strategy}", f"map.probe={finished.file('probe')}"]
        )
        with pytest.raises(RunError, match=rf"{POOL} of {POOL} pool questions have no imported {what}"):
            run_verb("map", wanted, RecordingReporter())
