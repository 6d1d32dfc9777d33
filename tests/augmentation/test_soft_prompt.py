"""The language model as its own decoder: learns to say questions from real states, and leaves its own weights alone.

Usage:

    .venv/bin/python -m pytest tests/augmentation/test_soft_prompt.py
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch.testing import assert_close

from ka2l.augmentation.network import Generated
from ka2l.augmentation.settings import DecoderConfig
from ka2l.augmentation.soft_prompt import SoftPromptNetwork
from ka2l.augmentation.state_scaling import standardisation
from ka2l.errors import ModelError
from ka2l.models.interface import Prompt
from ka2l.models.loading import load_causal_lm, resolve
from ka2l.models.local.local_model import LocalModel
from ka2l.models.local.token_draws import NotFiniteError, uniforms
from ka2l.models.settings import ModelConfig
from model_families import make
from overfit_network import overfit
from reference import tokenizer as tokenizer
from tiny import TinyWorld, plain_prompt

SETTINGS = DecoderConfig(soft_tokens=3, lora_rank=16)
LIMIT = 24


def load(world: TinyWorld) -> tuple[Any, Any]:
    config = ModelConfig(name=str(world.folder), device="cpu")
    return load_causal_lm(config, resolve(config))


@pytest.fixture(scope="module")
def questions(tiny_world: TinyWorld) -> list[str]:
    return [fact["question"] for fact in tiny_world.facts[:10]]


@pytest.fixture(scope="module")
def states(tiny_world: TinyWorld, questions: list[str]) -> torch.Tensor:
    """Of the prompts of all facts at the layer before the last, standardised; the first ten are the questions'."""
    config = ModelConfig(name=str(tiny_world.folder), device="cpu")
    model = LocalModel.load(config, resolve(config))
    prompts = [Prompt(fact["id"], plain_prompt(fact["question"])) for fact in tiny_world.facts]
    raw = model.states(prompts, 2, position="tbg")
    scale = standardisation(raw)
    assert prompts[9].text.endswith(f"{questions[9]}\nAnswer:")
    return torch.from_numpy((raw - scale.mean) / scale.scale)


@pytest.fixture(scope="module")
def fresh(tiny_world: TinyWorld, states: torch.Tensor) -> SoftPromptNetwork:
    """Not trained: its sampled questions differ from each other, which those of a trained one need not."""
    return SoftPromptNetwork(*load(tiny_world), states.shape[1], SETTINGS, seed=0)


class Trained:
    """A network that has learned the questions by heart, and the model's own weights before it did."""

    def __init__(self, world: TinyWorld, states: torch.Tensor, questions: list[str]):
        self.model, tokenizer = load(world)
        self.before = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        self.network = SoftPromptNetwork(self.model, tokenizer, states.shape[1], SETTINGS, seed=0)
        self.first, self.last = overfit(self.network, states[: len(questions)], questions, 200, 1e-2)


@pytest.fixture(scope="module")
def trained(tiny_world: TinyWorld, states: torch.Tensor, questions: list[str]) -> Trained:
    return Trained(tiny_world, states, questions)


def test_questions_are_learned_from_their_own_states(
    trained: Trained, states: torch.Tensor, questions: list[str]
) -> None:
    said = trained.network.generate(states[:10], 0.0, None, LIMIT)
    # All but one of ten: the tiny model is trained anew on every machine, and not the same to the last bit.
    assert sum(s == Generated(q, True) for s, q in zip(said, questions, strict=True)) >= len(questions) - 1
    # Nats a token; the tiny model's head is never surer: its scores have no more room over 500 other tokens.
    assert trained.last < 0.6 < 5 < trained.first


def test_the_models_own_weights_stay(trained: Trained) -> None:
    after = {
        name.replace(".base_layer.", "."): weight
        for name, weight in trained.model.state_dict().items()
        if "lora" not in name
    }
    assert after.keys() == trained.before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in trained.before.items())
    assert not trained.model.training


def test_what_is_trained_is_small_named_and_float32(fresh: SoftPromptNetwork, states: torch.Tensor) -> None:
    named = fresh.parameters()
    assert all(weight.dtype == torch.float32 and weight.requires_grad for weight in named.values())
    width, size = states.shape[1], 3 * 64
    shapes = {name: tuple(weight.shape) for name, weight in named.items() if not name.startswith("lora.")}
    assert shapes == {
        "linear.weight": (size, width), "linear.bias": (size,), "hidden.weight": (width, width),
        "hidden.bias": (width,), "out.weight": (size, width), "out.bias": (size,),
    }  # fmt: skip
    adapters = [name for name in named if name.startswith("lora.")]
    assert len(adapters) == 3 * 7 * 2  # layers, linear modules of each, two factors
    assert "lora.model.layers.0.self_attn.q_proj.lora_A.weight" in adapters


