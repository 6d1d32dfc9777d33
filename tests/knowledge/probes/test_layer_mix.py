"""The mix of layers: it finds the layers that know something, and is the sum it says."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ka2l.common.intervals import auroc
from ka2l.knowledge.probes.fit import fit_probes
from ka2l.knowledge.probes.layer_mix import fit_mix
from ka2l.knowledge.probes.probe import Examples, ProbeFit
from ka2l.knowledge.probes.probe_folder import ALL_LAYERS
from ka2l.knowledge.settings import ProbeConfig

TRAIN, VALIDATION, TEST = np.arange(0, 240), np.arange(240, 340), np.arange(340, 640)
CONFIG = ProbeConfig(kinds=["mix"], mlp_lr=5e-3)
INFORMED = (2, 3)


@pytest.fixture(scope="module")
def data() -> Examples:
    """Layers 2 and 3 see the label in the same direction, each through noise of its own; the others see nothing."""
    torch.set_num_threads(1)  # as in the tests: a product's rounding depends on it
    rng = np.random.default_rng(0)
    states = rng.normal(size=(640, 5, 12)).astype(np.float32)
    event = rng.random(640) < 0.5
    for layer in INFORMED:
        states[:, layer, :4] += np.where(event, 0.5, -0.5)[:, None]
    states *= np.float32(10.0) ** rng.integers(-2, 3, (5, 12))
    return Examples(states, event.astype(float), event, TRAIN, VALIDATION, "label")


@pytest.fixture(scope="module")
def fitted(data: Examples) -> ProbeFit:
    return fit_mix(data, CONFIG, 0)


def test_the_layers_that_know_something_weigh_more(fitted: ProbeFit) -> None:
    shares = fitted.probe.weights["layers"]
    assert fitted.probe.layer == ALL_LAYERS == -1
    assert shares.sum() == pytest.approx(1.0)
    assert min(shares[list(INFORMED)]) > max(np.delete(shares, INFORMED))


def test_two_layers_say_more_than_one(data: Examples, fitted: ProbeFit) -> None:
    linear = fit_probes(data.states, data.event, TRAIN, VALIDATION, ProbeConfig(kinds=["linear"]), 0)
    on_test = auroc(fitted.probe.predict(data.states[TEST]), data.event[TEST])
    assert on_test > 0.02 + max(
        auroc(fit.probe.predict(data.states[TEST, fit.probe.layer]), data.event[TEST]) for fit in linear
    )


def test_it_is_a_line_through_the_weighted_sum_of_standardised_layers(data: Examples, fitted: ProbeFit) -> None:
    w = {name: array.astype(float) for name, array in fitted.probe.weights.items()}
    scaled = (data.states[TEST] - w["mean"]) / w["scale"]
    mixed = sum(w["layers"][layer] * scaled[:, layer] for layer in range(5))
    by_hand = 1 / (1 + np.exp(-(mixed @ w["weight"] + w["bias"][0])))
    np.testing.assert_allclose(fitted.probe.predict(data.states[TEST]), by_hand, atol=1e-5)


def test_scaling_comes_from_training_rows_and_test_rows_are_not_read(data: Examples, fitted: ProbeFit) -> None:
    states = data.states.copy()
    states[TEST] = np.nan
    values = data.values.copy()
    values[TEST] = np.nan
    assert same(fit_mix(data._replace(states=states, values=values), CONFIG, 0), fitted)
    np.testing.assert_allclose(
        fitted.probe.weights["mean"], data.states[TRAIN].mean(0, dtype=float), rtol=1e-4, atol=1e-5
    )


def test_the_kept_epoch_has_the_least_loss(data: Examples) -> None:
    """Trained on rows without a pattern the loss soon rises: what is kept is from before."""
    few = data._replace(train=TRAIN[:16])
    long = fit_mix(few, ProbeConfig(mlp_lr=3e-2, mlp_epochs=60, mlp_patience=60), 0)
    assert 0 < long.epochs < 60
    stopped = fit_mix(few, ProbeConfig(mlp_lr=3e-2, mlp_epochs=long.epochs, mlp_patience=60), 0)
    assert same(stopped, long)
    impatient = fit_mix(few, ProbeConfig(mlp_lr=3e-2, mlp_epochs=60, mlp_patience=1), 0)
    assert impatient.epochs <= long.epochs
    assert impatient.validation_loss >= long.validation_loss


def test_seed_and_half_precision(data: Examples, fitted: ProbeFit) -> None:
    assert same(fit_mix(data, CONFIG, 0), fitted)
    assert not same(fit_mix(data, CONFIG, 1), fitted)
    half = fit_mix(data._replace(states=data.states.astype(np.float16)), CONFIG, 0)
    assert half.validation_auroc == pytest.approx(fitted.validation_auroc, abs=0.01)


def test_rows_are_predicted_in_pieces(data: Examples, fitted: ProbeFit, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted.probe.predict(data.states[TEST])
    monkeypatch.setattr("ka2l.knowledge.probes.probe._ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(fitted.probe.predict(data.states[TEST]), whole, atol=1e-6)
    assert fitted.probe.predict(data.states[:0]).shape == (0,)


def same(one: ProbeFit, other: ProbeFit) -> bool:
    weights: list[dict[str, NDArray[np.float32]]] = [one.probe.weights, other.probe.weights]
    return one[1:] == other[1:] and all(np.array_equal(weights[0][n], weights[1][n]) for n in weights[0])
