"""The training of a decoder: it learns, its updates and learning rate, its time limit, and errors with advice."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ka2l.augmentation import decoder_training
from ka2l.augmentation.decoder_training import train
from ka2l.augmentation.network import Generated
from ka2l.augmentation.settings import DecoderConfig
from ka2l.augmentation.validation_checks import DecoderExamples, best_check
from ka2l.errors import DegenerateError, Ka2lError, ModelError
from toy_network import QUESTIONS, ToyNetwork, toy_states
from toy_training import SETTINGS, WIDTH, Killed, learn, values


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_it_learns_to_say_the_questions(tmp_path: Path) -> None:
    network = ToyNetwork(WIDTH)
    steps: list[tuple[int, int]] = []
    lines: list[str] = []
    settings = SETTINGS.model_copy(update={"epochs": 40, "eval_steps": 50})
    trained = learn(network, tmp_path, settings, on_step=lambda *now: steps.append(now), say=lines.append)
    made = network.generate(torch.from_numpy(toy_states(width=WIDTH)), 0.0, None, 9)
    assert [one.text for one in made] == QUESTIONS
    assert (trained.quality.exact, trained.quality.f1, trained.quality.n) == (1.0, 1.0, len(QUESTIONS))
    total = trained.steps
    assert steps == [(step, total) for step in range(1, total + 1)]
    assert [entry["step"] for entry in trained.history] == sorted({*range(50, total, 50), total})
    assert len(lines) == len(trained.history)
    assert lines[-1].startswith(f"decoder: step {total} of {total}, ")
    losses = [entry["loss"] for entry in trained.history]
    with torch.no_grad():
        nats = network.losses(
            torch.from_numpy(toy_states(width=WIDTH)), [network.encode(question) for question in QUESTIONS]
        )
    assert best_check(trained.history)["held_out_loss"] * trained.tokens / 40 == pytest.approx(float(nats))
    assert losses[-1] < 0.1 < losses[0] < math.log(len(network.words)) + 0.1  # nats a token
    assert trained.tokens == 40 * sum(len(network.encode(question)) for question in QUESTIONS)
    assert (network.warm_starts, trained.resumed_from) == (1, None)
    assert trained.seconds == pytest.approx(trained.history[-1]["seconds"], abs=0.06)


def test_one_update_is_one_of_adamw_on_the_mean_of_a_tokens_nats(tmp_path: Path) -> None:
    settings = DecoderConfig(epochs=1, batch_tokens=1000, learning_rate=0.01, weight_decay=0.1)
    network, reference = ToyNetwork(WIDTH), ToyNetwork(WIDTH)
    states = torch.from_numpy(toy_states(width=WIDTH))
    targets = [reference.encode(question) for question in QUESTIONS]
    (reference.losses(states, targets) / sum(map(len, targets))).backward()
    parameters = list(reference.parameters().values())
    rate = 0.01 * 0.5 * (1 + math.cos(math.pi * (0.5 - 0.05) / 0.95))  # the middle of the only step
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.1)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    assert learn(network, tmp_path, settings).steps == 1
    for name, value in values(reference).items():
        np.testing.assert_allclose(values(network)[name], value, rtol=0, atol=1e-6)


class Slope(ToyNetwork):
    """The loss is a slope, so that every update of AdamW is the learning rate."""

    def losses(self, states: torch.Tensor, targets: Any) -> torch.Tensor:  # noqa: ARG002
        return self.weight.sum() * sum(map(len, targets)) + 0.0 * self.bias.sum()


def updates(folder: Path, settings: DecoderConfig) -> np.ndarray:
    network = Slope(WIDTH)
    seen = [float(network.weight[0, 0, 0].detach())]
    learn(network, folder, settings, on_step=lambda *_: seen.append(float(network.weight[0, 0, 0].detach())))
    return -np.diff(seen)


def test_the_rate_rises_and_falls(tmp_path: Path) -> None:
    settings = DecoderConfig(epochs=20, batch_tokens=30, learning_rate=0.01, weight_decay=0.0, eval_steps=10**6)
    made = updates(tmp_path, settings)
    done = (np.arange(len(made)) + 0.5) / len(made)
    falling = 0.5 * (1 + np.cos(np.pi * (done - 0.05) / 0.95))
    np.testing.assert_allclose(made, 0.01 * np.where(done < 0.05, done / 0.05, falling), atol=2e-6)
    assert np.argmax(made) in (2, 3, 4)  # of 60 and more
    assert made.min() > 0


@pytest.mark.usefixtures("two_threads")
def test_a_batch_is_shared_by_workers_with_a_thread_each(tmp_path: Path) -> None:
    import threading

    seen: set[tuple[str, int]] = set()
    said: list[int] = []

    class Watched(ToyNetwork):
        def losses(self, states: torch.Tensor, targets: Any) -> torch.Tensor:
            seen.add((threading.current_thread().name, torch.get_num_threads()))
            return super().losses(states, targets)

        def generate(self, states: torch.Tensor, *rest: Any) -> list[Generated]:
            said.append(len(states))
            return super().generate(states, *rest)

    settings = SETTINGS.model_copy(update={"batch_tokens": 1000})  # 12 rows in a batch, 6 a worker
    shared, alone = Watched(WIDTH), ToyNetwork(WIDTH)
    found = learn(shared, tmp_path / "2", settings)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    expected = learn(alone, tmp_path / "1", settings)
    assert len(seen) == 2
    assert {threads for _, threads in seen} == {1}
    assert said == [6, 6] * len(found.history)
    for name, value in values(alone).items():
        np.testing.assert_allclose(values(shared)[name], value, atol=1e-4)
    assert found.quality == expected.quality


class Clock:
    """Every update takes ten seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def tick(self, *_: int) -> None:
        self.now += 10.0


