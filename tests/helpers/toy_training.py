"""Trains the toy network of `toy_network` as a decoder, and ends a training at a given step as `kill -9` would."""

from pathlib import Path
from typing import Any

import numpy as np

from ka2l.augmentation.decoder_training import Trained, train
from ka2l.augmentation.settings import DecoderConfig
from ka2l.augmentation.validation_checks import DecoderExamples
from toy_network import QUESTIONS, ToyNetwork, toy_states

WIDTH = 16


# 12 questions, 79 tokens: 3 or 4 batches an epoch.
SETTINGS = DecoderConfig(epochs=10, batch_tokens=30, learning_rate=0.05, eval_steps=5, patience=100, minutes=0.0)


def learn(network: Any, folder: Path, settings: DecoderConfig = SETTINGS, **options: Any) -> Trained:
    """Train and validate on the same questions: can the network generate what it was trained on?"""
    examples = DecoderExamples(options.pop("states", toy_states(width=WIDTH)), QUESTIONS)
    return train(
        network, examples, examples, settings, folder / "training",
        **{"seed": 0, "fingerprint": "f", **options},
    )  # fmt: skip


def values(network: ToyNetwork) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in network.parameters().items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


class Killed(Exception):  # noqa: N818  (as `kill -9` does, it only ends things)
    pass


def killed_at(step: int) -> Any:
    def on_step(now: int, _total: int) -> None:
        if now == step:
            raise Killed

    return on_step


def without_time(trained: Trained) -> Any:
    history = [{**entry, "seconds": 0} for entry in trained.history]
    return trained._replace(seconds=0, resumed_from=None, history=history)
