"""Models of several architectures in this process, and what to ask them, for comparisons with plain transformers.

The trained tiny Llama and random models of four architectures, two of them awkward: GPT-2 has absolute positions, and
the Mistral here has a sliding window shorter than its prompts.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from ka2l.models.interface import Position, Prompt, SampledQuestion
from ka2l.models.loading import ResolvedModel
from ka2l.models.local.local_model import LocalModel
from ka2l.models.local.memory_budget import Budget
from ka2l.models.prompts import PromptBuilder
from reference import NEW_TOKENS
from tiny import TinyWorld

WINDOW = 24  # of the sliding models: shorter than any prompt with shots
RANDOM_MODELS = ("llama", "gpt2", "qwen2", "mistral")
MODELS = ("trained", *RANDOM_MODELS)


@pytest.fixture(scope="module")
def prompts(tiny_world: TinyWorld, builder: PromptBuilder) -> list[Prompt]:
    """Prompts of mixed lengths: known and unknown facts, and questions much longer than the others."""
    facts = tiny_world.known[5:10] + tiny_world.unknown[:4]
    asked = [(fact["id"], fact["question"]) for fact in facts]
    asked += [("long", "What is the capital of " + "Kalobe and of " * 9 + "Kalobe?"), ("short", "Who?")]
    return [Prompt(name, builder.sensing(question)) for name, question in asked]


@pytest.fixture(scope="module")
def models(tiny_world: TinyWorld, tokenizer: Any) -> dict[str, Any]:
    """Each architecture once; a test wraps it in a fresh LocalModel."""
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": 2}
    size: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,  # far from uniform, so that greedy choices are not ties
        **ids,
    }
    short = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512, "initializer_range": 0.3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {
            "trained": LlamaForCausalLM.from_pretrained(tiny_world.folder).eval(),
            "llama": LlamaForCausalLM(LlamaConfig(**size)).eval(),
            "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **short, **ids)).eval(),
            # Full attention in the first two layers, a sliding window in the last.
            "qwen2": Qwen2ForCausalLM(
                Qwen2Config(**size, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2)
            ).eval(),
            "mistral": MistralForCausalLM(MistralConfig(**size, sliding_window=WINDOW)).eval(),
        }


def wrap(model: Any, tokenizer: Any, build: Any = None) -> LocalModel:
    """A model of its own, so that one test's prefix is not another's."""
    local = LocalModel(model, tokenizer, ResolvedModel("tiny", "tiny", "0"))
    if build is not None:
        local.share_prefix(build)
    return local


def sample(
    model: LocalModel,
    prompts: Sequence[Prompt],
    temperatures: Sequence[float] = (0.0,),
    *,
    rows: int = 4,
    max_new_tokens: int = NEW_TOKENS,
    position: Position | None = None,
    seed: int = 0,
) -> dict[str, SampledQuestion]:
    """Samples numbered from 0; `rows` is the most that is computed together."""
    model.budget = Budget(16 * rows, rows)
    made = model.sample(
        prompts,
        dict(enumerate(temperatures)),
        seed=seed,
        max_new_tokens=max_new_tokens,
        position=position,
    )
    results = list(made)
    assert sorted(result.question_id for result in results) == sorted(prompt.question_id for prompt in prompts)
    return {result.question_id: result for result in results}