def test_a_limit_of_time_ends_it_over_all_calls_and_the_rate_falls_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(decoder_training, "time", clock)
    settings = SETTINGS.model_copy(update={"epochs": 1000, "minutes": 2.0, "eval_steps": 4})

    def tick_and_die(step: int, _total: int) -> None:
        clock.tick()
        if step == 6:
            raise Killed

    with pytest.raises(Killed):
        learn(ToyNetwork(WIDTH), tmp_path, settings, on_step=tick_and_die)
    clock.now += 5000  # between two calls
    trained = learn(ToyNetwork(WIDTH), tmp_path, settings, on_step=clock.tick)
    assert (trained.resumed_from, trained.steps, trained.seconds) == (4, 12, 120.0)
    assert [entry["step"] for entry in trained.history] == [4, 8, 12]

    network = Slope(WIDTH)
    seen = [float(network.weight[0, 0, 0].detach())]

    def watch(*_: int) -> None:
        clock.tick()
        seen.append(float(network.weight[0, 0, 0].detach()))

    slow = settings.model_copy(update={"weight_decay": 0.0, "learning_rate": 0.01})
    learn(network, tmp_path / "slope", slow, on_step=watch)
    made = -np.diff(seen)
    assert len(made) == 12
    expected = 0.5 * (1 + np.cos(np.pi * (np.arange(1, 12) / 12 - 0.05) / 0.95))
    np.testing.assert_allclose(made[1:], 0.01 * expected, atol=2e-6)


def test_a_loss_that_is_not_a_number_says_what_to_lower(tmp_path: Path) -> None:
    class Broken(ToyNetwork):
        calls = itertools.count(1)

        def losses(self, states: torch.Tensor, targets: Any) -> torch.Tensor:
            return super().losses(states, targets) * (math.nan if next(self.calls) == 3 else 1)

    with pytest.raises(
        Ka2lError,
        match=r"failed at step 3 of \d+: loss is nan. Lower decoder.learning_rate \(now 0.05\).* 0.005",
    ):
        learn(Broken(WIDTH), tmp_path)


def test_an_infinite_gradient_says_so(tmp_path: Path) -> None:
    class Steep(ToyNetwork):
        def losses(self, states: torch.Tensor, targets: Any) -> torch.Tensor:
            return super().losses(states, targets) + (self.bias * 0).abs().sqrt().sum()

    with pytest.raises(Ka2lError, match=r"norm of the gradient is (nan|inf)"):
        learn(Steep(WIDTH), tmp_path)


def test_memory_that_does_not_suffice_says_what_to_halve(tmp_path: Path) -> None:
    class Large(ToyNetwork):
        def losses(self, states: torch.Tensor, targets: Any) -> torch.Tensor:  # noqa: ARG002
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ModelError, match=r"decoder.batch_tokens=30\. Halve it"):
        learn(Large(WIDTH), tmp_path)


def test_nothing_to_learn_or_to_judge_by_is_refused(tmp_path: Path) -> None:
    network, states = ToyNetwork(WIDTH), toy_states(width=WIDTH)
    options: Any = {"settings": SETTINGS, "checkpoint": tmp_path, "seed": 0, "fingerprint": "f"}
    none, examples = DecoderExamples(states[:0], []), DecoderExamples(states, QUESTIONS)
    with pytest.raises(DegenerateError, match="no questions to train a decoder on"):
        train(network, none, examples, **options)
    with pytest.raises(DegenerateError, match="no questions to validate a decoder on"):
        train(network, examples, none, **options)
    with pytest.raises(ValueError, match="width 16"):
        train(network, DecoderExamples(states[:, :9], QUESTIONS), examples, **options)
    states[4, 2] = np.inf
    with pytest.raises(ModelError, match=r"question Which sea is near Bor.: its hidden state holds NaN or infinite"):
        train(network, examples, DecoderExamples(toy_states(width=WIDTH), QUESTIONS), **options)
