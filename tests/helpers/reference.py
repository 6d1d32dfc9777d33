"""The results of plain transformers for one prompt, to compare KA2L's engine with, and fixtures for such tests."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from ka2l.models.interface import Position
from ka2l.models.prompts import PromptBuilder, Shot, is_finished, trim_answer
from ka2l.models.settings import PromptConfig
from tiny import TinyWorld

NEW_TOKENS = 8


@pytest.fixture(scope="module")
def tokenizer(tiny_world: TinyWorld) -> Any:
    return AutoTokenizer.from_pretrained(tiny_world.folder)


@pytest.fixture(scope="module")
def builder(tiny_world: TinyWorld) -> PromptBuilder:
    shots = [Shot(fact["question"], fact["answers"][0]) for fact in tiny_world.known[:3]]
    return PromptBuilder(PromptConfig(shots=3), shots)


class Reference:
    """The results of plain transformers for one prompt, without padding, shared prefixes or batches."""

    def __init__(self, model: Any, tokenizer: Any, text: str):
        self.model, self.tokenizer = model, tokenizer
        self.ids = tokenizer(text, return_tensors="pt")["input_ids"]

    @torch.inference_mode()
    def greedy(self, new_tokens: int = NEW_TOKENS) -> tuple[str, list[int], str]:
        """Text, kept tokens and finish reason, with the stop rule applied afterwards."""
        made = self.model.generate(
            input_ids=self.ids,
            attention_mask=torch.ones_like(self.ids),
            do_sample=False,
            max_new_tokens=new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
        )[0, self.ids.shape[1] :].tolist()
        kept: list[int] = []
        for token in made:
            if token == self.tokenizer.eos_token_id:
                return self.text(kept), kept, "stop"
            kept.append(token)
            if is_finished(self.tokenizer.decode(kept, skip_special_tokens=True)):
                bare = not self.tokenizer.decode([token]).strip()
                return self.text(kept), kept[:-1] if bare else kept, "stop"
        return self.text(kept), kept, "length"

    def text(self, tokens: list[int]) -> str:
        return trim_answer(self.tokenizer.decode(tokens, skip_special_tokens=True))

    @torch.inference_mode()
    def states(self, position: Position = "tbg", own: int = 0) -> NDArray[np.float32]:
        """Hidden states, [layers + 1, width]; `own` is the index of the question's first token."""
        hidden = self.model(input_ids=self.ids, output_hidden_states=True).hidden_states
        rows = [h[0, -1] if position == "tbg" else h[0, own:].mean(0) for h in hidden]
        return np.asarray(torch.stack(rows).float().numpy())

    @torch.inference_mode()
    def logprobs(self, tokens: list[int]) -> list[float]:
        """Rescoring: the log-probability of each token in one forward pass over prompt and answer."""
        whole = torch.cat([self.ids, torch.tensor([tokens], dtype=torch.long)], dim=1)
        scores = torch.log_softmax(self.model(input_ids=whole).logits[0].float(), dim=-1)
        start = self.ids.shape[1] - 1
        return [float(scores[start + i, token]) for i, token in enumerate(tokens)]

    @torch.inference_mode()
    def probabilities(self) -> NDArray[np.float64]:
        """Probabilities of the next token, [vocabulary]."""
        return np.asarray(self.model(input_ids=self.ids).logits[0, -1].double().softmax(-1).numpy())

    def entropy(self) -> float:
        p = self.probabilities()
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def assert_close(actual: NDArray[np.floating], expected: NDArray[np.floating]) -> None:
    """Equal to 1e-4 of the length of each expected vector."""
    error = np.linalg.norm(actual - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert error.max() < 1e-4, f"relative errors up to {error.max():.1e}"
