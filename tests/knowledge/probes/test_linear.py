"""The linear probe is scikit-learn's logistic regression, run to its optimum, for all layers and strengths at once."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ka2l.knowledge.group_splits import assign_folds
from ka2l.knowledge.probes import linear
from ka2l.knowledge.probes.linear import STRENGTHS, Logistic, fit_linear, logistic
from ka2l.knowledge.probes.parallel_layers import side_by_side
from ka2l.knowledge.probes.probe import Examples, standardization

Floats = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _one_thread_of_numpy() -> Iterator[None]:
    """scikit-learn's small products are hundreds of times slower on two busy cores than on one."""
    with threadpool_limits(1):
        yield


def solve(x: Floats, y: Floats, strengths: tuple[float, ...] = STRENGTHS) -> Logistic:
    return logistic(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y), strengths)


def rows(n: int, width: int, layers: int = 1, seed: int = 0) -> Floats:
    """Standardised, with a few strong directions, as states have."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(layers, n, width)) @ np.diag(np.arange(1, width + 1) ** -0.7)
    x = x @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    return np.asarray((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True))


def noisy(x: Floats, seed: int = 1) -> Floats:
    return (x[0, :, 0] + np.random.default_rng(seed).normal(size=x.shape[1]) > 0).astype(float)


def assert_scikit_learn_agrees(x: Floats, y: Floats) -> None:
    found = solve(x, y)
    for layer in range(len(x)):
        for number, strength in enumerate(STRENGTHS):
            exact = LogisticRegression(C=strength, tol=1e-8, max_iter=20_000)
            exact.fit(x[layer].astype(np.float32).astype(float), y)
            error = np.linalg.norm(found.weight[layer, number] - exact.coef_[0])
            assert error <= 1e-3 * np.linalg.norm(exact.coef_[0])
            assert found.bias[layer, number] == pytest.approx(exact.intercept_[0], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("n", "width"), [(200, 12), (40, 100), (60, 60), (3, 5)])
def test_the_optimum_is_scikit_learns(n: int, width: int) -> None:
    x = rows(n, width, layers=2)
    y = noisy(x)
    y[:2] = (0, 1)
    assert_scikit_learn_agrees(x, y)


def test_rows_that_a_plane_parts() -> None:
    x = rows(150, 10)
    y = (x[0, :, 0] > 0).astype(float)
    x[0, :, 0] += np.where(y, 3.0, -3.0)
    assert_scikit_learn_agrees(x, y)


@pytest.mark.parametrize("n", [80, 15])
def test_constant_and_repeated_columns(n: int) -> None:
    x = rows(n, 20)
    x[0, :, 3:7] = 0.0
    x[0, :, 8] = x[0, :, 9]
    y = noisy(x)
    assert_scikit_learn_agrees(x, y)
    np.testing.assert_allclose(solve(x, y).weight[0, :, 3:7], 0.0, atol=1e-9)


def test_repeated_rows_and_one_rare_class() -> None:
    x = np.repeat(rows(20, 30), 2, axis=1)
    y = np.zeros(40)
    y[:2] = 1
    assert_scikit_learn_agrees(x, y)


def test_nothing_but_constants_gives_the_share_of_the_target() -> None:
    found = solve(np.zeros((1, 40, 6)), np.repeat([1.0, 0.0], [10, 30]))
    np.testing.assert_array_equal(found.weight, 0.0)
    np.testing.assert_allclose(found.bias, np.log(1 / 3), atol=1e-6)


@pytest.mark.parametrize(("n", "width"), [(100, 8), (12, 40)])
def test_soft_targets_are_rows_of_both_classes_weighted(n: int, width: int) -> None:
    """Cross-entropy with y is y times that of a positive and 1 − y times that of a negative."""
    x, y = rows(n, width), np.random.default_rng(2).random(n)
    found = solve(x, y)
    twice, labels = np.concatenate([x[0], x[0]]), np.repeat([1, 0], n)
    for number, strength in enumerate(STRENGTHS):
        exact = LogisticRegression(C=strength, tol=1e-8, max_iter=20_000)
        exact.fit(twice, labels, sample_weight=np.concatenate([y, 1 - y]))
        error = np.linalg.norm(found.weight[0, number] - exact.coef_[0])
        assert error <= 1e-3 * np.linalg.norm(exact.coef_[0])


def test_the_gradient_vanishes() -> None:
    """The certificate itself: by strong convexity the gradient's norm bounds the weight's error."""
    n = 300
    x = rows(n, 40).astype(np.float32).astype(float)
    y = noisy(x)
    found = solve(x, y, (0.01, 1.0, 100.0))
    for number, strength in enumerate((0.01, 1.0, 100.0)):
        weight = found.weight[0, number]
        residual = 1 / (1 + np.exp(-(x[0] @ weight + found.bias[0, number]))) - y
        gradient = strength * x[0].T @ residual + weight
        assert np.linalg.norm(gradient) <= 1e-3 * np.linalg.norm(weight)
        assert abs(residual.sum()) <= 1e-3 * n


def test_one_pass_serves_all_strengths() -> None:
    x = rows(400, 50)
    y = noisy(x)
    together = solve(x, y).passes
    alone = [solve(x, y, (strength,)).passes for strength in STRENGTHS]
    assert together <= max(alone) + 2 < sum(alone)


def test_layers_and_strengths_do_not_disturb_each_other() -> None:
    x = rows(90, 30, layers=3)
    y = noisy(x)
    together = solve(x, y)
    for layer in range(3):
        for number, strength in enumerate(STRENGTHS):
            alone = solve(x[layer : layer + 1], y, (strength,)).weight[0, 0]
            error = np.linalg.norm(together.weight[layer, number] - alone)
            assert error < 1e-3 * np.linalg.norm(alone)


def test_a_search_that_does_not_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_NEWTON_STEPS", 2)
    x = rows(100, 10)
    with pytest.raises(ArithmeticError, match="not converged in 2 Newton steps"):
        solve(x, noisy(x))


def test_the_strength_is_that_of_the_least_validation_loss_in_each_layer() -> None:
    """Layer 0 holds its signal in a weak direction, found only with little penalty; layer 1 in its strongest."""
    rng = np.random.default_rng(4)
    n = 600
    event = rng.random(n) < 0.5
    states = rng.normal(size=(n, 2, 40))
    common = 3 * rng.normal(size=(n, 1))
    states[:, 0] = common + 0.3 * states[:, 0]
    states[:, 0, 0] += np.where(event, 0.3, -0.3)
    states[:, 1] += np.where(event, 0.25, -0.25)[:, None]
    data = Examples(states, event.astype(float), event, np.arange(200), np.arange(200, n), "label")
    weak, strong = fit_linear(data)
    norms = [np.linalg.norm(fit.probe.weights["weight"]) for fit in (weak, strong)]
    assert norms[0] > 3 * norms[1]
    assert min(weak.validation_auroc, strong.validation_auroc) > 0.8


def test_with_folds_strength_and_loss_are_those_of_scikit_learns_cross_validation() -> None:
    by_layer = rows(90, 20, layers=2)
    x, event = np.moveaxis(by_layer, 0, 1).astype(np.float32), noisy(by_layer).astype(bool)
    train, validation = np.arange(60), np.arange(60, 90)
    folds = assign_folds([str(row) for row in range(90)], 0)
    data = Examples(x, event.astype(float), event, train, validation, "label", folds)
    for fit in fit_linear(data):
        states = x[:, fit.probe.layer]
        losses = []
        for strength in STRENGTHS:
            total = 0.0
            for fold in range(5):
                mean, scale = standardization(states[folds != fold])
                model = LogisticRegression(C=strength, tol=1e-8, max_iter=20_000)
                model.fit((states[folds != fold] - mean) / scale, event[folds != fold])
                p = model.predict_proba((states[folds == fold] - mean) / scale)[:, 1]
                total -= np.log(np.where(event[folds == fold], p, 1 - p)).sum()
            losses.append(total / 90)
        assert fit.choice_loss == pytest.approx(min(losses), rel=1e-3)
        # The kept probe is fitted on training rows, as without folds.
        mean, scale = standardization(states[train])
        kept = LogisticRegression(C=STRENGTHS[int(np.argmin(losses))], tol=1e-8, max_iter=20_000)
        kept.fit((states[train] - mean) / scale, event[train])
        np.testing.assert_allclose(fit.probe.weights["weight"], kept.coef_[0], rtol=1e-2, atol=1e-4)


def test_chunks_and_threads_change_nothing() -> None:
    x = np.moveaxis(rows(120, 16, layers=17), 0, 1)
    event = x[:, 0, 0] > 0
    data = Examples(x, event.astype(float), event, np.arange(80), np.arange(80, 120), "label")
    whole = linear._fit_chunk(data, range(17))
    torch.set_num_threads(2)  # two chunks side by side
    told: list[int] = []
    chunked = fit_linear(data, told.append)
    assert torch.get_num_threads() == 2
    assert told == [2] * 8 + [1]
    assert [fit.probe.layer for fit in chunked] == list(range(17))
    for one, other in zip(whole, chunked, strict=True):
        states = x[:, one.probe.layer]
        np.testing.assert_allclose(one.probe.predict(states), other.probe.predict(states), atol=1e-4)


@pytest.mark.parametrize("layers", [1, 3])
def test_each_chunk_has_one_thread_also_the_only_one(layers: int) -> None:
    """Two threads in the small products of one layer took a hundred times as long beside other processes."""
    torch.set_num_threads(2)
    chunks = [range(layer, layer + 1) for layer in range(layers)]
    assert list(side_by_side(lambda _chunk: torch.get_num_threads(), chunks)) == [1] * layers
    assert torch.get_num_threads() == 2


def test_an_error_in_one_chunk_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_NEWTON_STEPS", 1)
    torch.set_num_threads(2)
    x = np.moveaxis(rows(60, 8, layers=4), 0, 1)
    event = x[:, 0, 0] > 0
    with pytest.raises(ArithmeticError):
        fit_linear(Examples(x, event.astype(float), event, np.arange(40), np.arange(40, 60), "label"))
    assert torch.get_num_threads() == 2
