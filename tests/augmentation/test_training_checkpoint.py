"""A decoder's training that is interrupted: continues from its checkpoint, ends bit for bit the same, uses no
other's.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ka2l.augmentation.decoder_training import Trained
from ka2l.augmentation.soft_prompt import SoftPromptNetwork
from ka2l.augmentation.training_checkpoint import Checkpoint, Progress, read_checkpoint, write_checkpoint
from toy_network import ToyNetwork, language_model, toy_tokenizer
from toy_training import SETTINGS, WIDTH, Killed, killed_at, learn, same, values, without_time


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


def test_a_call_again_trains_no_more(uninterrupted: tuple[dict[str, np.ndarray], Trained], tmp_path: Path) -> None:
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


@pytest.mark.parametrize("threads", [1, 2])
def test_a_language_model_learns_and_goes_on_after_a_kill(threads: int, tmp_path: Path) -> None:
    """With one thread to the bit; two workers on some processors round by where a tensor lies in memory."""
    settings = SETTINGS.model_copy(update={"epochs": 25, "batch_tokens": 1000, "learning_rate": 0.02, "eval_steps": 10})
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
