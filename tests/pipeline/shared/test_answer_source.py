"""Who answers and whose states are read: a black box, a stand-in for it, or the same model behind a server."""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from answer_server import AnswerServer, Brain
from console import Cli, assert_refused, strict_json
from ka2l.cli.run_summary import summary
from ka2l.common.atomic_files import parts, read_json, read_table
from ka2l.config.recipes import to_yaml
from ka2l.config.run_config import RunConfig
from ka2l.errors import ConfigError, ModelError, RunError
from ka2l.models.interface import Answer, Prompt, SampledQuestion, Usage
from ka2l.models.settings import ServerConfig
from ka2l.pipeline.commands.check_question import check_question
from ka2l.pipeline.commands.dry_run import dry_run
from ka2l.pipeline.run import run, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from runs import RecordingReporter, copy_of, questions_file, times, tiny_config
from tiny import TinyWorld

SERVER = ["sample.engine=server", "server.url=http://localhost:1/v1", "server.model=big-secret"]
STAND_IN = [*SERVER, "sample.states=surrogate"]
BLACK_BOX = [*SERVER, "sample.states=none", "model.name=/no/such/model"]
ALL_PROBES = "questions.roles={probe: 1.0, pool: 0, eval: 0}"


class FakeServer:
    """Knows half of the tiny world: there it always says the right thing, elsewhere anything."""

    world: TinyWorld
    calls: list[tuple[list[Prompt], dict[int, float]]]
    paid: Path

    def __init__(self, config: ServerConfig, paid: Path, **_: object):
        assert config.model == "big-secret"
        type(self).paid = paid
        self.usage = Usage()

    def sample(
        self,
        prompts: Sequence[Prompt],
        temperatures: Mapping[int, float],
        *,
        seed: int,
        position: Any = None,
        **_: Any,
    ) -> Iterator[SampledQuestion]:
        assert position is None
        self.calls.append((list(prompts), dict(temperatures)))
        facts = {fact["id"]: fact for fact in self.world.facts}
        everything = [fact["answers"][0] for fact in self.world.facts]
        for prompt in reversed(prompts):  # in any order
            fact = facts[prompt.question_id]
            texts = [
                fact["answers"][0]
                if fact["known"]
                else random.Random(f"{seed} {prompt.question_id} {number}").choice(everything)
                for number in temperatures
            ]
            self.usage += Usage(prompt=50, decoded=3 * len(texts))
            yield SampledQuestion(prompt.question_id, [Answer(text, [-0.5], "stop") for text in texts], None)


@pytest.fixture
def server(tiny_world: TinyWorld, monkeypatch: pytest.MonkeyPatch) -> type[FakeServer]:
    FakeServer.world, FakeServer.calls = tiny_world, []
    monkeypatch.setattr("ka2l.models.server.server_model.ServerModel", FakeServer)
    return FakeServer


def config_of(world: TinyWorld, folder: Path, *settings: str) -> RunConfig:
    return tiny_config(world, questions_file(world, folder), *settings)


