"""How likely a model begins its answer with each of a few given ones: exact numbers, and refusals where there are
none.
"""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from ka2l.errors import ModelError
from ka2l.models.interface import Prompt
from ka2l.models.loading import ResolvedModel
from ka2l.models.local.local_model import LocalModel
from ka2l.models.local.next_token import first_tokens
from ka2l.models.prompts import PromptBuilder
from reference import builder as builder
from reference import tokenizer as tokenizer
from tiny import TinyWorld

SPACED = (" entailment", " neutral", " contradiction")  # in the tiny vocabulary they begin with a lone space


@pytest.fixture(scope="module")
def models(tiny_world: TinyWorld, tokenizer: Any) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.3
        )
        return {
            "trained": LlamaForCausalLM.from_pretrained(tiny_world.folder).eval(),
            "gpt2": GPT2LMHeadModel(config).eval(),
        }


@pytest.fixture(scope="module")
def prompts(tiny_world: TinyWorld, builder: PromptBuilder) -> list[Prompt]:
    questions = [fact["question"] for fact in tiny_world.facts[:5]] + [
        "Which " + "long " * 30 + "one?",
        "Who?",
    ]
    return [Prompt(f"q{i}", builder.sensing(question)) for i, question in enumerate(questions)]


def wrap(model: Any, tokenizer: Any) -> LocalModel:
    return LocalModel(model, tokenizer, ResolvedModel("tiny", "tiny", "0"))


def words(world: TinyWorld, tokenizer: Any) -> list[str]:
    """Three answers that begin with different tokens."""
    answers = {tokenizer(f" {fact['answers'][0]}")["input_ids"][0]: fact["answers"][0] for fact in world.facts}
    return [f" {answer}" for answer in list(answers.values())[:3]]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["trained", "gpt2"])
def test_equal_to_plain_transformers(
    name: str,
    shared: bool,
    models: dict[str, Any],
    tokenizer: Any,
    builder: PromptBuilder,
    prompts: list[Prompt],
    tiny_world: TinyWorld,
) -> None:
    choices = words(tiny_world, tokenizer)
    model = wrap(models[name], tokenizer)
    if shared:
        model.share_prefix(builder.sensing)
    found = model.choice_log_probabilities(prompts, choices)
    assert (found.shape, found.dtype) == ((7, 3), np.float32)
    for row, prompt in zip(found, prompts, strict=True):
        ids = tokenizer(prompt.text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            expected = models[name](input_ids=ids).logits[0, -1].double().log_softmax(-1)
        first = [tokenizer(prompt.text + choice)["input_ids"][ids.shape[1]] for choice in choices]
        np.testing.assert_allclose(row, expected[first], rtol=1e-3, atol=1e-3)


def test_a_known_answer_is_the_likeliest(
    models: dict[str, Any], tokenizer: Any, builder: PromptBuilder, tiny_world: TinyWorld
) -> None:
    facts = tiny_world.known[4:10]
    first = {tokenizer(" " + fact["answers"][0])["input_ids"][0]: fact for fact in facts}
    facts = list(first.values())  # whose answers begin differently
    prompts = [Prompt(fact["id"], builder.sensing(fact["question"])) for fact in facts]
    found = wrap(models["trained"], tokenizer).choice_log_probabilities(
        prompts, [" " + fact["answers"][0] for fact in facts]
    )
    assert len(facts) > 2
    assert found.argmax(axis=1).tolist() == list(range(len(facts)))
    assert (np.exp(found).sum(axis=1) <= 1 + 1e-5).all()


def test_what_all_choices_begin_with_goes_to_the_prompt(
    models: dict[str, Any], tokenizer: Any, prompts: list[Prompt]
) -> None:
    assert len({tokenizer(choice)["input_ids"][0] for choice in SPACED}) == 1
    model = wrap(models["trained"], tokenizer)
    longer = [prompt._replace(text=prompt.text + " ") for prompt in prompts]
    np.testing.assert_array_equal(
        model.choice_log_probabilities(prompts, SPACED),
        model.choice_log_probabilities(longer, [choice[1:] for choice in SPACED]),
    )


def test_no_prompts(models: dict[str, Any], tokenizer: Any) -> None:
    assert wrap(models["gpt2"], tokenizer).choice_log_probabilities([], SPACED).shape == (0, 3)


@pytest.mark.parametrize("choices", [(" yes", " yes, it is"), (" yes", " you", " no")])
def test_choices_that_begin_alike_are_refused(
    choices: tuple[str, ...], models: dict[str, Any], tokenizer: Any, prompts: list[Prompt]
) -> None:
    with pytest.raises(ModelError, match=rf"answers ' yes', {choices[1]!r}.* do not each begin with a token"):
        wrap(models["gpt2"], tokenizer).choice_log_probabilities(prompts, choices)


def test_an_answer_that_melts_into_the_prompt_is_refused(models: dict[str, Any], tokenizer: Any) -> None:
    word = next(t for t in tokenizer.get_vocab() if t.isascii() and t.isalpha() and len(t) > 3)
    with pytest.raises(ModelError, match=f"after '{word[:2]}'"):
        wrap(models["gpt2"], tokenizer).choice_log_probabilities([Prompt("q", word[:2])], (word[2:], " no"))


def test_a_choice_is_read_behind_the_prompts_last_line() -> None:
    seen: list[str] = []

    class Tokenizer:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            assert not add_special_tokens
            seen.append(text)
            return {"input_ids": [7, *map(ord, text)] if text.startswith(" ") else [*map(ord, text)]}

    asked = [Prompt("a", "One\nAnswer:"), Prompt("b", "Two\nAnswer:"), Prompt("c", "<|user|>\n")]
    found = first_tokens(Tokenizer(), asked, ("X", "Yes"))
    assert [[found.tokens[i] for i in row] for row in found.columns] == [[ord("X"), ord("Y")]] * 3
    assert len(seen) == 6  # both choices and the bare end, behind each of two ends
    assert not any("One" in text or "Two" in text for text in seen)
