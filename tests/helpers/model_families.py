"""Tiny models of many families with random weights."""

from typing import Any

import torch
import transformers as hf

from reference import builder as builder
from reference import tokenizer as tokenizer

BIG, SMALL = 400, 24  # windows: longer than any prompt, and shorter than all
ROPE = {"short_factor": [1.0] * 4, "long_factor": [1.5] * 4, "rope_type": "longrope", "rope_theta": 1e4}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512, "initializer_range": 0.3}

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # far from uniform, so that greedy choices are not ties
}

# Name → config, model, settings on top of SIZE, whether the beginning can be shared. Who stands for what: SPEC.md.
FAMILIES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "Llama": ("Llama", {}, True),  # Llama 2 and 3.1, SmolLM2
    "Llama3-rope": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
        True,
    ),
    "Mistral-v0.3": ("Mistral", {"sliding_window": None}, True),
    "Mistral-v0.1": ("Mistral", {"sliding_window": BIG}, True),
    "Mistral-left": ("Mistral", {"sliding_window": SMALL}, False),
    "Qwen2": ("Qwen2", {}, True),  # Qwen 1.5 and 2.5, R1-Distill
    "Qwen2-sliding": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": SMALL, "max_window_layers": 2},
        False,
    ),
    "Qwen3": ("Qwen3", {}, True),
    "Phi3": ("Phi3", {"pad_token_id": 2, "sliding_window": BIG}, True),
    "Phi3.5-longrope": (
        "Phi3",
        {"pad_token_id": 2, "rope_parameters": ROPE, "original_max_position_embeddings": 300},
        True,
    ),
    "Glm": ("Glm", {"pad_token_id": 2, "attention_bias": True}, True),  # glm4-9b-chat
    "Glm4": ("Glm4", {"pad_token_id": 2}, True),
    "Gemma2": ("Gemma2", {"sliding_window": BIG, "attn_logit_softcapping": 5.0}, True),
    "Gemma2-left": ("Gemma2", {"sliding_window": SMALL}, False),
    "Gemma3": ("Gemma3Text", {"sliding_window": BIG}, True),
    "GPT-NeoX": ("GPTNeoX", {}, True),
    "GPT-2": ("GPT2", GPT2, True),
    # Neither attends through the interface: positions as a bias of the scores, and an attention of its own.
    "Bloom": ("Bloom", {"n_layer": 3, "n_head": 4, "initializer_range": 0.3}, False),
    "GPT-J": ("GPTJ", GPT2 | {"rotary_dim": 4}, False),
}


def make(family: str, tokenizer: Any) -> Any:
    """A tiny model of this family with random weights."""
    name, settings, _ = FAMILIES[family]
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": 2}
    config_class = getattr(hf, f"{name}Config")
    size = {} if name in ("GPT2", "GPTJ") else SIZE
    model_class = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(name, f"{name}ForCausalLM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = config_class(vocab_size=len(tokenizer), **(size | ids | settings))
        return getattr(hf, model_class)(config).eval()
