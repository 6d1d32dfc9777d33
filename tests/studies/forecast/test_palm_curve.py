"""The learning curve: it recovers known parameters, its band has its nominal coverage, and it says what is assumed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curve_data import BUDGETS, TRUE, exact
from ka2l.errors import DegenerateError
from ka2l.studies.forecast.curve_points import ASSUMED_SPREAD, from_scores
from ka2l.studies.forecast.palm_curve import Curve, fit


@pytest.mark.parametrize(
    ("a_max", "delta", "alpha", "beta"),
    [(0.7, 0.2, 0.8, 0.7), (0.95, 0.05, 0.3, 1.3), (0.4, 0.6, 0.1, 0.5), (0.3, 0.1, 4.0, 1.0)],
)
def test_noiseless_points_give_their_parameters_back(a_max: float, delta: float, alpha: float, beta: float) -> None:
    true = Curve(a_max, -np.log1p(-delta), alpha, beta, 50.0)
    by_hand = a_max * (1 - (1 - delta) ** ((100 / 50 + alpha) ** beta))
    assert true(100.0)[0] == pytest.approx(by_hand, rel=1e-12)
    found = fit(exact(BUDGETS, true(BUDGETS)))
    curve = found.curve
    assert curve.batch == 50  # the first step
    parameters = [float(part) for part in (curve.a_max, curve.delta, curve.alpha, curve.beta)]
    assert parameters == pytest.approx([a_max, delta, alpha, beta], rel=2e-3)
    assert (found.identified, found.note, found.widened) == (True, "", 1.0)


def test_the_batch_is_only_a_unit() -> None:
    points = exact(BUDGETS, TRUE(BUDGETS), 0.01)
    one, other = fit(points, batch=50.0), fit(points, batch=200.0)
    grid = np.linspace(0, 2000, 21)
    np.testing.assert_allclose(one.curve(grid), other.curve(grid), rtol=1e-9)
    np.testing.assert_allclose(one.draws(grid), other.draws(grid), rtol=1e-6)
    assert other.curve.alpha == pytest.approx(one.curve.alpha / 4)


scores = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=6)


@settings(max_examples=25, deadline=None)
@given(scores=scores, deviation=st.sampled_from([0.002, 0.02, 0.1]))
def test_every_curve_rises_and_stays_below_one(scores: list[float], deviation: float) -> None:
    points = exact(BUDGETS[: len(scores)], np.array(scores), deviation)
    found = fit(points, draws=10)
    grid = np.linspace(0, 5000, 60)
    for values in (found.curve(grid)[None], found.draws(grid)):
        assert np.isfinite(values).all()
        assert (np.diff(values, axis=1) >= -1e-12).all()
        assert (values >= 0).all()
        assert (values <= 1).all()
    band = found.band(grid)
    assert (band.low <= band.middle).all()
    assert (band.middle <= band.high).all()
    assert 0 <= found.curve.delta <= 1


@settings(max_examples=60, deadline=None)
@given(
    a_max=st.floats(0.1, 1.0), rate=st.floats(0.01, 2), alpha=st.floats(0, 3), beta=st.floats(0.3, 2),
    share=st.floats(0.01, 0.99),
)  # fmt: skip
def test_labels_for_a_score_undo_the_curve(a_max: float, rate: float, alpha: float, beta: float, share: float) -> None:
    curve = Curve(a_max, rate, alpha, beta, 100.0)
    labels = float(curve.labels_for(share * a_max))
    if labels == 0:
        assert curve(0.0)[0] >= share * a_max - 1e-9
    else:
        assert curve(labels)[0] == pytest.approx(share * a_max, rel=1e-9)
    assert curve.labels_for(a_max) == np.inf
    assert curve.labels_for(2.0) == np.inf


def test_the_band_covers_what_it_says() -> None:
    """Simulated pilots of known curves: the bands of 95 % and of 50 % hold the truth that often, give or take."""
    rng = np.random.default_rng(11)
    inside: dict[float, list[bool]] = {0.95: [], 0.5: []}
    for number in range(120):
        true = Curve(rng.uniform(0.3, 0.9), rng.uniform(0.05, 0.5), rng.uniform(0.1, 1.5), rng.uniform(0.5, 1.2), 50.0)
        seen = BUDGETS[: 4 + number % 3]
        noisy = {
            b: np.clip(true(b)[0] + 0.015 * rng.standard_normal(3 if b else 1) * (b > 0), 0, 1).tolist() for b in seen
        }
        found = fit(from_scores(noisy), draws=100, seed=number)
        after = float(seen[-1]) + 100
        gain = float(true(after)[0] - true(seen[-1])[0])
        for level, hits in inside.items():
            score, more = found.band(after, level), found.gain(float(seen[-1]), 100.0, level)
            hits += [score.low[0] <= true(after)[0] <= score.high[0], more.low[0] <= gain <= more.high[0]]
    assert 0.90 <= np.mean(inside[0.95]) <= 0.995
    assert 0.40 <= np.mean(inside[0.5]) <= 0.66


def test_few_points_are_said_to_be_few() -> None:
    with pytest.raises(DegenerateError, match="One point is not a curve"):
        fit(from_scores({100.0: [0.4]}))
    two = fit(exact(BUDGETS[:2], TRUE(BUDGETS[:2]), 0.005))
    six = fit(exact(BUDGETS, TRUE(BUDGETS), 0.0005))
    assert not two.identified
    assert "These 2 points do not determine the whole curve: A_max, β come largely" in two.note
    assert six.identified
    # What is assumed is wide: the next step could be next to nothing, or half as much again as the last one.
    gain, last = two.gain(50.0, 50.0), TRUE(50.0)[0] - TRUE(0.0)[0]
    assert gain.low[0] < 0.25 * last
    assert gain.high[0] > 1.0 * last
    narrow = six.gain(50.0, 50.0)
    assert narrow.high[0] - narrow.low[0] < 0.1 * (gain.high[0] - gain.low[0])


def test_points_off_the_curve_widen_the_band() -> None:
    zigzag = TRUE(BUDGETS) + np.array([0, 1, -1, 1, -1, 1]) * 0.03
    calm, wild = fit(exact(BUDGETS, TRUE(BUDGETS), 0.005)), fit(exact(BUDGETS, zigzag, 0.005))
    assert calm.widened == 1.0
    assert wild.widened > 3
    assert "times as far from the curve as their noise explains" in wild.note
    assert np.ptp([wild.band(800.0).low[0], wild.band(800.0).high[0]]) > 2 * np.ptp(
        [calm.band(800.0).low[0], calm.band(800.0).high[0]]
    )


def test_many_quiet_single_trainings_speak_for_themselves() -> None:
    """Without repeats the assumed spread gives way to how smoothly the points lie; with few points it stays."""
    budgets = np.linspace(0, 1000, 21)
    smooth = fit(from_scores({b: [float(TRUE(b)[0])] for b in budgets}))
    few = fit(from_scores({b: [float(TRUE(b)[0])] for b in budgets[:3]}))
    assert smooth.points.spread.value < 0.6 * ASSUMED_SPREAD
    assert few.points.spread.value == pytest.approx(ASSUMED_SPREAD, rel=0.15)
    assert "a standard deviation of" in few.note
