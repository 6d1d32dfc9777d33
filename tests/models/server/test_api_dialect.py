"""What servers do not take is left out and remembered; what stands beside an answer never costs the answer."""

from pathlib import Path
from typing import Any

import pytest

from answer_server import AnswerServer, Fault, plain, status
from ka2l.errors import ModelError
from ka2l.models.interface import Answer, Prompt, Usage
from ka2l.models.server.api_dialect import Choice, to_answer
from ka2l.models.server.server_model import ServerModel
from ka2l.models.settings import ServerConfig
from server_fixtures import HEATS, FakeClock, Make, draw
from server_fixtures import fake_clock as fake_clock
from server_fixtures import make as make
from server_fixtures import prompts as prompts
from server_fixtures import server as server


def test_a_server_that_refuses_several_answers_is_asked_singly(
    server: AnswerServer, prompts: list[Prompt], make: Make
) -> None:
    server.refuses = {"n"}
    model = make(server)
    assert all(len(result.answers) == 4 for result in draw(model, prompts).values())
    assert len(server.bodies) == 24 + 1  # refused once, then remembered
    assert len(model.notes) == 1
    assert "one answer a request" in model.notes[0]


def test_llama_cpp_refuses_several_answers_with_a_500(
    server: AnswerServer, prompts: list[Prompt], make: Make, fake_clock: FakeClock
) -> None:
    server.faults += [plain(500, '{"error":{"code":500,"message":"Only one completion choice is allowed"}}')]
    draw(make(server), prompts[:1], {1: 1.0, 2: 1.0})
    assert [body.get("n") for body in server.bodies] == [2, None, None]
    assert fake_clock.slept == []


def test_fewer_choices_than_asked_for_are_made_up_singly(
    server: AnswerServer, prompts: list[Prompt], make: Make
) -> None:
    server.most_choices = 1
    model = make(server)
    results = draw(model, prompts[:2])
    assert all(len(result.answers) == 4 for result in results.values())
    assert [body.get("n") for body in server.bodies] == [None, 3, None, None, None, None, None, None]
    assert len(model.notes) == 1


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_log_probabilities_may_be_refused(
    endpoint: str, server: AnswerServer, prompts: list[Prompt], make: Make
) -> None:
    server.refuses = {"logprobs"}
    model = make(server, endpoint=endpoint)
    results = draw(model, prompts[:3])
    assert all(answer.token_logprobs == [] for result in results.values() for answer in result.answers)
    assert len(server.bodies) == 6 + 1
    assert "top_logprobs" not in server.bodies[-1]
    assert [note for note in model.notes if "log-probabilities" in note] == model.notes
    assert len(model.notes) == 1