def test_the_seed_decides_the_weights_and_leaves_the_random_state(
    fresh: SoftPromptNetwork, tiny_world: TinyWorld
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again, other = (
        SoftPromptNetwork(*load(tiny_world), fresh.width, SETTINGS, seed=seed).parameters() for seed in (0, 1)
    )
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(weight, again[name]) for name, weight in fresh.parameters().items())
    for name in ("linear.weight", "hidden.weight", "lora.model.layers.0.self_attn.q_proj.lora_A.weight"):
        assert not torch.equal(again[name], other[name])


def test_losses_are_those_of_the_rows_alone(
    fresh: SoftPromptNetwork, states: torch.Tensor, questions: list[str]
) -> None:
    """Padding costs nothing and changes nothing, and shards add up."""
    targets = [fresh.encode(text) for text in [*questions[:4], "Why?"]]
    with torch.no_grad():
        together = fresh.losses(states[:5], targets)
        alone = [float(fresh.losses(states[row : row + 1], [target])) for row, target in enumerate(targets)]
    assert together.shape == ()
    assert float(together) == pytest.approx(sum(alone), rel=1e-5)
    assert min(alone) == alone[4]  # the shortest


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Mistral-left", "GPT-2", "Bloom"])
def test_the_loss_is_of_the_distributions_that_questions_are_drawn_from(family: str, tokenizer: Any) -> None:
    """In one pass or token by token, whatever a family does to positions, windows and scores."""
    model = make(family, tokenizer)
    network = SoftPromptNetwork(model, tokenizer, 8, SETTINGS, seed=0)
    seen: list[torch.Tensor] = []
    model.register_forward_hook(lambda _, __, output: seen.append(output.logits.detach().clone()))
    state = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    said = network.generate(state, 0.0, None, 20)
    one_by_one = torch.cat(seen, dim=1).log_softmax(-1)[0]
    tokens = one_by_one.argmax(-1).tolist()
    assert said == [Generated(network.text(tokens), False)]
    seen.clear()
    loss = float(network.losses(state, [tokens]).detach())
    assert_close(seen[0].log_softmax(-1)[0], one_by_one, rtol=1e-4, atol=1e-4)
    assert loss == pytest.approx(-float(one_by_one.amax(-1).sum()), rel=1e-4)


