"""How one token is drawn, from which random stream, and when an answer is done."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.models.base import Answer
from ka2l.prompts import is_finished, trim_answer


class Rows:
    """What each row has generated so far, and when it is done."""

    def __init__(self, count: int, stop_ids: set[int], text_of: Any, breaks: Any):
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.logprobs: list[list[float]] = [[] for _ in range(count)]
        self.done = [False] * count
        self._stop_ids, self._text_of, self._breaks = stop_ids, text_of, breaks

    def take(self, rows: list[int], tokens: list[int], logprobs: list[float]) -> list[bool]:
        """Append one token to each of these rows; returns which go on. The stop token itself is not kept."""
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            if self.done[row]:
                continue
            if token in self._stop_ids:
                self.done[row] = True
                continue
            self.tokens[row].append(token)
            self.logprobs[row].append(logprob)
            if self._breaks(token) and is_finished(self._text_of(self.tokens[row])):
                self.done[row] = True
        return [not self.done[row] for row in rows]

    def answers(self) -> list[Answer]:
        return [
            Answer(trim_answer(self._text_of(tokens)), logprobs, "stop" if done else "length")
            for tokens, logprobs, done in zip(self.tokens, self.logprobs, self.done, strict=True)
        ]


def draw(
    logits: torch.Tensor, temperatures: torch.Tensor, uniforms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row by inverting the cumulative distribution at its uniform number; temperature 0 is greedy.

    Returns tokens and their log-probabilities at temperature 1.
    """
    logits = logits.float()
    logprobs = torch.log_softmax(logits, dim=-1)
    tokens = logits.argmax(dim=-1)
    hot = temperatures > 0
    if bool(hot.any()):
        scaled = torch.softmax(logits[hot] / temperatures[hot, None], dim=-1)
        cumulative = scaled.cumsum(dim=-1, dtype=torch.float64)
        target = uniforms[hot, None].double() * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, target, right=True)
        tokens[hot] = drawn.squeeze(1).clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)


def uniforms(seed: int, question_ids: Sequence[str], samples: int, steps: int) -> NDArray[np.float64]:
    """[questions × samples, steps] numbers in [0, 1), each row a stream of its own."""
    rows = []
    for question_id in question_ids:
        name = int.from_bytes(hashlib.sha256(question_id.encode()).digest()[:8], "big")
        rows += [
            np.random.Generator(np.random.Philox(key=_key(seed, name, i))).random(steps)
            for i in range(samples)
        ]
    return np.asarray(rows, dtype=np.float64)


def _key(seed: int, name: int, sample: int) -> NDArray[np.uint64]:
    return np.random.SeedSequence([seed, name, sample]).generate_state(2, np.uint64).astype(np.uint64)
