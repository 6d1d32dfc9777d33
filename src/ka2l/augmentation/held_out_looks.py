"""Looks at a decoder while it trains: what it says of held-out questions, which look was the best, and when to stop.

What it says counts before its loss: how many questions come back word for word. Token F1 is shown and decides nothing. Of
questions of one template it is high after a few steps and then moves by chance (measured on GeoNames: 0.82 to 0.84 from step
50 to 250, while the loss falls from 1.6 to 1.2 nats a token), and a decoder that leaves the name out has more of it than one that
says a wrong name. Where nothing comes back yet, the loss decides.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.augmentation.length_batches import batches
from ka2l.augmentation.network import Network
from ka2l.augmentation.reconstruction import reconstruction

_ROWS = 64  # questions generated together
Look = dict[str, Any]  # step, seconds, loss, held_out_loss (nats a token), exact, f1, bleu, n


class HeldOut:
    """Questions that are not trained on.

    Args:
        network: the one that trains.
        states: [m, width], standardised.
        questions: [m].
        batch_tokens: of targets in one pass.
    """

    def __init__(
        self, network: Network, states: NDArray[np.float32], questions: Sequence[str], batch_tokens: int
    ):
        self._network, self._states, self._questions = network, torch.from_numpy(states), questions
        self._targets = [network.encode(question) for question in questions]
        self._lengths = [len(target) for target in self._targets]
        self._batches = batches(self._lengths, batch_tokens, seed=0, epoch=0)

    def look(self, on_all: Callable[..., list[Any]], workers: int) -> Look:
        """Say all of them greedily, and take their loss.

        Args:
            on_all: a `map` over the workers.
            workers: how many there are.

        Raises:
            NotFiniteError: what the network says is not a number.
        """
        longest = max(self._lengths)
        n = len(self._questions)
        rounds = math.ceil(n / (_ROWS * workers))
        parts = self._states.tensor_split(min(n, rounds * workers))  # equal ones, so that no worker waits
        made = on_all(lambda part: self._network.generate(part, 0.0, None, longest), parts)
        quality = reconstruction([one.text for part in made for one in part], self._questions)
        loss = sum(on_all(self._loss, self._batches)) / sum(self._lengths)
        return {"held_out_loss": loss, **quality._asdict()}

    @torch.no_grad()
    def _loss(self, rows: list[int]) -> float:
        return float(self._network.losses(self._states[rows], [self._targets[row] for row in rows]))


def best_look(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """By the share of exact questions, then by the loss; of equal looks the first."""
    return max(history, key=lambda look: (look["exact"], -look["held_out_loss"]))


def looks_in_vain(history: Sequence[Mapping[str, Any]]) -> int:
    """Looks since the last that was the best, or had the lowest loss."""
    lowest = min(history, key=lambda look: look["held_out_loss"])
    last = max(best_look(history)["step"], lowest["step"])
    return sum(look["step"] > last for look in history)
