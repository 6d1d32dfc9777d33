"""Probes: they learn what is there and nothing else, choose without the test rows, and train layers independently."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ka2l.common.intervals import auroc
from ka2l.errors import DataError, DegenerateError
from ka2l.knowledge.probes import mlp
from ka2l.knowledge.probes.fit import fit_probe, fit_probes
from ka2l.knowledge.probes.fit_quality import evaluate_fit
from ka2l.knowledge.probes.layer_choice import choose
from ka2l.knowledge.probes.mlp import fit_mlps
from ka2l.knowledge.probes.probe import Examples, Probe, ProbeFit, standardization
from ka2l.knowledge.settings import ProbeConfig

ROWS, LAYERS, WIDTH = 300, 4, 12
PLANTED = 2  # the layer in which the labels are written
TRAIN, VALIDATION, TEST = np.arange(0, 180), np.arange(180, 240), np.arange(240, 300)
SMALL = ProbeConfig(mlp_width=16, mlp_epochs=30, mlp_lr=5e-3)

Labelled = tuple[NDArray[np.floating], NDArray[np.bool_]]


@pytest.fixture(scope="module")
def planted() -> Labelled:
    """Labels along one direction of layer 2, weaker at layer 1, noise at layer 3; layer 0 is constant."""
    torch.set_num_threads(1)  # as in the tests: a product's rounding depends on it
    rng = np.random.default_rng(0)
    states = rng.normal(size=(ROWS, LAYERS, WIDTH)).astype(np.float32)
    unknown = rng.random(ROWS) < 0.4
    direction = rng.normal(size=WIDTH)
    direction /= np.linalg.norm(direction)
    for layer, strength in ((1, 2.0), (PLANTED, 6.0)):
        states[:, layer] += np.where(unknown, strength, 0)[:, None] * direction
    states[:, 0] = rng.normal(size=WIDTH)
    # As in real models: widths of very different scales, and a few features far from 0.
    states *= np.float32(10.0) ** rng.integers(-2, 3, WIDTH)
    states += np.float32(30.0) * (np.arange(WIDTH) == 3)
    return states, unknown


@pytest.fixture(scope="module")
def fits(planted: Labelled) -> list[ProbeFit]:
    return fit(planted)


def fit(data: Labelled, config: ProbeConfig = SMALL, seed: int = 0) -> list[ProbeFit]:
    return fit_probes(*data, TRAIN, VALIDATION, config, seed)


def mlps(
    data: Labelled, train: NDArray[np.intp], validation: NDArray[np.intp], config: ProbeConfig
) -> list[ProbeFit]:
    return fit_mlps(examples(data, train, validation), config, 0)


def examples(data: Labelled, train: NDArray[np.intp], validation: NDArray[np.intp]) -> Examples:
    states, unknown = data
    return Examples(states, unknown.astype(float), unknown, train, validation, "label")


def of(fits: list[ProbeFit], kind: str, layer: int) -> ProbeFit:
    (found,) = [fit for fit in fits if fit.probe.kind == kind and fit.probe.layer == layer]
    return found


def same(left: Probe, right: Probe) -> bool:
    return (left.kind, left.layer) == (right.kind, right.layer) and all(
        np.array_equal(left.weights[name], right.weights[name]) for name in left.weights
    )


def test_both_kinds_learn_a_planted_direction_and_not_noise(planted: Labelled, fits: list[ProbeFit]) -> None:
    states, unknown = planted
    assert [(f.probe.kind, f.probe.layer) for f in fits] == [
        (k, i) for k in ("linear", "mlp") for i in range(LAYERS)
    ]
    for kind in ("linear", "mlp"):
        on_test = {
            layer: auroc(of(fits, kind, layer).probe.predict(states[TEST, layer]), unknown[TEST])
            for layer in range(LAYERS)
        }
        assert on_test[PLANTED] > 0.97
        assert 0.6 < on_test[1] < on_test[PLANTED]
        assert 0.3 < on_test[3] < 0.7
    assert choose(fits).probe.layer == PLANTED


def test_p_unknown_is_high_for_unknown_questions(planted: Labelled, fits: list[ProbeFit]) -> None:
    states, unknown = planted
    for kind in ("linear", "mlp"):
        p = of(fits, kind, PLANTED).probe.predict(states[TEST, PLANTED])
        assert p.dtype == np.float32
        assert ((p >= 0) & (p <= 1)).all()
        assert p[unknown[TEST]].mean() > 0.8 > 0.3 > p[~unknown[TEST]].mean()


def test_the_mlp_learns_what_no_line_parts() -> None:
    rng = np.random.default_rng(1)
    states = rng.normal(size=(ROWS, 1, 4)).astype(np.float32)
    unknown = states[:, 0, 0] * states[:, 0, 1] > 0
    fits = fit((states, unknown), ProbeConfig(mlp_width=32, mlp_epochs=60, mlp_lr=1e-2, mlp_patience=20))
    scores = {f.probe.kind: auroc(f.probe.predict(states[TEST, 0]), unknown[TEST]) for f in fits}
    assert scores["mlp"] > 0.9
    assert scores["linear"] < 0.7


def test_the_test_rows_are_never_read(planted: Labelled, fits: list[ProbeFit]) -> None:
    """SPEC item 2: the best layer was picked on the test rows."""
    states, unknown = planted
    blind, flipped = states.copy(), unknown.copy()
    blind[TEST] = np.nan
    flipped[TEST] ^= True
    before, after = fits, fit((blind, flipped))
    assert all(same(a.probe, b.probe) and a[1:] == b[1:] for a, b in zip(before, after, strict=True))
    assert same(choose(before).probe, choose(after).probe)


def test_validation_rows_do_not_train_the_weights(planted: Labelled, fits: list[ProbeFit]) -> None:
    """They pick among epochs and strengths; scaling and weights come from training rows."""
    states, unknown = planted
    moved = states.copy()
    moved[VALIDATION] = moved[VALIDATION] * 3 + 1
    before, after = fits, fit((moved, unknown))
    for kind in ("linear", "mlp"):
        weights = [of(each, kind, PLANTED).probe.weights for each in (before, after)]
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


def test_standardization_of_training_rows(planted: Labelled) -> None:
    rows = planted[0][TRAIN, PLANTED].astype(np.float64)
    rows[:, 5] = 7.3
    mean, scale = standardization(rows)
    scaled = (rows - mean) / scale
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.delete(scaled.std(0), 5), 1, rtol=1e-5)
    assert scale[5] == 1.0


def test_half_precision_states(planted: Labelled) -> None:
    states, unknown = planted
    half = (states / 100).astype(np.float16)
    for found in fit((half, unknown)):
        assert all(weight.dtype == np.float32 for weight in found.probe.weights.values())
        if found.probe.layer == PLANTED:
            assert found.validation_auroc > 0.97


def overfitting() -> Labelled:
    """Few rows of many features and noisy labels: validation loss falls, then rises for many epochs."""
    rng = np.random.default_rng(3)
    states = rng.normal(size=(ROWS, 3, 40)).astype(np.float32)
    unknown = (states[:, :, 0].sum(1) + 1.5 * rng.normal(size=ROWS)) > 0
    return states, unknown


def test_the_kept_weights_are_those_of_the_best_epoch_not_of_the_last() -> None:
    """SPEC item 2: a reference to the weights went on training, so the best epoch was always the last."""
    data = overfitting()
    rows, validation = np.arange(60), VALIDATION

    def train(epochs: int) -> list[ProbeFit]:
        config = ProbeConfig(mlp_width=32, mlp_epochs=epochs, mlp_patience=100, mlp_lr=5e-3)
        return mlps(data, rows, validation, config)

    long = train(25)
    assert all(0 < found.epochs < 20 for found in long), "the test needs layers that overfit"
    for layer, found in enumerate(long):
        # Training that ends at the best epoch gives the same probe; its loss is the least of all epochs.
        stopped = train(found.epochs)[layer]
        assert stopped.epochs == found.epochs
        np.testing.assert_array_equal(
            stopped.probe.predict(data[0][TEST, layer]), found.probe.predict(data[0][TEST, layer])
        )
    assert len({found.epochs for found in long}) > 1


def test_the_reported_loss_is_that_of_the_kept_weights(planted: Labelled, fits: list[ProbeFit]) -> None:
    states, unknown = planted
    for found in fits:
        rows = states[VALIDATION, found.probe.layer]
        again = evaluate_fit(found.probe, rows, unknown[VALIDATION], epochs=found.epochs)
        assert again == found._replace(choice_loss=found.validation_loss)
        p = found.probe.predict(rows).astype(float)
        expected = -np.log(np.where(unknown[VALIDATION], p, 1 - p)).mean()
        assert found.validation_loss == pytest.approx(expected, rel=1e-3)


def test_layers_train_as_if_alone() -> None:
    data = overfitting()
    few = VALIDATION[:12]  # so that the validation loss goes up and down
    for patience in (2, 100):
        config = ProbeConfig(
            mlp_width=16, mlp_epochs=20, mlp_patience=patience, mlp_lr=3e-4, mlp_batch_size=16
        )
        together = mlps(data, TRAIN, few, config)
        for layer, found in enumerate(together):
            (alone,) = mlp._fit_chunk(examples(data, TRAIN, few), range(layer, layer + 1), config, 0)
            assert alone.epochs == found.epochs
            rows = data[0][TEST, layer]
            np.testing.assert_allclose(alone.probe.predict(rows), found.probe.predict(rows), atol=1e-4)


def test_a_layer_out_of_patience_is_not_revived_by_the_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer 0 would be best in epoch 5, but alone it had stopped after 3; layer 1 keeps the training going."""
    script = iter(
        [[0.6, 0.9], [0.7, 0.8], [0.8, 0.7], [0.9, 0.6], [0.1, 0.5], [0.1, 0.6], [0.1, 0.7], [0.0, 0.0]]
    )
    monkeypatch.setattr(mlp, "_losses", lambda _logits, _targets: torch.tensor(next(script)))
    states, unknown = overfitting()
    config = ProbeConfig(mlp_width=4, mlp_epochs=50, mlp_patience=2)
    fits = mlp._fit_chunk(examples((states, unknown), TRAIN, VALIDATION), range(2), config, 0)
    assert [found.epochs for found in fits] == [1, 5]
    assert next(script) == [0.0, 0.0], "training ends when the last layer is out of patience"