def test_a_black_box_is_measured_and_no_model_is_looked_for(
    server: type[FakeServer], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    config = config_of(tiny_world, tmp_path, *BLACK_BOX, ALL_PROBES)
    directory = run(config, tmp_path / "run", RecordingReporter())
    assert [set(heat) for _, heat in server.calls] == [{0, 1, 2, 3, 4}] * 7
    assert server.calls[0][1] == {0: 0.1, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}
    assert server.paid == tmp_path / "run" / "paid.sqlite"
    assert directory.stages["sample"].facts == {"samples": 4, "parts": {"answers": 7, "states": 0}}
    assert directory.stages["sample"].tokens["prompt"] == 82 * 50
    known = {fact["id"]: fact["known"] for fact in tiny_world.facts}
    table = read_table(directory.file("entropy.parquet")).to_pydict()
    called = dict(zip(table["question_id"], table["unknown"], strict=True))
    assert sum(called[i] == known[i] for i in called) < 5
    assert "big-secret does not know" in directory.file("report.html").read_text(encoding="utf-8")
    values = summary(directory).values()
    assert (values["model"], values["ends_after"], "probe" in values) == ("big-secret", "measure", False)
    with pytest.raises(RunError, match="this run cannot have a probe"):
        check_question(directory, "Who?")
    before, again = times(directory.path), RecordingReporter()
    run(config, directory.path, again)
    assert again.messages[-1].startswith("Nothing to do")
    assert times(directory.path) == before
    run_verb("sample", RunDirectory.open(directory.path, ["sample.n=6"]), RecordingReporter())
    assert server.calls[-1][1] == {5: 1.0, 6: 1.0}


def test_chat_servers_get_the_worked_examples_as_turns(
    server: type[FakeServer], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    run(config_of(tiny_world, tmp_path, *BLACK_BOX, ALL_PROBES), tmp_path / "run", RecordingReporter())
    prompt = server.calls[0][0][0]
    assert [turn["role"] for turn in prompt.messages] == ["user", "assistant", "user", "assistant", "user"]
    question = next(fact["question"] for fact in tiny_world.facts if fact["id"] == prompt.question_id)
    assert prompt.messages[-1]["content"] == f"Answer the following question as briefly as possible.\n{question}"
    assert prompt.text.endswith(f"Question: {question}\nAnswer:")


def test_a_stand_in_gives_states_until_teaching(
    server: type[FakeServer], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    config = config_of(tiny_world, tmp_path, *STAND_IN)
    directory = run(config, tmp_path / "run", RecordingReporter())
    assert list(directory.stages) == [
        "load",
        "sample",
        "measure",
        "probe",
        "map",
        "select",
        "annotate",
        "report",
    ]
    card = read_json(directory.file("probe") / "probe.json")
    assert (card["model"], card["answered_by"], card["stand_in"]) == (
        str(tiny_world.folder),
        "big-secret",
        True,
    )
    assert card["scores"]["probe"]["se_label"]["auroc"]["value"] > 0.75  # both know the same half
    assert directory.stages["sample"].tokens["states_prompt"] > 0
    assert len(parts(directory.file("states"), ".safetensors")) == 4
    assert not directory.file("arms").exists()
    assert summary(directory).values()["why"].startswith("Fine-tuning would teach")
    page = directory.file("report.html").read_text(encoding="utf-8")
    assert "stands in for <bdi>big-secret</bdi>" in page
    assert check_question(directory, tiny_world.unknown[0]["question"])["stands_in_for"] == "big-secret"
    for verb in ("finetune", "evaluate"):
        with pytest.raises(RunError, match=rf"`{verb}` is not possible here.*annotations\.parquet"):
            run_verb(verb, directory, RecordingReporter())
    assert len(server.calls) == 4
    growth = RunDirectory.open(directory.path, ["sample.n=6"])
    run_verb("sample", growth, RecordingReporter())
    assert len(parts(directory.file("states"), ".safetensors")) == 4  # states are read once


def test_the_same_model_behind_a_server_can_be_taught(
    server: type[FakeServer], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    settings = [*SERVER, "server.endpoint=completions", "finetune.epochs=1", "select.baseline=null"]
    directory = run(config_of(tiny_world, tmp_path, *settings), tmp_path / "run", RecordingReporter())
    assert directory.stages["evaluate"].state == "done"
    assert set(summary(directory).values()["evaluation"]) == {"unknown"}
    assert "stand_in" not in summary(directory).values()
    assert "stands in" not in directory.file("report.html").read_text(encoding="utf-8")
    assert len(server.calls) == 4


def test_different_prompts_for_answers_and_states_are_told(
    server: type[FakeServer], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    directory = RunDirectory.create(tmp_path / "run", config_of(tiny_world, tmp_path, *SERVER))
    reporter = RecordingReporter()
    run_verb("load", directory, reporter)
    run_verb("sample", directory, reporter)
    assert any("prompt.template=chat, or server.endpoint=completions" in line for line in reporter.messages)
    assert server.calls


def test_a_model_that_cannot_be_loaded_costs_nothing(
    server: type[FakeServer], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        run(
            config_of(tiny_world, tmp_path, *STAND_IN, "model.name=/no/such/model"),
            tmp_path / "run",
            RecordingReporter(),
        )
    assert server.calls == []
    assert not (tmp_path / "run").exists()


def test_a_template_nobody_here_can_write_is_refused(tiny_world: TinyWorld, tmp_path: Path) -> None:
    settings = [*BLACK_BOX, ALL_PROBES, "prompt.template=chat"]
    config = config_of(tiny_world, tmp_path, *settings, "server.endpoint=completions")
    with pytest.raises(ConfigError, match=r"Use server\.endpoint=chat, or prompt\.template=plain"):
        run(config, tmp_path / "run", RecordingReporter())
    assert not (tmp_path / "run").exists()
    assert "first_messages" in dry_run(config_of(tiny_world, tmp_path, *settings)).as_json()


def test_the_plan_tells_what_a_server_is_asked_and_where_the_run_ends(
    server: type[FakeServer], tiny_world: TinyWorld, tmp_path: Path
) -> None:
    config = config_of(tiny_world, tmp_path, *BLACK_BOX, ALL_PROBES)
    planned = dry_run(config).as_json()
    assert planned["model"] == "big-secret"
    assert planned["server"]["answers"] == 82 * 5
    assert planned["server"]["requests"] == 82 * 2
    assert [row["stage"] for row in planned["stages"]] == ["load", "sample", "measure", "report"]
    assert (planned["ends_after"], planned["seconds"], "parameters" in planned) == ("measure", 0, False)
    assert (
        dry_run(config_of(tiny_world, tmp_path, *BLACK_BOX, ALL_PROBES, "server.many=false")).as_json()["server"][
            "requests"
        ]
        == 410
    )
    stand_in = dry_run(config_of(tiny_world, tmp_path, *STAND_IN)).as_json()
    assert stand_in["stand_in"] == str(tiny_world.folder)
    assert "first_teaching_prompt" not in stand_in
    assert server.calls == []
    directory = run(config, tmp_path / "run", RecordingReporter())
    grown = RunDirectory.open(directory.path, ["sample.n=7"])
    more = dry_run(grown.config, grown).as_json()
    assert more["server"]["answers"] == 82 * 3
    assert {row["stage"]: row["done"] for row in more["stages"]} == {
        "load": True,
        "sample": False,
        "measure": False,
        "report": False,
    }


def test_a_real_server_from_the_command_line(ka2l: Cli, tiny_world: TinyWorld, tmp_path: Path) -> None:
    with AnswerServer(Brain(tiny_world.folder)) as answers:
        settings = ["sample.engine=server", f"server.url={answers.url}", "server.model=tiny", "sample.n=2"]
        settings += [
            "questions.limit=30",
            "prompt.shots=0",
            "sample.max_new_tokens=4",
            "model.name=/no/model",
        ]
        recipe = tmp_path / "recipe.yaml"
        config = config_of(
            tiny_world, tmp_path, *settings, ALL_PROBES, "sample.states=none", "server.endpoint=completions"
        )
        recipe.write_text(to_yaml(config), encoding="utf-8")
        out = tmp_path / "run"
        assert ka2l("load", recipe, "--out", out, "--quiet").code == 0
        shown = ka2l("sample", out, "--show-prompts", "2")
        assert (shown.code, len(answers.bodies)) == (0, 0)  # shown, and nothing asked
        assert shown.out.count("  | Question: ") == 2
        assert "tokens" not in shown.out
        done = ka2l("run", "--out", out)
        assert done.code == 0, done.err
        assert "tiny does not know" in done.out
        assert "Sampling: 90 answers to 30 questions" in done.out
        asked = answers.asked
        assert ka2l("sample", out, "sample.n=3").code == 0
        assert answers.asked == asked + 30
        assert_refused(ka2l("probe", out), "`probe` is not possible here")


def test_prompts_are_shown_to_the_letter_and_nothing_is_sampled(
    ka2l: Cli, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    directory = RunDirectory.create(tmp_path / "run", config_of(tiny_world, tmp_path))
    run_verb("load", directory, RecordingReporter())
    before = times(directory.path)
    plain = strict_json(ka2l("sample", directory.path, "--show-prompts", "3", "--json").out)
    chat = strict_json(ka2l("sample", directory.path, "--show-prompts", "3", "--json", "prompt.template=chat").out)
    probes = [q for q in read_table(directory.file("questions.parquet")).to_pylist() if q["role"] == "probe"]
    assert [row["question_id"] for row in plain] == [row["id"] for row in probes[:3]]
    tokenizer = AutoTokenizer.from_pretrained(tiny_world.folder)
    for row, question in zip(plain, probes, strict=False):
        assert row["text"].endswith(f"\n\nQuestion: {question['question']}\nAnswer:")
        assert row["text"].count("Question: ") == 3
        assert row["tokens"] == len(tokenizer(row["text"])["input_ids"])
    told = ka2l("sample", directory.path, "--show-prompts", "3").out
    assert told.count("Answer the following") == 1  # what they share stands there once
    assert told.count("  | Question: ") == 2 + 3
    assert told.index("All of them begin with") < told.index("and continue with") < told.index(probes[0]["id"])
    assert told.endswith("\nNothing was asked or sampled.\n")
    alone = ka2l("sample", directory.path, "--show-prompts", "1").out
    assert alone.count("  | Question: ") == 3
    assert "begin with" not in alone
    assert chat[0]["text"].startswith("<|user|>\nAnswer the following")
    assert chat[0]["text"].endswith("<|end|>\n<|assistant|>\n")
    assert times(directory.path) == before
    sampled = ka2l("sample", directory.path, "--quiet")
    assert sampled.out.startswith("Sampling: 185 answers to 37 questions; ")
    assert "tokens a second; at most " in sampled.out


def test_a_server_that_does_not_answer_costs_no_answers(
    finished: RunDirectory, tmp_path: Path, server: type[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy_of(finished, tmp_path)
    before = times(directory.path)

    def refuse(*_: object, **__: object) -> Iterator[SampledQuestion]:
        raise ModelError("connection refused")

    answering = server.sample
    monkeypatch.setattr(server, "sample", refuse)
    with pytest.raises(ModelError, match="connection refused"):
        run_verb("sample", RunDirectory.open(directory.path, BLACK_BOX), RecordingReporter())
    assert times(directory.path) == before
    assert RunDirectory.open(directory.path).stages["sample"].state == "done"
    monkeypatch.setattr(server, "sample", answering)
    taken = RunDirectory.open(directory.path, BLACK_BOX)
    run_verb("sample", taken, RecordingReporter())
    assert (len(server.calls[0][0]), set(server.calls[0][1])) == (1, {0})
    assert taken.stages["sample"].counts == {"questions": 37, "answers": 185}
    assert not directory.file("states").exists()
