"""Answers over HTTP: the same text and numbers as the model in this process, from servers that take this and not that.

The server is real (tests/helpers/answer_server.py): sockets on this machine, and the tiny model behind them where it
matters.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from answer_server import AnswerServer, Brain, Script
from ka2l.models.interface import Answer, Prompt
from ka2l.models.loading import resolve
from ka2l.models.local.local_model import LocalModel
from ka2l.models.settings import ModelConfig
from server_fixtures import Make, draw, texts
from server_fixtures import fake_clock as fake_clock
from server_fixtures import make as make
from server_fixtures import prompts as prompts
from server_fixtures import server as server
from tiny import TinyWorld, plain_prompt


@pytest.fixture(scope="module")
def brain(tiny_world: TinyWorld) -> Brain:
    return Brain(tiny_world.folder)


@pytest.fixture
def tiny_server(brain: Brain) -> Iterator[AnswerServer]:
    """Answers with the tiny model."""
    with AnswerServer(brain) as running:
        yield running


@pytest.fixture(scope="module")
def facts(tiny_world: TinyWorld) -> list[Prompt]:
    """Three questions the tiny model knows, and three it does not."""
    asked = [(fact["id"], plain_prompt(fact["question"])) for fact in tiny_world.known[:3] + tiny_world.unknown[:3]]
    return [Prompt(name, text, ({"role": "user", "content": text},)) for name, text in asked]


# The same answers as a model in this process


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_greedy_answers_and_log_probabilities_equal_the_local_model(
    endpoint: str,
    tiny_server: AnswerServer,
    facts: list[Prompt],
    tiny_world: TinyWorld,
    make: Make,
) -> None:
    config = ModelConfig(name=str(tiny_world.folder), device="cpu", threads=1)
    local = LocalModel.load(config, resolve(config))
    here = {r.question_id: r.answers[0] for r in local.sample(facts, {0: 0.0}, seed=0, max_new_tokens=8)}
    there = draw(make(tiny_server, endpoint=endpoint), facts, {0: 0.0})
    for name, expected in here.items():
        got = there[name].answers[0]
        assert (got.text, got.finish_reason) == (expected.text, expected.finish_reason)
        # The local model also counts the line break that ended an answer; what the server tells ends with the answer.
        assert len(expected.token_logprobs) - len(got.token_logprobs) in (0, 1)
        count = len(got.token_logprobs)
        assert count > 0
        assert got.token_logprobs == pytest.approx(expected.token_logprobs[:count], abs=1e-4)


def test_known_facts_are_answered_and_unknown_ones_scatter(
    tiny_server: AnswerServer, facts: list[Prompt], tiny_world: TinyWorld, make: Make
) -> None:
    heats = dict.fromkeys(range(8), 1.0)
    answers = texts(draw(make(tiny_server), facts, heats))
    known, unknown = tiny_world.known[:3], tiny_world.unknown[:3]
    assert sum(fact["answers"][0] in answers[fact["id"]] for fact in known) == 3
    assert min(len(set(answers[fact["id"]])) for fact in unknown) > 2


def test_several_answers_come_in_one_request_a_temperature(
    server: AnswerServer, prompts: list[Prompt], make: Make
) -> None:
    model = make(server)
    results = draw(model, prompts)
    assert [len(result.answers) for result in results.values()] == [4] * 6
    assert sorted(body.get("n", 1) for body in server.bodies) == [1] * 6 + [3] * 6
    assert {body["temperature"] for body in server.bodies if body.get("n") == 3} == {1.0}
    assert all(body["top_p"] == 1.0 and body["top_k"] == -1 for body in server.bodies)  # nothing cut off
    assert all(result.states is None for result in results.values())
    for prompt in prompts:  # each answer is that of its sample's place in the request, in whatever order they arrive
        body = next(b for b in server.bodies if b.get("n") == 3 and b["prompt"] == prompt.text)
        said = [server.brain.generate(body, index).text.strip() for index in range(3)]
        assert [answer.text for answer in results[prompt.question_id].answers[1:]] == said
    assert model.usage.prompt == 11 * 12
    assert model.usage.decoded >= sum(len(a.token_logprobs) for r in results.values() for a in r.answers)
    assert model.notes == []


def test_greedy_samples_are_never_asked_for_together(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    draw(make(server), prompts[:1], {0: 0.0, 1: 0.0})
    assert ["n" in body for body in server.bodies] == [False, False]  # vLLM refuses n > 1 there


def test_answers_do_not_depend_on_the_order_and_the_company(
    tiny_server: AnswerServer, facts: list[Prompt], make: Make, tmp_path: Path
) -> None:
    one = texts(draw(make(tiny_server), facts))
    (tmp_path / "paid.sqlite").unlink()
    tiny_server.delay = 0.005
    assert texts(draw(make(tiny_server, concurrency=5), facts[::-1])) == one
    (tmp_path / "paid.sqlite").unlink()
    assert texts(draw(make(tiny_server), facts, seed=1)) != one


@pytest.mark.parametrize(
    ("said", "text", "tokens"),
    [
        ("Paris", "Paris", 5),
        (" Paris \nQuestion: What", "Paris", 6),
        ("\n\n Rio de Janeiro\n", "Rio de Janeiro", 17),
        ("Zoë", "Zoë", 3),
    ],
)
def test_what_is_kept_of_a_text_and_of_its_tokens(
    said: str, text: str, tokens: int, prompts: list[Prompt], make: Make
) -> None:
    for endpoint in ("chat", "completions"):
        with AnswerServer(Script(said)) as server:
            answer = draw(make(server, endpoint=endpoint), prompts[:1], {0: 1.0})[prompts[0].question_id].answers[0]
        assert answer == Answer(text, [-0.5] * tokens, "stop"), endpoint


def test_an_unfinished_answer_says_so(prompts: list[Prompt], make: Make) -> None:
    with AnswerServer(Script("Rio de", finish_reason="length")) as server:
        answer = draw(make(server), prompts[:1], {0: 1.0})[prompts[0].question_id].answers[0]
    assert (answer.text, answer.finish_reason) == ("Rio de", "length")


def test_a_line_break_at_the_start_does_not_end_an_answer(prompts: list[Prompt], make: Make) -> None:
    with AnswerServer(Script("\nParis\nLondon")) as server:
        model = make(server)
        answers = texts(draw(model, prompts[:2], {0: 0.0, 1: 1.0, 2: 1.0}))
        assert answers == {prompt.question_id: ["Paris"] * 3 for prompt in prompts[:2]}
        # Seen once, the stop is left out for good.
        sent = ["stop" in body for body in server.bodies]
        assert sent.count(True) <= 4
        assert sent[-1] is False
        server.bodies.clear()
        draw(model, prompts[2:3], {0: 1.0})
        assert ["stop" in body for body in server.bodies] == [False]


def test_a_chat_is_not_cut_at_a_line_break(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    draw(make(server, endpoint="chat"), prompts[:1])
    assert all("stop" not in body and body["messages"] == list(prompts[0].messages) for body in server.bodies)


def test_an_empty_answer_is_an_answer(prompts: list[Prompt], make: Make) -> None:
    with AnswerServer(Script(None)) as server:
        answer = draw(make(server, endpoint="chat"), prompts[:1], {0: 1.0})[prompts[0].question_id].answers[0]
        assert answer == Answer("", [], "stop")
    with AnswerServer(Script("")) as server:
        answer = draw(make(server), prompts[1:2], {0: 1.0})[prompts[1].question_id].answers[0]
        assert answer == Answer("", [], "stop")
        assert len(server.bodies) == 2  # once more without the stop, in case that was what ended it


def test_a_model_that_thinks_aloud_is_named(prompts: list[Prompt], make: Make) -> None:
    with AnswerServer(Script(None, finish_reason="length")) as server:
        model = make(server, endpoint="chat")
        results = draw(model, prompts[:2], {0: 1.0})
    assert [r.answers[0] for r in results.values()] == [Answer("", [], "length")] * 2
    assert len(model.notes) == 1
    assert "reason" in model.notes[0]
