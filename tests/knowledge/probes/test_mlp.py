"""The SwiGLU probes: what they learn, the epoch that is kept, and layers that train independently."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ka2l.common.intervals import auroc
from ka2l.knowledge.probes import mlp
from ka2l.knowledge.probes.mlp import fit_mlps
from ka2l.knowledge.probes.probe import ProbeFit
from ka2l.knowledge.settings import ProbeConfig
from planted_states import LAYERS, ROWS, SMALL, TEST, TRAIN, VALIDATION, Labelled, examples, fit, fit_at
from planted_states import fits as fits  # a fixture
from planted_states import planted as planted  # a fixture


def mlps(data: Labelled, train: NDArray[np.intp], validation: NDArray[np.intp], config: ProbeConfig) -> list[ProbeFit]:
    return fit_mlps(examples(data, train, validation), config, 0)


def overfitting() -> Labelled:
    """Few rows of many features and noisy labels: validation loss falls, then rises for many epochs."""
    rng = np.random.default_rng(3)
    states = rng.normal(size=(ROWS, 3, 40)).astype(np.float32)
    unknown = (states[:, :, 0].sum(1) + 1.5 * rng.normal(size=ROWS)) > 0
    return states, unknown


def test_the_mlp_learns_what_no_line_parts() -> None:
    rng = np.random.default_rng(1)
    states = rng.normal(size=(ROWS, 1, 4)).astype(np.float32)
    unknown = states[:, 0, 0] * states[:, 0, 1] > 0
    fits = fit((states, unknown), ProbeConfig(mlp_width=32, mlp_epochs=60, mlp_lr=1e-2, mlp_patience=20))
    scores = {f.probe.kind: auroc(f.probe.predict(states[TEST, 0]), unknown[TEST]) for f in fits}
    assert scores["mlp"] > 0.9
    assert scores["linear"] < 0.7


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


def test_layers_train_as_if_alone() -> None:
    data = overfitting()
    few = VALIDATION[:12]  # so that the validation loss goes up and down
    for patience in (2, 100):
        config = ProbeConfig(mlp_width=16, mlp_epochs=20, mlp_patience=patience, mlp_lr=3e-4, mlp_batch_size=16)
        together = mlps(data, TRAIN, few, config)
        for layer, found in enumerate(together):
            (alone,) = mlp._fit_chunk(examples(data, TRAIN, few), range(layer, layer + 1), config, 0)
            assert alone.epochs == found.epochs
            rows = data[0][TEST, layer]
            np.testing.assert_allclose(alone.probe.predict(rows), found.probe.predict(rows), atol=1e-4)


def test_a_layer_out_of_patience_is_not_revived_by_the_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer 0 would be best in epoch 5, but alone it had stopped after 3; layer 1 keeps the training going."""
    script = iter([[0.6, 0.9], [0.7, 0.8], [0.8, 0.7], [0.9, 0.6], [0.1, 0.5], [0.1, 0.6], [0.1, 0.7], [0.0, 0.0]])
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


def test_predict_is_the_printed_form(planted: Labelled, fits: list[ProbeFit]) -> None:
    """score(down(SiLU(gate x) ⊙ up x)), in whose order the training does not multiply."""
    states, _ = planted
    probe = fit_at(fits, "mlp", 1).probe
    w = {name: array.astype(float) for name, array in probe.weights.items()}
    x = (states[:, 1] - w["mean"]) / w["scale"]
    gate = x @ w["gate"]
    two = (gate / (1 + np.exp(-gate)) * (x @ w["up"])) @ w["down"] @ w["score"] + w["bias"]
    by_hand = np.exp(two[:, 1]) / np.exp(two).sum(1)
    np.testing.assert_allclose(probe.predict(states[:, 1]), by_hand, atol=1e-5)


def test_gradients_of_the_mlp_are_autograds() -> None:
    weights = {
        name: tensor.double().requires_grad_() for name, tensor in mlp._initial_weights(range(3), 6, 5, seed=0).items()
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
