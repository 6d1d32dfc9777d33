"""The paper's decoder on a tiny random T5: learns to say questions from states, whole or by its single rows.

Usage:

    .venv/bin/python -m pytest tests/augmentation/test_t5.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ka2l.augmentation.network import Generated
from ka2l.augmentation.settings import DecoderConfig
from ka2l.augmentation.t5 import T5Network, empty_t5, load_t5
from ka2l.errors import ModelError
from ka2l.models.local.token_draws import NotFiniteError, uniforms
from overfit_network import overfit
from tiny import TinyWorld
from tiny_t5 import FACTS, SIZE, build_tiny_t5

WIDTH = 12
SETTINGS = DecoderConfig(pseudo_tokens=4)
QUESTIONS = [fact["question"] for fact in FACTS[:10]]
STATES = torch.randn(14, WIDTH, generator=torch.Generator().manual_seed(0))  # they determine the questions
LIMIT = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 and its tokenizer; do not write into it."""
    folder = tmp_path_factory.mktemp("t5")
    build_tiny_t5(folder)
    return folder


def make(folder: Path, seed: int = 0) -> T5Network:
    return T5Network(*load_t5(str(folder)), WIDTH, SETTINGS, seed)


@pytest.fixture(scope="module")
def fresh(folder: Path) -> T5Network:
    return make(folder)


@pytest.fixture(scope="module")
def trained(folder: Path) -> T5Network:
    network = make(folder)
    first, last = overfit(network, STATES[:10], QUESTIONS, 80, 1e-2)
    assert last < first / 20
    return network


def test_questions_are_learned_from_states_that_determine_them(trained: T5Network) -> None:
    said = trained.generate(STATES[:10], 0.0, None, LIMIT)
    assert said == [Generated(question, True) for question in QUESTIONS]


def test_the_end_counts_as_a_token(trained: T5Network) -> None:
    tokens = trained.encode(QUESTIONS[0])
    assert tokens[-1] == trained.encode("")[0]
    assert trained.generate(STATES[:1], 0.0, None, len(tokens)) == [Generated(QUESTIONS[0], True)]
    assert trained.generate(STATES[:1], 0.0, None, len(tokens) - 1) == [Generated(QUESTIONS[0], False)]
    assert trained.generate(STATES[:0], 0.0, None, 4) == []


def test_everything_is_trained(fresh: T5Network, folder: Path) -> None:
    named = fresh.parameters()
    model, _ = load_t5(str(folder))
    weights = {f"t5.{name}": weight.shape for name, weight in model.named_parameters()}
    own = {
        "hidden.weight": (WIDTH, WIDTH), "hidden.bias": (WIDTH,),
        "out.weight": (4 * SIZE, WIDTH), "out.bias": (4 * SIZE,),
    }  # fmt: skip
    assert {name: tuple(weight.shape) for name, weight in named.items()} == own | {
        name: tuple(shape) for name, shape in weights.items()
    }
    gradients = torch.autograd.grad(fresh.losses(STATES[:2], [[50, 60], [70]]), list(named.values()))
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)


def test_a_half_precision_model_is_trained_in_whole(folder: Path) -> None:
    model, tokenizer = load_t5(str(folder))
    network = T5Network(model.to(torch.bfloat16), tokenizer, WIDTH, SETTINGS, 0)
    assert {weight.dtype for weight in network.parameters().values()} == {torch.float32}


def test_the_seed_decides_the_two_layers(folder: Path, fresh: T5Network) -> None:
    again, other = make(folder).parameters(), make(folder, seed=1).parameters()
    assert all(torch.equal(weight, again[name]) for name, weight in fresh.parameters().items())
    assert not torch.equal(again["hidden.weight"], other["hidden.weight"])
    assert not torch.equal(again["out.weight"], other["out.weight"])


def test_losses_are_those_of_the_rows_alone(fresh: T5Network) -> None:
    targets = [fresh.encode(text) for text in [*QUESTIONS[:4], "Why?"]]
    with torch.no_grad():
        together = fresh.losses(STATES[:5], targets)
        alone = [float(fresh.losses(STATES[row : row + 1], [target])) for row, target in enumerate(targets)]
    assert together.shape == ()
    assert float(together) == pytest.approx(sum(alone), rel=1e-5)


