"""A decoder in use: noise in units of the spread, random numbers of a question alone, and what is refused.

Usage:

    .venv/bin/python -m pytest tests/augmentation/test_decoder.py
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ka2l.augmentation.decoder import Decoded, Decoder
from ka2l.augmentation.network import Generated
from ka2l.augmentation.settings import DecoderConfig
from ka2l.augmentation.soft_prompt import SoftPromptNetwork
from ka2l.augmentation.state_scaling import check_finite, standardisation
from ka2l.errors import ModelError
from ka2l.models.loading import load_causal_lm, resolve
from ka2l.models.local.token_draws import NotFiniteError, uniforms
from ka2l.models.settings import ModelConfig
from tiny import TinyWorld

WIDTH = 3
MEAN = np.array([10.0, 0.0, -1.0], dtype=np.float32)
SCALE = np.array([100.0, 1.0, 0.5], dtype=np.float32)
STATES = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32) * SCALE + MEAN
NAMES = [f"q{row}" for row in range(len(STATES))]


class Echo:
    """Says what it is given: the standardised state and the random numbers."""

    kind = "echo"
    width = WIDTH
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError("only for training")

    def text(self, tokens: Sequence[int]) -> str:
        raise NotImplementedError("only for training")

    def prepare_for_inference(self) -> None:
        raise NotImplementedError

    def rate(self, name: str) -> float:
        raise NotImplementedError

    def warm_start(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> None:
        raise NotImplementedError("only for training")

    def losses(self, states: torch.Tensor, targets: Sequence[Sequence[int]]) -> torch.Tensor:
        raise NotImplementedError("only for training")

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        raise NotImplementedError("only for training")

    def generate(
        self,
        states: torch.Tensor,
        temperature: float,
        uniforms: NDArray[np.float64] | None,
        max_new_tokens: int,
    ) -> list[Generated]:
        self.batches.append(len(states))
        numbers = [None] * len(states) if uniforms is None else uniforms[:, :max_new_tokens].tolist()
        given = zip(states.tolist(), numbers, strict=True)
        return [Generated(json.dumps([*pair, temperature]), bool(pair[0][1] > 0)) for pair in given]


def decode(decoder: Decoder, states: Any = STATES, names: Sequence[str] = NAMES, **changes: Any) -> Any:
    how: dict[str, Any] = {
        "noise": 0.0,
        "temperature": 0.0,
        "seed": 0,
        "max_new_tokens": 4,
        "samples": range(3),
    }
    return decoder.decode(states, names, **(how | changes))


def echoes(**changes: Any) -> tuple[NDArray[np.float64], Any]:
    """The states [rows, samples, width] and random numbers that reached the network."""
    told = [[json.loads(d.text) for d in row] for row in decode(Decoder(Echo(), MEAN, SCALE), **changes)]
    return np.array([[t[0] for t in row] for row in told]), [[t[1] for t in row] for row in told]


def test_the_scale_is_mean_and_standard_deviation_of_each_dimension() -> None:
    states = np.array([[1, 7, -2], [3, 7, 2], [5, 7, 0]], dtype=np.float32)
    mean, scale = standardisation(states)
    np.testing.assert_allclose(mean, [3, 7, 0])
    np.testing.assert_allclose(scale, [np.sqrt(8 / 3), 1, np.sqrt(8 / 3)], rtol=1e-6)
    assert mean.dtype == scale.dtype == np.float32


def test_many_dimensions_are_scaled_like_few() -> None:
    """Also constants that no float holds exactly: their spread is nothing, not what rounding leaves of it."""
    states = np.random.default_rng(0).normal(3, 2, size=(40, 700)).astype(np.float32)
    states[:, 300] = 1234.1
    mean, scale = standardisation(states)
    assert scale[300] == 1
    np.testing.assert_allclose(mean, states.mean(0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    others = np.arange(700) != 300
    np.testing.assert_allclose(scale[others], states[:, others].std(0, dtype=np.float64), rtol=1e-5)


def test_without_noise_and_temperature_all_samples_are_the_greedy_one() -> None:
    network = Echo()
    made = decode(Decoder(network, MEAN, SCALE), samples=[4, 7, 2])
    assert network.batches == [5]  # computed once
    for row, state in zip(made, STATES, strict=True):
        assert [decoded.sample for decoded in row] == [4, 7, 2]
        assert len({decoded.text for decoded in row}) == 1
        inside, numbers, temperature = json.loads(row[0].text)
        np.testing.assert_allclose(inside, (state - MEAN) / SCALE, rtol=1e-5, atol=1e-6)
        assert (numbers, temperature) == (None, 0.0)
        assert row[0].finished == (state[1] > 0)


def test_noise_is_in_units_of_each_dimensions_spread() -> None:
    """2,000 samples: of a dimension that spreads 100 and one that spreads 0.5 alike."""
    noisy, _ = echoes(noise=0.3, samples=range(2000))
    clean, _ = echoes(samples=[0])
    drawn = (noisy - clean) / 0.3
    np.testing.assert_allclose(drawn.mean(1), 0, atol=0.1)  # 4.5 standard errors
    np.testing.assert_allclose(drawn.std(1), 1, atol=0.08)
    flat = drawn.reshape(-1, WIDTH)
    assert np.abs(np.corrcoef(flat.T) - np.eye(WIDTH)).max() < 0.05
    assert abs(float(np.corrcoef(drawn[0, :, 0], drawn[1, :, 0])[0, 1])) < 0.1


def test_more_noise_goes_further_the_same_way() -> None:
    clean, little, much = (echoes(noise=noise)[0] for noise in (0.0, 0.2, 0.6))
    np.testing.assert_allclose(much - clean, 3 * (little - clean), rtol=1e-3, atol=1e-5)


@given(
    asked=st.lists(st.integers(0, 4), min_size=1, unique=True),
    samples=st.lists(st.integers(0, 20), min_size=1, max_size=4, unique=True),
    batch_rows=st.integers(1, 9),
)
def test_a_question_is_decoded_alike_whatever_it_is_decoded_with(
    asked: list[int], samples: list[int], batch_rows: int
) -> None:
    how: dict[str, Any] = {"noise": 0.5, "temperature": 1.0, "seed": 3}
    whole = decode(Decoder(Echo(), MEAN, SCALE), samples=range(21), **how)
    network = Echo()
    some = decode(
        Decoder(network, MEAN, SCALE), STATES[asked], [NAMES[row] for row in asked],
        samples=samples, batch_rows=batch_rows, **how,
    )  # fmt: skip
    assert some == [[whole[row][sample] for sample in samples] for row in asked]
    assert max(network.batches) <= batch_rows
    assert sum(network.batches) == len(asked) * len(samples)


def test_every_question_sample_and_seed_has_numbers_of_its_own() -> None:
    same = np.repeat(STATES[:1], 5, axis=0)
    states, numbers = zip(*(echoes(states=same, noise=1.0, temperature=1.0, seed=s) for s in (0, 1)), strict=True)
    rows = np.concatenate([of_seed.reshape(-1, WIDTH) for of_seed in states])
    assert len(np.unique(rows, axis=0)) == 2 * 5 * 3
    assert len({json.dumps(of) for of_seed in numbers for row in of_seed for of in row}) == 2 * 5 * 3


def test_noise_and_temperature_draw_from_separate_streams() -> None:
    noise_alone, _ = echoes(noise=0.5)
    _, heat_alone = echoes(temperature=0.7)
    both, numbers = echoes(noise=0.5, temperature=0.7)
    np.testing.assert_array_equal(both, noise_alone)
    assert numbers == heat_alone
    of_answers = uniforms(0, NAMES[0], [0], 4)[0].tolist()
    assert numbers[0][0] != of_answers  # those that drew the answers to the question


def test_a_state_that_is_no_number_is_named_before_anything_is_decoded() -> None:
    network, broken = Echo(), STATES.copy()
    broken[2, 1], broken[4, 0] = np.nan, np.inf
    with pytest.raises(ModelError, match=r"question q2: its hidden state holds NaN .*2 of 5 states do"):
        decode(Decoder(network, MEAN, SCALE), broken, batch_rows=1)
    assert network.batches == []
    with pytest.raises(ModelError, match="question b"):
        check_finite(broken[1:3], ["a", "b"])
    check_finite(STATES, NAMES)


def test_an_output_that_is_no_number_names_its_question() -> None:
    class Broken(Echo):
        def generate(self, states: torch.Tensor, *how: Any) -> list[Generated]:
            if len(self.batches) == 1:  # the second batch: rows (q1, 1), (q1, 2), (q2, 0), (q2, 1)
                raise NotFiniteError(2)
            return super().generate(states, *how)

    with pytest.raises(ModelError, match=r"question q2: the decoder's output .*decoder.learning_rate"):
        decode(Decoder(Broken(), MEAN, SCALE), noise=0.1, batch_rows=4)


def test_states_of_another_width_or_number_are_refused() -> None:
    decoder = Decoder(Echo(), MEAN, SCALE)
    for states in (STATES[:, :2], STATES[:4], STATES[0]):
        with pytest.raises(ModelError, match=r"of shape \(5, 3\).*layer"):
            decode(decoder, states)
    with pytest.raises(ModelError, match=r"3 numbers, but its mean has shape \(2,\)"):
        Decoder(Echo(), MEAN[:2], SCALE)


def test_nothing_asked_is_nothing_said() -> None:
    decoder = Decoder(Echo(), MEAN, SCALE)
    assert decode(decoder, STATES[:0], []) == []
    for noise in (0.0, 1.0):
        assert decode(decoder, samples=[], noise=noise) == [[], [], [], [], []]


def test_a_language_model_says_the_same_in_any_batch(tiny_world: TinyWorld) -> None:
    config = ModelConfig(name=str(tiny_world.folder), device="cpu")
    model, tokenizer = load_causal_lm(config, resolve(config))
    network = SoftPromptNetwork(model, tokenizer, WIDTH, DecoderConfig(lora_rank=2), seed=0)
    decoder = Decoder(network, MEAN, SCALE)
    how: dict[str, Any] = {"noise": 0.5, "temperature": 1.0, "max_new_tokens": 12}
    whole = decode(decoder, samples=range(4), **how)
    assert whole == decode(decoder, samples=range(4), batch_rows=3, **how)
    assert [row[2:] for row in whole] == decode(decoder, samples=[2, 3], **how)
    assert len({decoded.text for row in whole for decoded in row}) > 10
    assert all(isinstance(decoded, Decoded) for row in whole for decoded in row)
