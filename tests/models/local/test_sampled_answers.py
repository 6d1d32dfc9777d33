"""Answers of the model in this process: what is drawn, whatever the batch around it, and when an answer ends."""

from typing import Any

import numpy as np
import pytest
import torch

from ka2l.models.interface import Answer, Prompt, Usage
from ka2l.models.local import answer_tree
from ka2l.models.prompts import PromptBuilder
from local_models import MODELS, sample, wrap
from local_models import models as models  # a fixture
from local_models import prompts as prompts  # a fixture
from reference import Reference
from reference import builder as builder
from reference import tokenizer as tokenizer
from tiny import TinyWorld


def test_answers_that_agree_so_far_are_computed_once(
    models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    for rows in (1, 64):
        model = wrap(models["trained"], tokenizer, builder.sensing)
        one = sample(model, prompts, (0.0,), rows=rows)
        alone = model.usage.decoded
        model.usage = Usage()
        same = sample(model, prompts, (0.0,) * 5, rows=rows)
        assert model.usage.decoded == alone
        assert model.usage.decoded_saved == 4 * alone
        for name, result in same.items():
            assert result.answers == one[name].answers * 5
    model.usage = Usage()
    mixed = sample(model, prompts, (0.0, *(1.0,) * 9))
    answers = [answer for result in mixed.values() for answer in result.answers]
    # Every token but the first (the prompt's pass gives it) was either computed or shared. A stop token is not kept.
    total = model.usage.decoded + model.usage.decoded_saved
    assert sum(max(len(a.token_logprobs) - 1, 0) for a in answers) <= total
    assert total <= sum(len(a.token_logprobs) for a in answers)
    assert model.usage.decoded_saved > 0


@pytest.mark.parametrize("name", MODELS)
def test_greedy_answers_do_not_depend_on_the_batch_size(
    name: str, models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    model = wrap(models[name], tokenizer, builder.sensing)
    texts = []
    for rows in (1, 3, 64):
        made = sample(model, prompts, rows=rows)
        texts.append({name: (r.answers[0].text, r.answers[0].finish_reason) for name, r in made.items()})
    assert texts[0] == texts[1] == texts[2]


def test_a_row_that_stops_early_does_not_truncate_the_others(
    models: dict[str, Any], tokenizer: Any, tiny_world: TinyWorld, builder: PromptBuilder
) -> None:
    """SPEC item 3: answers cut short by another row's end became labels."""
    facts = [fact for fact in tiny_world.known if " " in fact["answers"][0]][:3] + tiny_world.known[:6]
    prompts = [Prompt(fact["id"], builder.sensing(fact["question"])) for fact in facts]
    prompts = list(dict.fromkeys(prompts))
    model = wrap(models["trained"], tokenizer, builder.sensing)
    made = sample(model, prompts, (0.0, 1.0, 1.0), rows=64, max_new_tokens=16)
    lengths = {len(answer.token_logprobs) for result in made.values() for answer in result.answers}
    assert len(lengths) > 1, "the test needs rows that end at different steps"
    for prompt in prompts:
        text, tokens, reason = Reference(models["trained"], tokenizer, prompt.text).greedy(16)
        answer = made[prompt.question_id].answers[0]
        assert (answer.text, len(answer.token_logprobs), answer.finish_reason) == (text, len(tokens), reason)


def test_the_length_limit_is_kept_and_said(models: dict[str, Any], tokenizer: Any, prompts: list[Prompt]) -> None:
    made = sample(wrap(models["trained"], tokenizer), prompts[:2], (0.0, 1.0), max_new_tokens=1)
    for result in made.values():
        for answer in result.answers:
            assert len(answer.token_logprobs) <= 1
            assert answer.finish_reason == "length"


def test_samples_do_not_depend_on_the_batch_and_five_are_the_first_of_ten(
    models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    model = wrap(models["trained"], tokenizer, builder.sensing)
    ten = sample(model, prompts, (0.0, *[1.0] * 10), rows=64)
    five = sample(model, prompts[::-1], (0.0, *[1.0] * 5), rows=2)
    alone = sample(model, prompts[4:5], (0.0, *[1.0] * 5))
    for name, result in five.items():
        assert [answer.text for answer in result.answers] == [a.text for a in ten[name].answers[:6]]
    name = prompts[4].question_id
    assert [answer.text for answer in alone[name].answers] == [a.text for a in five[name].answers]
    assert len({answer.text for result in ten.values() for answer in result.answers[1:]}) > len(ten)
    other = sample(model, prompts, (0.0, *[1.0] * 10), rows=64, seed=1)
    assert any(other[name].answers[1:] != ten[name].answers[1:] for name in ten)
    assert all(other[name].answers[0].text == ten[name].answers[0].text for name in ten)


@pytest.mark.parametrize("name", ["trained", "gpt2", "mistral"])
def test_sampled_logprobs_equal_a_rescoring_pass(
    name: str,
    models: dict[str, Any],
    tokenizer: Any,
    builder: PromptBuilder,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows leave the batch at different steps and two temperatures stand side by side; every number stays right."""
    kept: list[tuple[int, int, list[int], list[float]]] = []
    finish = answer_tree._finish

    def remember(question: Any, samples: Any, tokens: Any, logprobs: Any, *others: Any) -> None:
        kept.extend((question.index, number, tokens, logprobs) for number in samples)
        finish(question, samples, tokens, logprobs, *others)

    monkeypatch.setattr(answer_tree, "_finish", remember)
    model = wrap(models[name], tokenizer, builder.sensing)
    made = sample(model, prompts[:6], (0.1, 1.0, 1.0, 2.0), rows=6)
    assert len(kept) == 24
    assert len({len(tokens) for _, _, tokens, _ in kept}) > 1 or name != "trained"
    for index, number, tokens, logprobs in kept:
        prompt = prompts[index]
        answer = made[prompt.question_id].answers[number]
        reference = Reference(models[name], tokenizer, prompt.text)
        assert (answer.text, answer.token_logprobs) == (reference.text(tokens), logprobs)
        assert logprobs == pytest.approx(reference.logprobs(tokens), abs=2e-4)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_samples_follow_the_models_own_probabilities(
    temperature: float,
    models: dict[str, Any],
    tokenizer: Any,
    builder: PromptBuilder,
    prompts: list[Prompt],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First tokens, and second tokens given the likeliest first, against a plain forward pass (chi-square)."""
    from scipy.stats import chisquare

    drawn: list[list[int]] = []

    def remember(question: answer_tree.Question, samples: list[int], tokens: list[int], *_: Any) -> None:
        drawn.extend([tokens] * len(samples))
        question.answers.update(dict.fromkeys(samples, Answer("", [], "stop")))

    monkeypatch.setattr(answer_tree, "_finish", remember)

    n = 6000
    model = wrap(models["llama"], tokenizer, builder.sensing)
    sample(model, prompts[:1], (temperature,) * n, max_new_tokens=2, rows=2000)
    assert len(drawn) == n
    ids = tokenizer(prompts[0].text, return_tensors="pt")["input_ids"]
    firsts = [tokens[0] for tokens in drawn if tokens]
    first = max(set(firsts), key=firsts.count)
    seconds = [tokens[1] for tokens in drawn if tokens[:1] == [first] and len(tokens) == 2]
    assert len(seconds) > 300
    for before, tokens in ((ids, firsts), (torch.cat([ids, torch.tensor([[first]])], dim=1), seconds)):
        with torch.inference_mode():
            exact = torch.softmax(models["llama"](before).logits[0, -1].double() / temperature, -1).numpy()
        exact[tokenizer.eos_token_id] = 0  # an answer that ends keeps no token for it
        exact /= exact.sum()
        counts = np.bincount(tokens, minlength=len(exact))
        likely = exact * len(tokens) >= 5
        assert likely.sum() >= 5
        observed = [*counts[likely], counts[~likely].sum()]
        expected = np.array([*exact[likely], exact[~likely].sum()]) * len(tokens)
        assert chisquare(observed, expected).pvalue > 1e-3


def test_the_trained_model_knows_what_it_was_taught(
    models: dict[str, Any], tokenizer: Any, tiny_world: TinyWorld, builder: PromptBuilder
) -> None:
    facts = tiny_world.known[3:13]
    made = sample(
        wrap(models["trained"], tokenizer, builder.sensing),
        [Prompt(fact["id"], builder.sensing(fact["question"])) for fact in facts],
    )
    right = [made[fact["id"]].answers[0].text in fact["answers"] for fact in facts]
    assert sum(right) >= 9
