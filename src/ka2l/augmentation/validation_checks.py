"""Validation of a decoder while it trains: what it generates for questions kept out, which check was best, when to
stop.

The generated text counts before the loss: first how many questions come back word for word, then the loss. Token F1 is
reported and decides nothing. On questions of one template it is high after a few steps and then moves by chance
(measured on GeoNames: 0.82 to 0.84 from step 50 to 250, while the loss falls from 1.6 to 1.2 nats a token), and a
decoder that leaves the name out scores higher than one that generates a wrong name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.augmentation.length_batches import batches
from ka2l.augmentation.network import Network
from ka2l.augmentation.reconstruction import reconstruction

# Questions generated together.
_ROWS = 64
ValidationCheck = dict[str, Any]
"""Keys: step, seconds, loss and held_out_loss (nats a token), exact, f1, bleu, n."""


class DecoderExamples(NamedTuple):
    """Hidden states, and the question to reconstruct from each."""

    states: NDArray[np.float32]
    """[rows, width], standardised."""
    questions: Sequence[str]
    """[rows]."""


class ValidationRows:
    """Questions that are not trained on.

    Args:
        network: the one that is trained.
        examples: at least one.
        batch_tokens: target tokens in one pass.
    """

    def __init__(self, network: Network, examples: DecoderExamples, batch_tokens: int):
        self._network, self._questions = network, examples.questions
        self._states = torch.from_numpy(examples.states)
        self._targets = [network.encode(question) for question in examples.questions]
        self._lengths = [len(target) for target in self._targets]
        self._batches = batches(self._lengths, batch_tokens, seed=0, epoch=0)

    def check(self, on_all: Callable[..., list[Any]], workers: int) -> ValidationCheck:
        """Generate all of them greedily, and compute their loss.

        Args:
            on_all: a `map` over the workers.
            workers: how many there are.

        Returns:
            the keys held_out_loss, exact, f1, bleu and n of a check.

        Raises:
            NotFiniteError: the network's logits are not finite.
        """
        longest = max(self._lengths)
        n = len(self._questions)
        rounds = math.ceil(n / (_ROWS * workers))
        # Parts of equal size, so that no worker waits.
        parts = self._states.tensor_split(min(n, rounds * workers))
        generated = on_all(lambda part: self._network.generate(part, 0.0, None, longest), parts)
        quality = reconstruction([one.text for part in generated for one in part], self._questions)
        loss = sum(on_all(self._loss, self._batches)) / sum(self._lengths)
        return {"held_out_loss": loss, **quality._asdict()}

    @torch.no_grad()
    def _loss(self, rows: list[int]) -> float:
        return float(self._network.losses(self._states[rows], [self._targets[row] for row in rows]))


def best_check(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The check with the most exact questions, then the lowest loss; of equal ones the first."""
    return max(history, key=lambda check: (check["exact"], -check["held_out_loss"]))


def checks_without_improvement(history: Sequence[Mapping[str, Any]]) -> int:
    """Number of checks since the last one that was the best or had the lowest loss."""
    lowest = min(history, key=lambda check: check["held_out_loss"])
    last = max(best_check(history)["step"], lowest["step"])
    return sum(check["step"] > last for check in history)
