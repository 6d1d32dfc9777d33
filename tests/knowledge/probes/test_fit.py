"""Fitting probes: they learn what is there and nothing else, choose without the test rows, and refuse bad data."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ka2l.common.intervals import auroc
from ka2l.errors import DataError, DegenerateError
from ka2l.knowledge.probes.fit import fit_probe, fit_probes
from ka2l.knowledge.probes.fit_quality import evaluate_fit
from ka2l.knowledge.probes.layer_choice import choose
from ka2l.knowledge.probes.probe import ProbeFit
from ka2l.knowledge.settings import ProbeConfig
from planted_states import (
    LAYERS,
    PLANTED,
    ROWS,
    SMALL,
    TEST,
    TRAIN,
    VALIDATION,
    Labelled,
    fit,
    fit_at,
    same_probe,
)
from planted_states import fits as fits  # a fixture
from planted_states import planted as planted  # a fixture


def test_both_kinds_learn_a_planted_direction_and_not_noise(planted: Labelled, fits: list[ProbeFit]) -> None:
    states, unknown = planted
    assert [(f.probe.kind, f.probe.layer) for f in fits] == [(k, i) for k in ("linear", "mlp") for i in range(LAYERS)]
    for kind in ("linear", "mlp"):
        on_test = {
            layer: auroc(fit_at(fits, kind, layer).probe.predict(states[TEST, layer]), unknown[TEST])
            for layer in range(LAYERS)
        }
        assert on_test[PLANTED] > 0.97
        assert 0.6 < on_test[1] < on_test[PLANTED]
        assert 0.3 < on_test[3] < 0.7
    assert choose(fits).probe.layer == PLANTED


def test_the_test_rows_are_never_read(planted: Labelled, fits: list[ProbeFit]) -> None:
    """SPEC item 2: the best layer was picked on the test rows."""
    states, unknown = planted
    blind, flipped = states.copy(), unknown.copy()
    blind[TEST] = np.nan
    flipped[TEST] ^= True
    before, after = fits, fit((blind, flipped))
    assert all(same_probe(a.probe, b.probe) and a[1:] == b[1:] for a, b in zip(before, after, strict=True))
    assert same_probe(choose(before).probe, choose(after).probe)


def test_validation_rows_do_not_train_the_weights(planted: Labelled, fits: list[ProbeFit]) -> None:
    """They pick among epochs and strengths; scaling and weights come from training rows."""
    states, unknown = planted
    moved = states.copy()
    moved[VALIDATION] = moved[VALIDATION] * 3 + 1
    before, after = fits, fit((moved, unknown))
    for kind in ("linear", "mlp"):
        weights = [fit_at(each, kind, PLANTED).probe.weights for each in (before, after)]
        for name in ("mean", "scale"):
            np.testing.assert_array_equal(weights[0][name], weights[1][name])


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_a_constant_layer_has_an_auroc_of_exactly_one_half(scale: float, standardize: bool) -> None:
    """SPEC item 11: at a fixed prompt position the layer-0 probe must know nothing."""
    rng = np.random.default_rng(2)
    states = rng.normal(size=(ROWS, 2, 64)).astype(np.float32)
    states[:, 0] = (scale * rng.normal(size=64)).astype(np.float32)
    unknown = rng.random(ROWS) < 0.5
    config = ProbeConfig(mlp_width=128, mlp_epochs=3, standardize=standardize)
    # Numbers of rows that no processor's vector width divides: products of equal rows can differ in the last bit.
    validation, test = VALIDATION[:37], TEST[:53]
    for found in fit_probes(states, unknown, TRAIN, validation, config, 0):
        if found.probe.layer == 0:
            assert found.validation_auroc == 0.5
            # Exactly 0 goes in, so that no product's rounding can part equal rows.
            weights = found.probe.weights
            assert not ((states[0, 0] - weights["mean"]) / weights["scale"]).any()
            assert auroc(found.probe.predict(states[test, 0]), unknown[test]) == 0.5


def test_half_precision_states(planted: Labelled) -> None:
    states, unknown = planted
    half = (states / 100).astype(np.float16)
    for found in fit((half, unknown)):
        assert all(weight.dtype == np.float32 for weight in found.probe.weights.values())
        if found.probe.layer == PLANTED:
            assert found.validation_auroc > 0.97


def test_the_reported_loss_is_that_of_the_kept_weights(planted: Labelled, fits: list[ProbeFit]) -> None:
    states, unknown = planted
    for found in fits:
        rows = states[VALIDATION, found.probe.layer]
        again = evaluate_fit(found.probe, rows, unknown[VALIDATION], epochs=found.epochs)
        assert again == found._replace(choice_loss=found.validation_loss)
        p = found.probe.predict(rows).astype(float)
        expected = -np.log(np.where(unknown[VALIDATION], p, 1 - p)).mean()
        assert found.validation_loss == pytest.approx(expected, rel=1e-3)


def test_seeds(planted: Labelled) -> None:
    state = torch.random.get_rng_state()
    first, again, other = fit(planted, seed=1), fit(planted, seed=1), fit(planted, seed=2)
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's random state is touched"
    assert all(same_probe(a.probe, b.probe) for a, b in zip(first, again, strict=True))
    assert not same_probe(fit_at(first, "mlp", 1).probe, fit_at(other, "mlp", 1).probe)
    # Layers start from weights of their own.
    gates = [fit_at(first, "mlp", layer).probe.weights["gate"] for layer in range(LAYERS)]
    assert not np.allclose(gates[1], gates[2])


@pytest.mark.parametrize(("label", "word"), [(True, "unknown"), (False, "known")])
def test_training_rows_of_one_class(planted: Labelled, label: bool, word: str) -> None:
    states, unknown = planted
    labels = unknown.copy()
    labels[TRAIN] = label
    with pytest.raises(DegenerateError, match=rf"All 180 training questions are {word} at this threshold"):
        fit((states, labels))


def test_validation_rows_of_one_class_leave_the_layer_to_the_loss(planted: Labelled) -> None:
    states, unknown = planted
    labels = unknown.copy()
    labels[VALIDATION] = False
    fits = fit((states, labels), ProbeConfig(kinds=["linear"]))
    assert all(np.isnan(found.validation_auroc) for found in fits)
    assert choose(fits).choice_loss == min(found.choice_loss for found in fits)
    assert choose(fits, "best").validation_loss == min(found.validation_loss for found in fits)


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [(TRAIN[:0], VALIDATION, "0 training and 60"), (TRAIN, VALIDATION[:0], "180 training and 0")],
)
def test_empty_splits(planted: Labelled, train: NDArray[np.intp], validation: NDArray[np.intp], message: str) -> None:
    with pytest.raises(DegenerateError, match=message):
        fit_probes(*planted, train, validation, SMALL, 0)


def test_states_that_are_not_numbers_are_refused(planted: Labelled) -> None:
    states, unknown = planted[0].copy(), planted[1]
    states[7, 2, 3] = np.inf
    states[200, 2, 0] = np.nan
    with pytest.raises(DataError, match=r"layer 2: 2 of 240 rows hold NaN or infinity \(the first is row 7\)"):
        fit((states, unknown))


def test_targets_outside_the_interval_are_refused(planted: Labelled) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        fit_probes(planted[0], planted[1] * 2.3, TRAIN, VALIDATION, SMALL, 0)


def test_from_states_and_labels_to_a_calibrated_probe(planted: Labelled) -> None:
    states, unknown = planted
    groups = [f"fact {row // 2}" for row in range(ROWS)]
    fitted = fit_probe(states, unknown, groups, config=SMALL, seed=3)
    assert fitted.split[::2] == fitted.split[1::2], "a group lies on one side of the split"
    assert len(fitted.fits) == 2 * LAYERS
    assert (fitted.probe.layer, fitted.probe.calibration) == (PLANTED, "platt")
    test = np.flatnonzero(np.array(fitted.split) == "test")
    p = fitted.probe.predict(states[test, PLANTED])
    assert auroc(p, unknown[test]) > 0.97
    assert p.mean() == pytest.approx(unknown[test].mean(), abs=0.1)
    blind = states.copy()
    blind[test] = np.nan
    assert same_probe(fit_probe(blind, unknown, groups, config=SMALL, seed=3).probe, fitted.probe)


def test_a_value_probe_is_calibrated_against_its_event(planted: Labelled) -> None:
    states, unknown = planted
    values = np.where(unknown, 0.9, 0.6)
    config = ProbeConfig(kinds=["linear"], target="value")
    groups = [str(row) for row in range(ROWS)]
    probe = fit_probe(states, values, groups, event=unknown, config=config).probe
    assert (probe.score(states[:, PLANTED]) > 0.5).mean() > 0.95
    assert probe.predict(states[~unknown, PLANTED]).mean() < 0.2