def test_chunks_and_threads_change_nothing(planted: Labelled) -> None:
    whole = mlp._fit_chunk(examples(planted, TRAIN, VALIDATION), range(LAYERS), SMALL, 0)
    torch.set_num_threads(2)  # two chunks side by side
    told: list[int] = []
    chunked = fit_mlps(examples(planted, TRAIN, VALIDATION), SMALL, 0, told.append)
    assert torch.get_num_threads() == 2
    assert told == [1] * LAYERS
    assert [f.probe.layer for f in chunked] == list(range(LAYERS))
    for one, other in zip(whole, chunked, strict=True):
        assert one.epochs == other.epochs
        rows = planted[0][TEST, one.probe.layer]
        np.testing.assert_allclose(one.probe.predict(rows), other.probe.predict(rows), atol=1e-4)


def test_training_stops_when_no_layer_improves(planted: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    losses = mlp._losses

    def count(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1  # the validation pass, once an epoch
        return losses(logits, targets)

    monkeypatch.setattr(mlp, "_losses", count)
    config = ProbeConfig(mlp_width=16, mlp_epochs=500, mlp_patience=2, mlp_lr=1e-2)
    fits = mlps(planted, TRAIN, VALIDATION, config)
    assert calls < 200
    assert calls >= max(found.epochs for found in fits) + 2


def test_seeds(planted: Labelled) -> None:
    state = torch.random.get_rng_state()
    first, again, other = fit(planted, seed=1), fit(planted, seed=1), fit(planted, seed=2)
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's random state is touched"
    assert all(same(a.probe, b.probe) for a, b in zip(first, again, strict=True))
    assert not same(of(first, "mlp", 1).probe, of(other, "mlp", 1).probe)
    # Layers start from weights of their own.
    gates = [of(first, "mlp", layer).probe.weights["gate"] for layer in range(LAYERS)]
    assert not np.allclose(gates[1], gates[2])


def test_predict_is_the_printed_form(planted: Labelled, fits: list[ProbeFit]) -> None:
    """score(down(SiLU(gate x) ⊙ up x)), in whose order the training does not multiply."""
    states, _ = planted
    probe = of(fits, "mlp", 1).probe
    w = {name: array.astype(float) for name, array in probe.weights.items()}
    x = (states[:, 1] - w["mean"]) / w["scale"]
    gate = x @ w["gate"]
    two = (gate / (1 + np.exp(-gate)) * (x @ w["up"])) @ w["down"] @ w["score"] + w["bias"]
    by_hand = np.exp(two[:, 1]) / np.exp(two).sum(1)
    np.testing.assert_allclose(probe.predict(states[:, 1]), by_hand, atol=1e-5)


def test_gradients_of_the_mlp_are_autograds() -> None:
    weights = {
        name: tensor.double().requires_grad_()
        for name, tensor in mlp._initial_weights(range(3), 6, 5, seed=0).items()
    }
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(3, 7, 6, generator=stream, dtype=torch.float64)
    targets = torch.rand(7, generator=stream, dtype=torch.float64)
    gate, up = (x @ weights["gate_up"]).chunk(2, dim=2)
    two = (torch.nn.functional.silu(gate) * up) @ weights["down"] @ weights["score"] + weights["bias"]
    both = torch.stack([1 - targets, targets], dim=1).expand(3, -1, -1)
    loss = torch.nn.functional.cross_entropy(two.flatten(0, 1), both.flatten(0, 1), reduction="sum") / 7
    loss.backward()
    by_hand = mlp._gradients(weights, x, targets)
    for name, tensor in weights.items():
        torch.testing.assert_close(by_hand[name], tensor.grad)
    torch.testing.assert_close(mlp._losses(mlp._logits(weights, x), targets).sum(), loss)


def test_the_linear_probe_is_the_logistic_regression_it_says(planted: Labelled, fits: list[ProbeFit]) -> None:
    states, _ = planted
    weights = of(fits, "linear", PLANTED).probe.weights
    rows = (states[TEST, PLANTED].astype(float) - weights["mean"]) / weights["scale"]
    p = 1 / (1 + np.exp(-(rows @ weights["weight"] + weights["bias"][0])))
    predicted = of(fits, "linear", PLANTED).probe.predict(states[TEST, PLANTED])
    np.testing.assert_allclose(predicted, p, atol=1e-5)


def test_extreme_states_give_probabilities_not_warnings(fits: list[ProbeFit]) -> None:
    for found in fits:
        p = found.probe.predict(np.full((3, WIDTH), 1e6, dtype=np.float32))
        assert ((p >= 0) & (p <= 1)).all()


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
def test_empty_splits(
    planted: Labelled, train: NDArray[np.intp], validation: NDArray[np.intp], message: str
) -> None:
    with pytest.raises(DegenerateError, match=message):
        fit_probes(*planted, train, validation, SMALL, 0)


def test_states_that_are_not_numbers_are_refused(planted: Labelled) -> None:
    states, unknown = planted[0].copy(), planted[1]
    states[7, 2, 3] = np.inf
    states[200, 2, 0] = np.nan
    with pytest.raises(
        DataError, match=r"layer 2: 2 of 240 rows hold NaN or infinity \(the first is row 7\)"
    ):
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
    assert same(fit_probe(blind, unknown, groups, config=SMALL, seed=3).probe, fitted.probe)


def test_a_value_probe_is_calibrated_against_its_event(planted: Labelled) -> None:
    states, unknown = planted
    values = np.where(unknown, 0.9, 0.6)
    config = ProbeConfig(kinds=["linear"], target="value")
    groups = [str(row) for row in range(ROWS)]
    probe = fit_probe(states, values, groups, event=unknown, config=config).probe
    assert (probe.score(states[:, PLANTED]) > 0.5).mean() > 0.95
    assert probe.predict(states[~unknown, PLANTED]).mean() < 0.2


def test_the_methods_that_keep_a_probe_pass_it_on(
    monkeypatch: pytest.MonkeyPatch, fits: list[ProbeFit], tmp_path: Path
) -> None:
    kept: dict[str, Any] = {}
    folder = ModuleType("ka2l.knowledge.probes.probe_folder")
    folder.save = lambda probe, card, path: kept.update({str(path): (probe, card)})  # type: ignore[attr-defined]
    folder.load = lambda name, _revision: kept[name]  # type: ignore[attr-defined]
    folder.push = lambda probe, card, repo, **options: (probe, card, repo, options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ka2l.knowledge.probes.probe_folder", folder)
    monkeypatch.setattr("ka2l.knowledge.probes.probe_folder", folder, raising=False)
    probe = replace(fits[0].probe, card={"model": "m"})
    probe.save_pretrained(tmp_path)
    kept[str(tmp_path)] = (fits[0].probe, kept[str(tmp_path)][1])
    again = Probe.from_pretrained(str(tmp_path))
    assert again == probe
    assert again.card == {"model": "m"}
    assert probe.push_to_hub("me/probe", private=True) == (
        probe,
        {"model": "m"},
        "me/probe",
        {"private": True},
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7))
def test_predictions_of_a_row_do_not_depend_on_the_others(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    weights = {
        "mean": rng.normal(size=6),
        "scale": rng.random(6) + 0.5,
        "weight": rng.normal(size=6),
        "bias": rng.normal(size=1),
    }
    probe = Probe("linear", 1, {name: array.astype(np.float32) for name, array in weights.items()})
    states = rng.normal(size=(rows, 6)).astype(np.float32)
    alone = np.concatenate([probe.predict(states[i : i + 1]) for i in range(rows)])
    np.testing.assert_allclose(probe.predict(states), alone, atol=1e-6)
