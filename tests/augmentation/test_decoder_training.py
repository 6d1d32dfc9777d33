"""The training of a decoder: learns, keeps the best, stops, goes on after a kill to the bit, and fails with advice."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ka2l.augmentation import decoder_training
from ka2l.augmentation.decoder_training import Trained, train
from ka2l.augmentation.held_out_looks import best_look, looks_in_vain
from ka2l.augmentation.network import Generated
from ka2l.augmentation.settings import DecoderConfig
from ka2l.augmentation.soft_prompt import SoftPromptNetwork
from ka2l.augmentation.training_checkpoint import Checkpoint, Progress, read_checkpoint, write_checkpoint
from ka2l.errors import DegenerateError, Ka2lError, ModelError
from toy_network import QUESTIONS, ToyNetwork, language_model, toy_states, toy_tokenizer

WIDTH = 16
# 12 questions, 79 tokens: 3 or 4 batches an epoch.
SETTINGS = DecoderConfig(
    epochs=10, batch_tokens=30, learning_rate=0.05, eval_steps=5, patience=100, minutes=0.0
)


def learn(network: Any, folder: Path, settings: DecoderConfig = SETTINGS, **options: Any) -> Trained:
    """Trained and judged on the same questions: whether it can say what it was taught."""
    states = options.pop("states", toy_states(width=WIDTH))
    return train(
        network, states, QUESTIONS, states, QUESTIONS, settings, folder / "training",
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
    assert best_look(trained.history)["held_out_loss"] * trained.tokens / 40 == pytest.approx(float(nats))
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
    settings = DecoderConfig(
        epochs=20, batch_tokens=30, learning_rate=0.01, weight_decay=0.0, eval_steps=10**6
    )
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


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], Trained]:
    network = ToyNetwork(WIDTH)
    trained = learn(network, tmp_path_factory.mktemp("whole"))
    return values(network), trained


@pytest.mark.parametrize(("kills", "resumed"), [([1], None), ([5], None), ([6], 5), ([13, 13, 22], 20)])
def test_after_a_kill_it_ends_the_same(
    kills: list[int],
    resumed: int | None,
    uninterrupted: tuple[dict[str, np.ndarray], Trained],
    tmp_path: Path,
) -> None:
    for step in kills:
        with pytest.raises(Killed):
            learn(ToyNetwork(WIDTH), tmp_path, on_step=killed_at(step))
    network = ToyNetwork(WIDTH, seed=8)  # whatever it starts from, it goes on from the checkpoint
    if resumed is None:
        network = ToyNetwork(WIDTH)
    trained = learn(network, tmp_path)
    expected, whole = uninterrupted
    assert same(values(network), expected)
    assert trained.resumed_from == resumed
    assert network.warm_starts == (resumed is None)
    assert without_time(trained) == without_time(whole)
    assert not list((tmp_path / "training").glob(".*"))


def without_time(trained: Trained) -> Any:
    history = [{**entry, "seconds": 0} for entry in trained.history]
    return trained._replace(seconds=0, resumed_from=None, history=history)


def test_a_call_again_trains_no_more(
    uninterrupted: tuple[dict[str, np.ndarray], Trained], tmp_path: Path
) -> None:
    first = learn(ToyNetwork(WIDTH), tmp_path)
    network = ToyNetwork(WIDTH, seed=8)
    again = learn(network, tmp_path, on_step=lambda *_: pytest.fail("a step"))
    assert same(values(network), uninterrupted[0])
    assert again == first._replace(resumed_from=first.steps)


@pytest.mark.parametrize(
    "change", [{"fingerprint": "g"}, {"seed": 1}, {"settings": SETTINGS.model_copy(update={"epochs": 9})}]
)
def test_another_training_starts_anew(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        learn(ToyNetwork(WIDTH), tmp_path, on_step=killed_at(8))
    network, expected = ToyNetwork(WIDTH), ToyNetwork(WIDTH)
    assert learn(network, tmp_path, **change).resumed_from is None
    learn(expected, tmp_path / "other", **change)
    assert same(values(network), values(expected))


def test_a_broken_checkpoint_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        learn(ToyNetwork(WIDTH), tmp_path, on_step=killed_at(8))
    (file,) = (tmp_path / "training").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert learn(ToyNetwork(WIDTH), tmp_path).resumed_from is None


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = {"a.b/c": torch.arange(6.0).view(2, 3).T, "d": torch.tensor([1.0])}
    written = Checkpoint(Progress(3, 40, 1.5, [{"step": 3, "f1": 0.5}]), *(
        {name: tensor + i for name, tensor in one.items()} for i in range(4)
    ))  # fmt: skip
    write_checkpoint(tmp_path, "f", written)
    read = read_checkpoint(tmp_path, "f")
    assert read is not None
    assert read.progress == written.progress
    for got, wanted in zip(read[1:], written[1:], strict=True):
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert read_checkpoint(tmp_path, "g") is None
    assert list(tmp_path.iterdir()) == []


class Scripted(ToyNetwork):
    """Says at each look what is written, with the loss that is written, and remembers what it was then."""

    def __init__(self, looks: list[tuple[list[str], float]]):
        super().__init__(WIDTH)
        self.looks, self.loss = iter(looks), math.nan
        self.seen: list[dict[str, np.ndarray]] = []

    def generate(self, states: torch.Tensor, *_: Any) -> list[Generated]:
        self.seen.append(values(self))
        said, self.loss = next(self.looks)
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
    ("looks", "best"),
    [
        ([(NONE, 1), (SOME, 1), (NONE, 1), (NONE, 1), (NONE, 1)], 2),
        ([(SOME, 1), (SOME, 1), (NONE, 1), (SOME, 1)], 1),  # of equal looks the first
        ([(SOME, 2), (SOME, 1), (NONE, 1), (SOME, 2), (SOME, 3)], 2),  # of the same texts the lower loss
        (
            [(WITH_ARTICLE, 1), (SOME, 2), (SOME, 3), (NONE, 1), (NONE, 1)],
            2,
        ),  # as good by F1, better by exact ones
        ([(NONE, 1), (SOME, 1), (NONE, 1), (NONE, 1), (QUESTIONS, 1), *[(NONE, 1)] * 3], 5),
        (
            [(SOME, 6), (NONE, 5), (NONE, 4), (NONE, 3), (NONE, 3), (NONE, 3), (NONE, 3)],
            1,
        ),  # it still learned
        ([(SOME, 6), (NONE, 5), (NONE, 6), (NONE, 6), (QUESTIONS, 9), *[(SOME, 9)] * 3], 5),
    ],
)
def test_the_best_look_is_kept_and_patience_ends(
    looks: list[tuple[list[str], float]], best: int, tmp_path: Path
) -> None:
    network = Scripted(looks)
    trained = learn(network, tmp_path, SETTINGS.model_copy(update={"patience": 3, "eval_steps": 3}))
    assert next(network.looks, None) is None
    assert (trained.best_step, trained.steps) == (3 * best, 3 * len(looks))
    assert same(values(network), network.seen[best - 1])
    assert not same(values(network), network.seen[-1])
    told = {name: trained.history[best - 1][name] for name in ("exact", "f1", "bleu", "n")}
    assert trained.quality._asdict() == told
    assert [entry["held_out_loss"] for entry in trained.history] == pytest.approx([loss for _, loss in looks])


def test_what_comes_back_word_for_word_decides_then_the_loss_and_never_f1() -> None:
    """A decoder that leaves the names out has a high F1: it says nothing wrong."""
    nameless = {"step": 0, "f1": 0.87, "exact": 0.0, "held_out_loss": 2.6}
    wrong = {"step": 1, "f1": 0.82, "exact": 0.0, "held_out_loss": 2.3}
    right = {"step": 2, "f1": 0.82, "exact": 0.1, "held_out_loss": 2.4}
    assert best_look([nameless, wrong]) is wrong
    assert best_look([nameless, wrong, right]) is right
    assert looks_in_vain([nameless, wrong]) == 0
    assert looks_in_vain([wrong, {**wrong, "step": 2}, {**wrong, "step": 3}]) == 2


def test_the_last_step_is_looked_at_too(tmp_path: Path) -> None:
    trained = learn(ToyNetwork(WIDTH), tmp_path, SETTINGS.model_copy(update={"eval_steps": 10**6}))
    assert [entry["step"] for entry in trained.history] == [trained.steps] == [trained.best_step]


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
        match=r"broke at step 3 of \d+: loss is nan. Lower decoder.learning_rate \(now 0.05\).* 0.005",
    ):
        learn(Broken(WIDTH), tmp_path)


def test_a_held_out_loss_that_is_not_a_number_says_so(tmp_path: Path) -> None:
    network = Scripted([(NONE, 1), (NONE, math.inf)])
    with pytest.raises(Ka2lError, match=r"broke at step 10 of \d+: the loss on held-out questions is inf"):
        learn(network, tmp_path)


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
    with pytest.raises(DegenerateError, match="no questions to train a decoder on"):
        train(network, states[:0], [], states, QUESTIONS, **options)
    with pytest.raises(DegenerateError, match="no questions held out to judge a decoder by"):
        train(network, states, QUESTIONS, states[:0], [], **options)
    with pytest.raises(ValueError, match="width 16"):
        train(network, states[:, :9], QUESTIONS, states, QUESTIONS, **options)
    states[4, 2] = np.inf
    with pytest.raises(
        ModelError, match=r"question Which sea is near Bor.: its hidden state holds NaN or infinite"
    ):
        train(network, states, QUESTIONS, toy_states(width=WIDTH), QUESTIONS, **options)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_language_model_learns_and_goes_on_after_a_kill(threads: int, tmp_path: Path) -> None:
    """With one thread to the bit; two workers on some processors round by where a tensor lies in memory."""
    settings = SETTINGS.model_copy(
        update={"epochs": 25, "batch_tokens": 1000, "learning_rate": 0.02, "eval_steps": 10}
    )
    tokenizer = toy_tokenizer()

    def fresh(seed: int) -> SoftPromptNetwork:
        return SoftPromptNetwork(*language_model(tokenizer), WIDTH, settings, seed)

    torch.set_num_threads(threads)
    whole, resumed = fresh(0), fresh(1)
    expected = learn(whole, tmp_path / "whole", settings)
    with pytest.raises(Killed):
        learn(fresh(0), tmp_path / "cut", settings, on_step=killed_at(14))
    found = learn(resumed, tmp_path / "cut", settings)
    assert found.resumed_from == 10
    if threads == 1:
        assert without_time(found) == without_time(expected)
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=0 if threads == 1 else 1e-5)
    for name, parameter in whole.parameters().items():
        within = 0.0 if threads == 1 else 1e-5
        torch.testing.assert_close(resumed.parameters()[name], parameter, rtol=0, atol=within, msg=name)
    assert expected.history[-1]["loss"] < expected.history[0]["loss"] * 0.6
    torch.set_num_threads(1)