def test_log_probabilities_may_be_left_out_silently(
    server: AnswerServer, prompts: list[Prompt], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = server.reply
    monkeypatch.setattr(server, "reply", lambda body, chat: whole({**body, "logprobs": None}, chat))
    heard: list[str] = []
    model = make(server)
    model._say = heard.append
    results = draw(model, prompts[:3])
    assert all(answer.token_logprobs == [] for result in results.values() for answer in result.answers)
    assert heard == model.notes
    assert len(heard) == 1


@pytest.mark.parametrize(
    "beside",
    [
        {"logprobs": ["?"]},
        {"logprobs": {"content": [{"token": "a"}]}},
        {"logprobs": {"content": [{"token": "a", "logprob": None}]}},
        {"logprobs": {"content": [{"token": "a", "logprob": float("nan")}]}},
        {"logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0]}},
    ],
)
def test_an_answer_is_kept_whatever_stands_beside_it(
    beside: dict[str, Any],
    server: AnswerServer,
    prompts: list[Prompt],
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice = {"message": {"content": "Paris \ud800"}, "finish_reason": None} | beside
    monkeypatch.setattr(server, "reply", lambda _body, _chat: {"choices": [choice], "usage": "none"})
    model = make(server, endpoint="chat")
    answer = draw(model, prompts[:1], {0: 1.0})[prompts[0].question_id].answers[0]
    assert answer == Answer("Paris ?", [], "stop")
    assert (len(server.bodies), model.usage) == (1, Usage())


def test_a_prompt_the_server_had_in_its_cache_counts_as_saved(
    server: AnswerServer, prompts: list[Prompt], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
    whole = server.reply
    monkeypatch.setattr(server, "reply", lambda body, chat: whole(body, chat) | {"usage": used})
    model = make(server)
    draw(model, prompts[:1], {0: 1.0})
    assert model.usage == Usage(prompt=2, prompt_saved=8, decoded=3)


def test_tokens_that_are_not_the_text_s_bytes_end_with_the_stop_rule() -> None:
    pieces = [b"\n", b"Zo", b"\xef\xbf\xbd", b"\xef\xbf\xbd", b".\n", b"Q"]
    answer = to_answer(Choice("\nZoë.\nQ", pieces, [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0], cut=True))
    assert answer == Answer("Zoë.", [-1.0, -2.0, -3.0, -4.0, -5.0], "stop")


def test_newer_chat_models_take_max_completion_tokens(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    message = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    server.faults += [status(400, message=message, param="max_tokens", code="unsupported_parameter")]
    model = make(server, endpoint="chat")
    draw(model, prompts[:2], {0: 1.0}, max_new_tokens=5)
    limits = [(body.get("max_tokens"), body.get("max_completion_tokens")) for body in server.bodies]
    assert limits == [(5, None), (None, 5), (None, 5)]
    assert model.notes == []


VLLM_TOO_LONG = (
    "'max_tokens' or 'max_completion_tokens' is too large: 16. This model's maximum context length is 512 tokens and "
    "your request has 500 input tokens (16 > 512 - 500). (parameter=max_tokens, value=16)"
)


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
@pytest.mark.parametrize(
    ("message", "param"),
    [
        (VLLM_TOO_LONG, "max_tokens"),
        (VLLM_TOO_LONG, None),
        (
            "This model's maximum context length is 512 tokens. However, you requested n = 2 answers and 520 tokens. "
            "Please reduce the length of the messages.",
            "messages",
        ),
        ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 512. Given: 500", None),
        (
            "the request exceeds the available context size, try increasing it (exceed_context_size_error)",
            None,
        ),
        ("Prompt is too long", None),
    ],
)
def test_a_prompt_too_long_ends_at_once_names_the_question_and_teaches_nothing(
    endpoint: str, message: str, param: str | None, server: AnswerServer, prompts: list[Prompt], make: Make
) -> None:
    server.faults += [status(400, message=message, param=param)]
    model = make(server, endpoint=endpoint)
    with pytest.raises(ModelError, match=r"question q2: .*prompt too long(.|\n)*sample\.max_new_tokens"):
        draw(model, prompts[2:3], {1: 1.0, 2: 1.0}, max_new_tokens=16)
    assert len(server.bodies) == 1
    draw(model, prompts[:1], {1: 1.0, 2: 1.0}, max_new_tokens=16)
    assert (server.bodies[1]["max_tokens"], server.bodies[1]["n"]) == (16, 2)
    assert model.notes == []


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("completions", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        ("chat", "max_tokens must be at least 32"),
    ],
)
def test_the_longest_answer_is_never_left_out_for_another_reason(
    endpoint: str, message: str, server: AnswerServer, prompts: list[Prompt], make: Make
) -> None:
    server.faults += [status(400, message=message, param="max_tokens")]
    with pytest.raises(ModelError, match="max_tokens"):
        draw(make(server, endpoint=endpoint), prompts[:1], {1: 1.0, 2: 1.0})
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("fault", "gone"),
    [
        (
            status(400, message="Unrecognized request argument supplied: top_k", param=None),
            {"top_k", "min_p"},
        ),
        (status(422, message="Input validation error: `top_p` must be > 0.0 and < 1.0"), {"top_p"}),
        (plain(422, '{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"no"}]}'), {"seed"}),
    ],
    ids=["openai", "tgi", "mistral"],
)
def test_other_refused_parameters_are_left_out(
    fault: Fault, gone: set[str], server: AnswerServer, prompts: list[Prompt], make: Make
) -> None:
    server.faults += [fault]
    model = make(server)
    draw(model, prompts[:2], {0: 1.0})
    assert len(server.bodies) == 3
    assert gone <= set(server.bodies[0])
    assert not gone & set(server.bodies[1])
    assert not gone & set(server.bodies[2])
    assert len(model.notes) == 1


def test_a_model_that_takes_no_temperature_is_refused(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    message = (
        "Unsupported value: 'temperature' does not support 0.1 with this model. Only the default (1) is supported."
    )
    server.faults += [status(400, message=message, param="temperature", code="unsupported_value")]
    with pytest.raises(ModelError, match=r"supports no temperature but its own.*sample\.low_temperature"):
        draw(make(server, endpoint="chat"), prompts)
    assert len(server.bodies) == 1


def test_states_and_missing_messages_are_refused_before_anything_is_asked(
    server: AnswerServer, prompts: list[Prompt], make: Make
) -> None:
    with pytest.raises(ModelError, match="not hidden states"):
        make(server).sample(prompts, HEATS, seed=0, max_new_tokens=8, position="tbg")
    bare = [Prompt("q1", "text")]
    with pytest.raises(ModelError, match=r"question q1.*server.endpoint=completions"):
        make(server, endpoint="chat").sample(bare, HEATS, seed=0, max_new_tokens=8)
    assert server.bodies == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"url": "", "model": "m"}, "needs server.url"),
        ({"url": "http://localhost/v1", "model": ""}, "needs server.model"),
        ({"url": "localhost:8000/v1", "model": "m"}, "not an address such as"),
    ],
)
def test_an_address_that_cannot_be_right(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        ServerModel(ServerConfig(**values), tmp_path / "paid.sqlite")
