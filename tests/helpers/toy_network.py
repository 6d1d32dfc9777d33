"""The smallest network a decoder can have (one linear map per place in the question), and the smallest real model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ka2l.augmentation.network import Generated
from tiny import tiny_facts, train_tokenizer

END = 0
QUESTIONS = [
    f"{ask} {place}?"
    for ask in ("Who rules", "Which sea is near", "What do they eat in the town of", "Where is")
    for place in ("Ana", "Bor", "Cil")
]


class ToyNetwork:
    """The logits of word t are a linear map of the state alone, which is enough for so few rows."""

    kind = "soft_prompt"
    device = torch.device("cpu")

    def __init__(self, width: int, questions: Sequence[str] = QUESTIONS, seed: int = 0):
        self.width = width
        self.words = ["", *sorted({word for question in questions for word in question.split()})]
        length = 1 + max(len(question.split()) for question in questions)
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(length, len(self.words), width, generator=generator) * 0.01
        self.weight = torch.nn.Parameter(weight)
        self.bias = torch.nn.Parameter(torch.zeros(length, len(self.words)))
        self.warm_starts = 0

    def encode(self, text: str) -> list[int]:
        return [*map(self.words.index, text.split()), END]

    def text(self, tokens: Sequence[int]) -> str:
        return " ".join(self.words[token] for token in tokens if token != END)

    def prepare_for_inference(self) -> None:
        pass

    def rate(self, name: str) -> float:  # noqa: ARG002
        return 1.0

    def warm_start(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> None:
        assert len(states) == len(targets)
        self.warm_starts += 1

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return torch.einsum("lvw,nw->nlv", self.weight, states) + self.bias

    def losses(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> torch.Tensor:
        padded = torch.full((len(targets), len(self.bias)), -100)
        for row, target in enumerate(targets):
            padded[row, : len(target)] = torch.tensor(target)
        return torch.nn.functional.cross_entropy(
            self._logits(states).flatten(0, 1), padded.flatten(), ignore_index=-100, reduction="sum"
        )

    @torch.no_grad()
    def generate(self, states: torch.Tensor, temperature: float, uniforms: Any, max_new_tokens: int) -> list[Generated]:
        assert temperature == 0
        assert uniforms is None
        made = []
        for row in self._logits(states).argmax(-1).tolist():
            ended = END in row[:max_new_tokens]
            made.append(Generated(self.text(row[: row.index(END)] if ended else row[:max_new_tokens]), ended))
        return made

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"weight": self.weight, "bias": self.bias}


def toy_states(n: int = len(QUESTIONS), width: int = 16, seed: int = 0) -> np.ndarray:
    """States, [n, width] float32, drawn independently: a linear map can separate them."""
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def toy_tokenizer() -> Any:
    """A byte-level tokenizer, trained on the questions of the tiny world."""
    return train_tokenizer(tiny_facts())


def language_model(tokenizer: Any, size: int = 16) -> tuple[Any, Any]:
    """A model of one layer with random weights, the same each time, since a decoder changes the model it is given."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=size, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, eos_token_id=0, bos_token_id=1, pad_token_id=2,
        initializer_range=0.5,  # with the usual 0.02 the frozen model's output hardly depends on its input
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return LlamaForCausalLM(config).eval(), tokenizer
