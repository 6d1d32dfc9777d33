"""Calibration: probabilities that keep their word, in the order of the scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from ka2l.knowledge.probes.calibration import calibrate, isotonic, platt
from ka2l.knowledge.probes.calibration_curves import apply_calibration
from ka2l.knowledge.probes.probe import Probe

METHODS = {"platt": platt, "isotonic": isotonic}


def probe(slope: float = 1.0) -> Probe:
    """A probe whose log-odds are its one feature times a slope."""
    weights = {"mean": [0.0], "scale": [1.0], "weight": [slope], "bias": [0.0]}
    return Probe("linear", 3, {name: np.array(array, dtype=np.float32) for name, array in weights.items()})


def overconfident(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Log-odds four times too large and shifted."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=n)
    return 4 * true + 2, rng.random(n) < 1 / (1 + np.exp(-true))


def error(p: NDArray[np.floating], y: NDArray[np.bool_]) -> float:
    """Expected calibration error over ten bins of equal size."""
    bins = np.array_split(np.argsort(p, kind="stable"), 10)
    return float(np.mean([abs(p[rows].mean() - y[rows].mean()) for rows in bins]))


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_an_overconfident_probe_is_mended(method: str) -> None:
    logits, outcome = overconfident(2000)
    fresh, truth = overconfident(4000, seed=1)
    raw = probe()
    mended = calibrate(raw, logits[:, None], outcome, method)
    assert mended.calibration == method
    assert (mended.kind, mended.layer) == ("linear", 3)
    assert error(raw.predict(fresh[:, None]), truth) > 0.15
    assert error(mended.predict(fresh[:, None]), truth) < 0.04
    np.testing.assert_array_equal(mended.score(fresh[:, None]), raw.predict(fresh[:, None]))


@pytest.mark.parametrize("soft", [False, True])
def test_platt_is_the_least_cross_entropy_with_smoothed_targets(soft: bool) -> None:
    logits, outcome = overconfident(40)
    y = outcome * (0.5 if soft else 1.0)
    high, low = (y.sum() + 1) / (y.sum() + 2), 1 / (40 - y.sum() + 2)
    target = low + y * (high - low)

    def loss(ab: NDArray[np.float64]) -> float:
        z = ab[0] * logits + ab[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    np.testing.assert_allclose(platt(logits, y)["platt"], minimize(loss, [0.1, 0.0], tol=1e-12).x, rtol=1e-3, atol=1e-4)


def test_few_rows_that_are_parted_perfectly_give_no_certainty() -> None:
    logits = np.array([-9.0, -8.0, -7.0, 7.0, 8.0, 9.0])
    p = apply_calibration("platt", platt(logits, (logits > 0).astype(float)), logits.astype(np.float32))
    np.testing.assert_allclose(p[[0, -1]], [0.2, 0.8], atol=0.03)  # (N + 1)/(N + 2) of three rows each


def test_isotonic_is_scikit_learns_and_does_not_extrapolate() -> None:
    logits, outcome = overconfident(200)
    fresh = np.linspace(-30, 30, 500)
    exact = IsotonicRegression(out_of_bounds="clip").fit(logits, outcome).predict(fresh)
    mended = calibrate(probe(), logits[:, None], outcome, "isotonic")
    np.testing.assert_allclose(mended.predict(fresh[:, None]), exact, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60), st.sampled_from(["platt", "isotonic"]))
def test_the_order_stays(seed: int, rows: int, method: str) -> None:
    """Whatever the scores are worth: higher stays higher; Platt keeps it strictly."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=rows).round(1) * rng.choice([0.1, 1.0, 10.0])
    outcome = rng.choice([0.0, 0.5, 1.0], size=rows)
    weights = METHODS[method](logits, outcome)
    assert all(array.dtype == np.float32 for array in weights.values())
    fresh = np.sort(rng.normal(size=50)).astype(np.float32)
    p = apply_calibration(method, weights, fresh)
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) >= 0).all()
    if method == "platt":
        assert weights["platt"][0] > 0


@pytest.mark.parametrize("constant", [0.0, 5.0])
def test_equal_scores_get_the_share_of_the_outcome(constant: float) -> None:
    logits, outcome = np.full(50, constant), np.repeat([1.0, 0.0], [10, 40])
    smoothed = (10 * (11 / 12) + 40 / 42) / 50
    for method, expected in (("platt", smoothed), ("isotonic", 0.2)):
        p = apply_calibration(method, METHODS[method](logits, outcome), logits.astype(np.float32))
        np.testing.assert_allclose(p, expected, atol=1e-4)


def test_scores_against_the_truth_end_near_the_share_not_upside_down() -> None:
    logits, outcome = overconfident(400)
    p = calibrate(probe(-1.0), logits[:, None], outcome, "platt").predict(logits[:, None])
    assert p.max() - p.min() < 0.05
    assert p.mean() == pytest.approx(outcome.mean(), abs=0.02)


def test_a_value_probe_predicts_the_label() -> None:
    """Its score is a share of the largest entropy; calibrated against the label it is p_unknown."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=3000)
    unknown = rng.random(3000) < 1 / (1 + np.exp(-3 * (logits - 1)))
    mended = calibrate(probe(), logits[:, None], unknown, "platt")
    np.testing.assert_allclose(mended.weights["platt"], [3, -3], rtol=0.15)


def test_outcomes_that_are_missing_are_left_out() -> None:
    logits, outcome = overconfident(100)
    holes = np.concatenate([outcome.astype(float), np.full(20, np.nan)])
    states = np.concatenate([logits, np.linspace(-9, 9, 20)])[:, None]
    one = calibrate(probe(), states, holes, "platt")
    other = calibrate(probe(), logits[:, None], outcome, "platt")
    np.testing.assert_array_equal(one.weights["platt"], other.weights["platt"])


def test_calibrating_again_replaces_and_none_removes() -> None:
    logits, outcome = overconfident(300)
    states = logits[:, None]
    once = calibrate(probe(), states, outcome, "platt")
    again = calibrate(calibrate(once, states, outcome, "isotonic"), states, outcome, "platt")
    np.testing.assert_array_equal(again.weights["platt"], once.weights["platt"])
    assert set(again.weights) == set(once.weights)
    bare = calibrate(again, states, outcome, "none")
    assert set(bare.weights) == set(probe().weights)
    np.testing.assert_array_equal(bare.predict(states), probe().predict(states))
