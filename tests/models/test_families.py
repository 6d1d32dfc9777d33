"""Every model family users bring, as a tiny random model: the engine equals plain transformers to the last digits.

Families whose attention can be computed in two parts share the prompt's beginning; the others are found out by the
engine itself, say so once and give the same results.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ka2l.models.interface import Prompt, SampledQuestion
from ka2l.models.loading import ResolvedModel
from ka2l.models.local.local_model import LocalModel
from ka2l.models.local.memory_budget import Budget
from ka2l.models.prompts import PromptBuilder
from model_families import FAMILIES, make
from reference import Reference, assert_close
from reference import builder as builder
from reference import tokenizer as tokenizer
from tiny import TinyWorld


@pytest.fixture(scope="module")
def prompts(tiny_world: TinyWorld, builder: PromptBuilder) -> list[Prompt]:
    """Mixed lengths, and one that does not begin like the others."""
    asked = [(fact["id"], fact["question"]) for fact in tiny_world.known[5:9]]
    asked += [("long", "What is the capital of " + "Kalobe and of " * 4 + "Kalobe?"), ("short", "Who?")]
    made = [Prompt(name, builder.sensing(question)) for name, question in asked]
    return [*made, Prompt("odd", "Something else entirely: " + asked[0][1] * 2)]


def sample(model: LocalModel, prompts: Sequence[Prompt], temperatures: dict[int, float]) -> dict[str, SampledQuestion]:
    made = model.sample(prompts, temperatures, seed=0, max_new_tokens=8, position="tbg")
    return {result.question_id: result for result in made}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_equals_plain_transformers(
    family: str, tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    said: list[str] = []
    plain = make(family, tokenizer)
    before = plain.config._attn_implementation
    model = LocalModel(plain, tokenizer, ResolvedModel(family, family, "0"), say=said.append)
    assert plain.config._attn_implementation == before
    model.budget = Budget(64, 12)  # several passes, and rows of different questions side by side
    model.share_prefix(builder.sensing)
    made = sample(model, prompts, {0: 0.0, 1: 1.0, 2: 1.0})
    assert plain.config._attn_implementation == before
    shares = FAMILIES[family][2]
    assert (model.usage.prompt_saved > 0) == shares
    middle = model.states(prompts, 2, position="tbg")
    entropy = model.next_token_signals(prompts).entropy
    for i, prompt in enumerate(prompts):
        reference, result = Reference(plain, tokenizer, prompt.text), made[prompt.question_id]
        text, tokens, reason = reference.greedy()
        assert (result.answers[0].text, result.answers[0].finish_reason) == (text, reason)
        assert result.answers[0].token_logprobs == pytest.approx(reference.logprobs(tokens), abs=5e-4)
        assert result.states is not None
        expected = reference.states()
        assert_close(result.states, expected)
        assert_close(middle[i], expected[2])
        assert entropy[i] == pytest.approx(reference.entropy(), rel=1e-3, abs=1e-4)
    assert len(said) == (0 if shares else 1), "said once, though three methods were used"
    assert all(family in text and "in full" in text for text in said)


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "GPT-2", "Mistral-left"])
def test_samples_are_the_same_with_and_without_a_shared_beginning(
    family: str, tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    plain = make(family, tokenizer)
    temperatures = {0: 0.1, 3: 1.0, 7: 1.0, 8: 2.0}
    answers = []
    for share in (True, False):
        model = LocalModel(plain, tokenizer, ResolvedModel(family, family, "0"))
        if share:
            model.share_prefix(builder.sensing)
        made = sample(model, prompts, temperatures)
        answers.append({name: [a.text for a in result.answers] for name, result in made.items()})
    assert answers[0] == answers[1]
    assert len({text for texts in answers[0].values() for text in texts}) > len(prompts)


def test_half_precision_is_as_close_as_half_precision_is(
    tokenizer: Any, builder: PromptBuilder, prompts: list[Prompt]
) -> None:
    plain = make("Llama", tokenizer).to(torch.bfloat16)
    model = LocalModel(plain, tokenizer, ResolvedModel("half", "half", "0"))
    model.share_prefix(builder.sensing)
    made = sample(model, prompts, {0: 0.0})
    assert model.usage.prompt_saved > 0
    for prompt in prompts:
        states = made[prompt.question_id].states
        assert states is not None
        assert states.dtype == np.float32
        expected = Reference(plain, tokenizer, prompt.text).states()
        error = np.linalg.norm(states - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
        assert error.max() < 0.05