def test_several_threads_get_the_gradients_of_one(
    fresh: SoftPromptNetwork, states: torch.Tensor, questions: list[str]
) -> None:
    weights = list(fresh.parameters().values())
    shards = [range(3), range(3, 5), range(5, 8), range(8, 10)]
    ready = Barrier(len(shards), timeout=30)

    def gradients(rows: range, wait: bool) -> tuple[torch.Tensor, ...]:
        if wait:
            ready.wait()
        targets = [fresh.encode(questions[row]) for row in rows]
        return torch.autograd.grad(fresh.losses(states[rows.start : rows.stop], targets), weights)

    with ThreadPoolExecutor(len(shards)) as pool:
        parallel = list(pool.map(lambda rows: gradients(rows, True), shards))
    for rows, of_shard in zip(shards, parallel, strict=True):
        assert all(torch.equal(mine, serial) for mine, serial in zip(of_shard, gradients(rows, False), strict=True))
    whole = gradients(range(10), False)
    for name, all_rows, *parts in zip(fresh.parameters(), whole, *parallel, strict=True):
        assert_close(sum(parts), all_rows, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_a_question_depends_on_no_other_row(
    trained: Trained, fresh: SoftPromptNetwork, states: torch.Tensor, temperature: float
) -> None:
    """Rows that end early (of the trained network) or never (of the other) leave the others as they are."""
    numbers = np.concatenate([uniforms(0, f"q{row}", [0], LIMIT) for row in range(12)])
    for network in (trained.network, fresh):
        together = network.generate(states[:12], temperature, numbers, LIMIT)
        backwards = network.generate(states[:12].flip(0), temperature, numbers[::-1].copy(), LIMIT)
        alone = [
            network.generate(states[row : row + 1], temperature, numbers[row : row + 1], LIMIT)[0] for row in range(12)
        ]
        assert together == backwards[::-1] == alone
        assert len({generated.text for generated in together}) > 3


def test_the_end_counts_as_a_token(trained: Trained, states: torch.Tensor, questions: list[str]) -> None:
    network, question = trained.network, questions[3]
    tokens = network.encode(question)
    assert network.generate(states[3:4], 0.0, None, len(tokens)) == [Generated(question, True)]
    assert network.generate(states[3:4], 0.0, None, len(tokens) - 1) == [Generated(question, False)]
    assert network.generate(states[3:4], 0.0, None, 4) == [Generated(network.text(tokens[:4]), False)]
    assert network.generate(states[:0], 0.0, None, 4) == []


def test_the_warm_start_is_a_ridge_regression_onto_the_rarest_tokens(tiny_world: TinyWorld) -> None:
    model, tokenizer = load(tiny_world)
    network = SoftPromptNetwork(model, tokenizer, 5, SETTINGS, seed=0)
    end = tokenizer.eos_token_id
    # In how many targets: 50 and 60 in two, the others in one. The end is in all, and stands for nothing.
    targets = [[50, 60, 70, 50, end], [50, 80, 90, 100, end], [60, end], [end]]
    picked = [[50, 60, 70], [80, 90, 100], [60, 60, 60]]
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    network.warm_start(torch.from_numpy(x), targets)

    embeddings = model.get_input_embeddings().weight.detach().numpy().astype(np.float64)
    mean = embeddings[np.array(picked).ravel()].mean(0)
    y = (embeddings[np.array(picked)] - mean).reshape(3, -1)
    x = x[:3].astype(np.float64)
    weight = np.linalg.solve(x.T @ x + 0.005 * 3 * np.eye(5), x.T @ y)

    def size(vectors: Any) -> float:
        return float(np.linalg.norm(vectors.reshape(9, -1), axis=1).mean())

    weight *= size(y) / size(x @ weight)
    named = network.parameters()
    np.testing.assert_allclose(named["linear.weight"].detach().numpy(), weight.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(named["linear.bias"].detach().numpy(), np.tile(mean, 3), rtol=1e-4, atol=1e-5)


def test_a_text_begins_as_the_tokenizer_begins_it(tiny_world: TinyWorld) -> None:
    """Models that were trained with BOS in front of everything read it here too, once, before the soft tokens."""
    model, tokenizer = load(tiny_world)
    bos = tokenizer.bos_token_id
    seen = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["inputs_embeds"].detach()), with_kwargs=True
    )
    plain = SoftPromptNetwork(model, tokenizer, 5, SETTINGS, seed=0)
    plain.losses(torch.zeros(2, 5), [[50], [60]])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", bos)]
    )
    model, _ = load(tiny_world)
    model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["inputs_embeds"].detach()), with_kwargs=True
    )
    begun = SoftPromptNetwork(model, tokenizer, 5, SETTINGS, seed=0)
    assert bos not in begun.encode("Who?")
    begun.losses(torch.zeros(2, 5), [[50], [60]])
    without, with_bos = seen
    assert torch.equal(with_bos[:, 1:], without)
    assert torch.equal(with_bos[0, 0], model.get_input_embeddings().weight[bos])


def test_a_model_in_half_precision_learns_in_whole(tiny_world: TinyWorld, questions: list[str]) -> None:
    model, tokenizer = load(tiny_world)
    network = SoftPromptNetwork(model.to(torch.bfloat16), tokenizer, 5, SETTINGS, seed=0)
    assert {weight.dtype for weight in network.parameters().values()} == {torch.float32}
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    first, last = overfit(network, rows, questions[:3], 15, 1e-2)
    assert last < first / 2


def test_a_state_that_is_no_number_is_named_by_its_row(fresh: SoftPromptNetwork, states: torch.Tensor) -> None:
    broken = states[:4].clone()
    broken[2, 7] = torch.nan
    with pytest.raises(NotFiniteError) as caught:
        fresh.generate(broken, 0.0, None, 4)
    assert caught.value.row == 2


def test_a_tokenizer_without_an_end_is_refused(tiny_world: TinyWorld) -> None:
    model, tokenizer = load(tiny_world)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no EOS token"):
        SoftPromptNetwork(model, tokenizer, 5, SETTINGS, seed=0)


def test_settled_it_says_the_same_and_keeps_what_it_has_learned(tiny_world: TinyWorld) -> None:
    network = SoftPromptNetwork(*load(tiny_world), 64, DecoderConfig(lora_rank=4), seed=0)
    with torch.no_grad():  # adapters begin at nothing
        for name, weight in network.parameters().items():
            if name.endswith("lora_B.weight"):
                weight.normal_(std=0.05)
    states = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    target = [network.encode("What is the capital of Tipo?")] * 3
    before = (network.generate(states, 0.0, None, 12), float(network.losses(states, target)))
    learned = {name: weight.detach().clone() for name, weight in network.parameters().items()}
    network.prepare_for_inference()
    assert network.generate(states, 0.0, None, 12) == before[0]
    assert float(network.losses(states, target)) == pytest.approx(before[1], rel=1e-4)
    assert learned.keys() == network.parameters().keys()
    for name, weight in network.parameters().items():
        torch.testing.assert_close(weight.detach(), learned[name], rtol=0, atol=0)
