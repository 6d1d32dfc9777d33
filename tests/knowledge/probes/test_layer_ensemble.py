"""The ensemble: the mean of the linear probes of the deeper layers, as one linear map of all of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ka2l.common.intervals import auroc
from ka2l.errors import ModelError
from ka2l.knowledge.probes.fit import fit_probe, fit_probes
from ka2l.knowledge.probes.layer_choice import choose
from ka2l.knowledge.probes.probe import Probe, ProbeFit
from ka2l.knowledge.probes.probe_folder import ALL_LAYERS
from ka2l.knowledge.settings import ProbeConfig

TRAIN, VALIDATION, TEST = np.arange(0, 200), np.arange(200, 280), np.arange(280, 680)
LAYERS, WIDTH = 5, 12  # the deeper half: layers 2, 3 and 4
BOTH = ProbeConfig(kinds=["linear", "ensemble"])
Labelled = tuple[NDArray[np.float32], NDArray[np.bool_]]


@pytest.fixture(scope="module")
def data() -> Labelled:
    """Every layer sees the label in the same direction, each through noise of its own; the first two hardly."""
    torch.set_num_threads(1)  # as in the tests: a product's rounding depends on it
    rng = np.random.default_rng(0)
    states = rng.normal(size=(680, LAYERS, WIDTH)).astype(np.float32)
    event = rng.random(680) < 0.5
    states[:, :, 0] += np.where(event, 1.0, -1.0)[:, None] * np.array([0.1, 0.1, 0.8, 0.8, 0.8])
    states *= np.float32(10.0) ** rng.integers(-2, 3, (LAYERS, WIDTH))
    return states, event


@pytest.fixture(scope="module")
def fits(data: Labelled) -> list[ProbeFit]:
    return fit_probes(*data, TRAIN, VALIDATION, BOTH, 0)


def test_its_log_odds_are_the_mean_of_its_members(data: Labelled, fits: list[ProbeFit]) -> None:
    states = data[0][TEST]
    *linear, ensemble = fits
    assert (ensemble.probe.kind, ensemble.probe.layer) == ("ensemble", ALL_LAYERS)
    members = [fit.probe.logits(states[:, fit.probe.layer]) for fit in linear if fit.probe.layer >= 2]
    np.testing.assert_allclose(ensemble.probe.logits(states), np.mean(members, axis=0), atol=1e-4)
    np.testing.assert_array_equal(ensemble.probe.weights["weight"][:2], 0.0)


@pytest.mark.parametrize(("layers", "members"), [(1, [0]), (2, [1]), (3, [1, 2]), (4, [2, 3])])
def test_the_deeper_half(data: Labelled, layers: int, members: list[int]) -> None:
    """Layers from L/2 rounded up, L the last: of 0 … 3 that is 2, of 0 … 2 it is 1."""
    states, event = data
    (found,) = fit_probes(states[:, :layers], event, TRAIN, VALIDATION, ProbeConfig(kinds=["ensemble"]), 0)
    assert np.flatnonzero(found.probe.weights["weight"].any(axis=1)).tolist() == members


def test_of_one_layer_it_is_the_linear_probe(data: Labelled) -> None:
    states, event = data
    linear, ensemble = fit_probes(states[:, [3]], event, TRAIN, VALIDATION, BOTH, 0)
    np.testing.assert_allclose(
        ensemble.probe.predict(states[TEST][:, [3]]), linear.probe.predict(states[TEST, 3]), atol=1e-6
    )


def test_the_mean_says_more_than_any_member(data: Labelled, fits: list[ProbeFit]) -> None:
    states, event = data
    *linear, ensemble = [auroc(fit.probe.logits(fit.probe.inputs(states[TEST])), event[TEST]) for fit in fits]
    assert ensemble > 0.03 + max(linear)
    assert fits[-1].validation_auroc > max(fit.validation_auroc for fit in fits[:-1])
    assert choose(fits).probe.kind == "ensemble"


def test_alone_it_is_the_same_and_counts_as_one(data: Labelled, fits: list[ProbeFit]) -> None:
    told: list[int] = []
    config = ProbeConfig(kinds=["ensemble"])
    (alone,) = fit_probes(*data, TRAIN, VALIDATION, config, 0, told.append)
    assert told == [1]
    assert alone[1:] == fits[-1][1:]
    for name, array in fits[-1].probe.weights.items():
        np.testing.assert_array_equal(alone.probe.weights[name], array)


def test_rows_are_predicted_in_pieces(data: Labelled, fits: list[ProbeFit], monkeypatch: pytest.MonkeyPatch) -> None:
    probe = fits[-1].probe
    whole = probe.predict(data[0][TEST])
    monkeypatch.setattr("ka2l.knowledge.probes.probe._ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(probe.predict(data[0][TEST]), whole, atol=1e-6)
    assert probe.predict(data[0][:0]).shape == (0,)


def test_saved_and_loaded_it_says_the_same(data: Labelled, tmp_path: Path) -> None:
    states, event = data
    groups = [str(row) for row in range(len(event))]
    probe = fit_probe(states, event, groups, config=ProbeConfig(kinds=["ensemble"])).probe
    assert probe.calibration == "platt"
    replace(probe, card={"n_layers": LAYERS - 1}).save_pretrained(tmp_path)
    again = Probe.from_pretrained(str(tmp_path))
    assert (again.kind, again.layer) == ("ensemble", ALL_LAYERS)
    np.testing.assert_array_equal(again.predict(states), probe.predict(states))
    with pytest.raises(ModelError, match=r"mean is float32 \[5, 12\], .* float32 \[6, 12\]"):
        replace(probe, card={"n_layers": LAYERS}).save_pretrained(tmp_path)