def test_the_loss_is_of_the_distributions_that_questions_are_drawn_from(folder: Path) -> None:
    """And it is the mean that T5 itself computes, times the number of tokens."""
    model, tokenizer = load_t5(str(folder))
    network = T5Network(model, tokenizer, WIDTH, SETTINGS, 0)
    seen: list[Any] = []
    hook = model.register_forward_hook(
        lambda _, __, kwargs, output: seen.append((kwargs, output.logits.detach().clone())), with_kwargs=True
    )
    said = network.generate(STATES[:1], 0.0, None, 6)
    one_by_one = torch.cat([logits for _, logits in seen], dim=1).log_softmax(-1)[0]
    tokens = one_by_one.argmax(-1).tolist()
    assert said == [Generated(network.text(tokens), False)]
    seen.clear()
    loss = float(network.losses(STATES[:1], [tokens]).detach())
    kwargs, logits = seen[0]
    assert_close(logits.log_softmax(-1)[0], one_by_one, rtol=1e-4, atol=1e-4)
    hook.remove()
    mean = model(inputs_embeds=kwargs["inputs_embeds"], labels=torch.tensor([tokens])).loss
    assert loss == pytest.approx(6 * float(mean.detach()), rel=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_question_depends_on_no_other_row(trained: T5Network, fresh: T5Network, temperature: float) -> None:
    numbers = np.concatenate([uniforms(0, f"q{row}", [0], LIMIT) for row in range(14)])
    for network in (trained, fresh):
        together = network.generate(STATES, temperature, numbers, LIMIT)
        backwards = network.generate(STATES.flip(0), temperature, numbers[::-1].copy(), LIMIT)
        alone = [
            network.generate(STATES[row : row + 1], temperature, numbers[row : row + 1], LIMIT)[0] for row in range(14)
        ]
        assert together == backwards[::-1] == alone


def test_the_warm_start_gives_pseudo_tokens_the_size_of_embeddings(folder: Path) -> None:
    model, tokenizer = load_t5(str(folder))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(30)
    network = T5Network(model, tokenizer, WIDTH, SETTINGS, 0)
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["inputs_embeds"].detach()), with_kwargs=True
    )
    targets = [network.encode(question) for question in QUESTIONS]
    network.losses(STATES[:10], targets)
    network.warm_start(STATES[:10], targets)
    network.losses(STATES[:10], targets)
    before, after = (float(pseudo.square().mean().sqrt()) for pseudo in seen)
    wanted = float(model.get_input_embeddings().weight.square().mean().sqrt().detach())
    assert after == pytest.approx(wanted, rel=1e-4)
    assert after > 10 * before


def test_a_state_that_is_no_number_is_named_by_its_row(fresh: T5Network) -> None:
    broken = STATES[:4].clone()
    broken[2, 7] = torch.inf
    with pytest.raises(NotFiniteError) as caught:
        fresh.generate(broken, 0.0, None, 4)
    assert caught.value.row == 2


def test_an_empty_one_has_the_shape_and_not_the_weights(folder: Path, tmp_path: Path) -> None:
    """What a saved decoder keeps: config and tokenizer; the weights are with all others it was trained with."""
    for file in folder.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    full, empty = load_t5(str(folder)), empty_t5(tmp_path)
    assert full[1](QUESTIONS[0])["input_ids"] == empty[1](QUESTIONS[0])["input_ids"]
    shapes = [{name: weight.shape for name, weight in model.named_parameters()} for model, _ in (full, empty)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(full[0].shared.weight, empty[0].shared.weight)
    with pytest.raises(ModelError, match="cannot load this model"):
        load_t5(str(tmp_path))


def test_what_is_no_t5_is_refused_with_advice(folder: Path, tmp_path: Path, tiny_world: TinyWorld) -> None:
    with pytest.raises(ModelError, match=r"decoder.t5=./nowhere: no such folder"):
        load_t5("./nowhere")
    with pytest.raises(ModelError, match="cannot load this model"):
        load_t5(str(tmp_path))
    with pytest.raises(ModelError, match=r"is a llama, not an encoder-decoder.*leave decoder.t5 empty"):
        load_t5(str(tiny_world.folder))
    model, tokenizer = load_t5(str(folder))
    model.config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        T5Network(model, tokenizer, WIDTH, SETTINGS, 0)
