"""Validation while a decoder trains: which check is the best, when patience ends, and output that is not a number."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ka2l.augmentation.network import Generated
from ka2l.augmentation.validation_checks import best_check, checks_without_improvement
from ka2l.errors import Ka2lError
from toy_network import QUESTIONS, ToyNetwork
from toy_training import SETTINGS, WIDTH, learn, same, values


class Scripted(ToyNetwork):
    """Generates the given texts with the given loss at each check, and remembers its parameters then."""

    def __init__(self, checks: list[tuple[list[str], float]]):
        super().__init__(WIDTH)
        self.checks, self.loss = iter(checks), math.nan
        self.seen: list[dict[str, np.ndarray]] = []

    def generate(self, states: torch.Tensor, *_: Any) -> list[Generated]:
        self.seen.append(values(self))
        said, self.loss = next(self.checks)
        assert len(said) == len(states)
        return [Generated(text, True) for text in said]

    def losses(self, states: torch.Tensor, targets: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            return super().losses(states, targets)
        return torch.tensor(self.loss * sum(map(len, targets)))


NONE = ["?"] * len(QUESTIONS)


SOME = [*QUESTIONS[:3], *NONE[3:]]


WITH_ARTICLE = [f"The {question}" for question in SOME]  # token F1 knows no articles


@pytest.mark.parametrize(
    ("checks", "best"),
    [
        ([(NONE, 1), (SOME, 1), (NONE, 1), (NONE, 1), (NONE, 1)], 2),
        ([(SOME, 1), (SOME, 1), (NONE, 1), (SOME, 1)], 1),  # of equal checks the first
        ([(SOME, 2), (SOME, 1), (NONE, 1), (SOME, 2), (SOME, 3)], 2),  # of the same texts the lower loss
        # as good by F1, better by exact ones
        ([(WITH_ARTICLE, 1), (SOME, 2), (SOME, 3), (NONE, 1), (NONE, 1)], 2),
        ([(NONE, 1), (SOME, 1), (NONE, 1), (NONE, 1), (QUESTIONS, 1), *[(NONE, 1)] * 3], 5),
        # the loss still falls
        ([(SOME, 6), (NONE, 5), (NONE, 4), (NONE, 3), (NONE, 3), (NONE, 3), (NONE, 3)], 1),
        ([(SOME, 6), (NONE, 5), (NONE, 6), (NONE, 6), (QUESTIONS, 9), *[(SOME, 9)] * 3], 5),
    ],
)
def test_the_best_check_is_kept_and_patience_ends(
    checks: list[tuple[list[str], float]], best: int, tmp_path: Path
) -> None:
    network = Scripted(checks)
    trained = learn(network, tmp_path, SETTINGS.model_copy(update={"patience": 3, "eval_steps": 3}))
    assert next(network.checks, None) is None
    assert (trained.best_step, trained.steps) == (3 * best, 3 * len(checks))
    assert same(values(network), network.seen[best - 1])
    assert not same(values(network), network.seen[-1])
    told = {name: trained.history[best - 1][name] for name in ("exact", "f1", "bleu", "n")}
    assert trained.quality._asdict() == told
    assert [entry["held_out_loss"] for entry in trained.history] == pytest.approx([loss for _, loss in checks])


def test_what_comes_back_word_for_word_decides_then_the_loss_and_never_f1() -> None:
    """A decoder that leaves the names out has a high F1: it says nothing wrong."""
    nameless = {"step": 0, "f1": 0.87, "exact": 0.0, "held_out_loss": 2.6}
    wrong = {"step": 1, "f1": 0.82, "exact": 0.0, "held_out_loss": 2.3}
    right = {"step": 2, "f1": 0.82, "exact": 0.1, "held_out_loss": 2.4}
    assert best_check([nameless, wrong]) is wrong
    assert best_check([nameless, wrong, right]) is right
    assert checks_without_improvement([nameless, wrong]) == 0
    assert checks_without_improvement([wrong, {**wrong, "step": 2}, {**wrong, "step": 3}]) == 2


def test_the_last_step_is_checked_too(tmp_path: Path) -> None:
    trained = learn(ToyNetwork(WIDTH), tmp_path, SETTINGS.model_copy(update={"eval_steps": 10**6}))
    assert [entry["step"] for entry in trained.history] == [trained.steps] == [trained.best_step]


def test_a_held_out_loss_that_is_not_a_number_says_so(tmp_path: Path) -> None:
    network = Scripted([(NONE, 1), (NONE, math.inf)])
    with pytest.raises(Ka2lError, match=r"failed at step 10 of \d+: the loss on validation questions is inf"):
        learn(network, tmp_path)
