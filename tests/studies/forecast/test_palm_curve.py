"""The learning curve: it finds what it was made from, its band holds what it says, and it admits what it cannot know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from ka2l.errors import DegenerateError
from ka2l.studies.forecast.advice import HORIZON, advise
from ka2l.studies.forecast.curve_points import (
    ASSUMED_SPREAD,
    Points,
    Spread,
    from_answers,
    from_scores,
    pooled_spread,
    trend,
)
from ka2l.studies.forecast.curve_solver import PRIOR, Problem
from ka2l.studies.forecast.palm_curve import Curve, fit, percentiles

BUDGETS = np.array([0.0, 50, 100, 200, 400, 800])
TRUE = Curve(0.7, 0.25, 0.8, 0.7, 50.0)


def exact(budgets: np.ndarray, scores: np.ndarray, deviation: float = 1e-5) -> Points:
    """Points whose noise is known, and small."""
    repeats = np.where(budgets > 0, 3, 0)
    shared = np.zeros((len(budgets), len(budgets)))
    return Points(budgets, scores, repeats, shared, Spread(deviation, 40), misfit=deviation)


@pytest.mark.parametrize(
    ("a_max", "delta", "alpha", "beta"),
    [(0.7, 0.2, 0.8, 0.7), (0.95, 0.05, 0.3, 1.3), (0.4, 0.6, 0.1, 0.5), (0.3, 0.1, 4.0, 1.0)],
)
def test_noiseless_points_give_their_parameters_back(
    a_max: float, delta: float, alpha: float, beta: float
) -> None:
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


def test_scipy_finds_no_better_curve() -> None:
    rng = np.random.default_rng(3)
    for size in (2, 3, 5, 6):
        budgets = BUDGETS[:size]
        observed = np.clip(TRUE(budgets) + 0.02 * rng.standard_normal(size), 0.01, 0.99)
        problem = Problem.of(budgets, observed, 0.02**2 * np.eye(size))

        def residuals(
            t: np.ndarray, problem: Problem = problem, observed: np.ndarray = observed
        ) -> np.ndarray:
            data = (problem.scores(t[None])[0] - observed) / 0.02
            return np.concatenate([data, (t - PRIOR[:, 0]) / PRIOR[:, 1]])

        ours = (
            0.5 * (residuals(problem.best(observed[None], PRIOR[None, :, 0], problem.starts())[0]) ** 2).sum()
        )
        theirs = min(least_squares(residuals, start).cost for start in problem.starts())
        assert ours <= theirs * (1 + 1e-6)


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
def test_labels_for_a_score_undo_the_curve(
    a_max: float, rate: float, alpha: float, beta: float, share: float
) -> None:
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
        true = Curve(
            rng.uniform(0.3, 0.9), rng.uniform(0.05, 0.5), rng.uniform(0.1, 1.5), rng.uniform(0.5, 1.2), 50.0
        )
        seen = BUDGETS[: 4 + number % 3]
        noisy = {
            b: np.clip(true(b)[0] + 0.015 * rng.standard_normal(3 if b else 1) * (b > 0), 0, 1).tolist()
            for b in seen
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


def test_spread_between_trainings() -> None:
    assert pooled_spread([]) == Spread(ASSUMED_SPREAD, 0)
    # two seeds at four budgets: 0.1 apart each, variance 0.005 each with one degree of freedom
    assert pooled_spread([[0.4, 0.5]] * 4).value == pytest.approx(0.005**0.5)
    assert pooled_spread([[0.4, 0.5]] * 4).freedom == 4
    # one degree of freedom of the four wanted: the other three are the assumption's
    blended = pooled_spread([[0.4, 0.5], [0.3]])
    assert blended.value == pytest.approx(((0.005 + 3 * ASSUMED_SPREAD**2) / 4) ** 0.5)


def test_noise_of_answers_is_that_of_a_bootstrap_by_group() -> None:
    rng = np.random.default_rng(5)
    groups = [f"g{i // 3}" for i in range(90)]
    ease = np.repeat(rng.uniform(0.1, 0.9, 30), 3)
    right = {b: rng.uniform(size=(2 if b else 1, 90)) < ease + b / 1000 for b in (0.0, 100.0, 200.0)}
    points = from_answers(right, groups)
    means = np.array([right[b].mean(axis=0) for b in sorted(right)])
    drawn = rng.integers(0, 30, (4000, 30))
    rows = (3 * drawn[..., None] + np.arange(3)).reshape(4000, 90)
    bootstrap = np.cov(means[:, rows].mean(axis=2))
    np.testing.assert_allclose(points.shared, bootstrap, rtol=0.12)
    assert points.shared[0, 2] > 0.3 * points.shared[0, 0]  # the same questions: errors go together
    assert points.repeats.tolist() == [0, 2, 2]
    np.testing.assert_allclose(points.scores, means.mean(axis=1))


def test_many_quiet_single_trainings_speak_for_themselves() -> None:
    """Without repeats the assumed spread gives way to how smoothly the points lie; with few points it stays."""
    budgets = np.linspace(0, 1000, 21)
    smooth = fit(from_scores({b: [float(TRUE(b)[0])] for b in budgets}))
    few = fit(from_scores({b: [float(TRUE(b)[0])] for b in budgets[:3]}))
    assert smooth.points.spread.value < 0.6 * ASSUMED_SPREAD
    assert few.points.spread.value == pytest.approx(ASSUMED_SPREAD, rel=0.15)
    assert "a standard deviation of" in few.note


def test_trend() -> None:
    def of(values: list[float], deviation: float) -> str:
        return trend(exact(BUDGETS[: len(values)], np.array(values), deviation))

    assert of([0.1, 0.2, 0.3], 0.01) == "rising"
    assert of([0.1, 0.2, 0.3], 0.2) == "flat"
    assert of([0.2, 0.2, 0.2], 0.01) == "flat"
    assert of([0.3, 0.2, 0.1], 0.01) == "falling"
    assert of([0.1, 0.5, 0.3], 0.01) == "falling"  # above the start, but down from its height
    assert of([0.1, 0.5, 0.3], 0.2) == "flat"


def test_advice_says_stop_go_on_or_that_it_does_not_know() -> None:
    early, late = (advise(fit(exact(BUDGETS[:n], TRUE(BUDGETS[:n]), 0.0005)), 100, price=2.0) for n in (4, 6))
    true = float(TRUE(300.0)[0] - TRUE(200.0)[0])
    assert early.gain.low <= true <= early.gain.high
    assert (early.verdict, early.supported, early.cost) == ("go on", True, 200.0)
    assert "lower end of the band" in early.reason
    saturated = np.array([0.2, 0.45, 0.49, 0.499, 0.5, 0.5])
    full = advise(fit(exact(BUDGETS, saturated, 0.001)))
    assert full.verdict == "stop"
    assert full.gain.high < 0.01
    assert "Even the upper end" in full.reason
    assert advise(fit(exact(BUDGETS, saturated, 0.001)), least_gain=1e-7).verdict != "stop"
    noisy = advise(fit(exact(BUDGETS[:3], TRUE(BUDGETS[:3]), 0.03)))
    assert (noisy.verdict, noisy.supported) == ("unclear", False)
    assert noisy.doubt
    gains = [step.gain.middle for step in late.steps]
    assert [step.labels for step in late.steps] == [900, 1000, 1100, 1200, 1300]
    assert gains == sorted(gains, reverse=True)


def test_flat_and_falling_scores_get_no_forecast() -> None:
    flat = advise(fit(exact(BUDGETS, np.full(6, 0.3), 0.002)))
    assert (flat.trend, flat.supported, flat.verdict) == ("flat", False, "stop")
    assert "does not rise beyond its noise" in flat.doubt
    falling = advise(fit(exact(BUDGETS, np.array([0.30, 0.35, 0.33, 0.3, 0.25, 0.2]), 0.005)))
    assert (falling.trend, falling.supported, falling.verdict) == ("falling", False, "stop")
    assert "fell from 0.350 at 50 labels to 0.200 at 800" in falling.doubt
    assert "Perhaps more was forgotten than learned" in falling.doubt
    # A fall is not noise, also where only the distances from a curve that cannot fall say how noisy the scores are.
    alone = fit(from_scores({0.0: [0.5], 100.0: [0.4], 200.0: [0.3]}))
    assert alone.points.spread.value > 0.03
    assert alone.trend == "falling"


def test_targets() -> None:
    found = fit(exact(BUDGETS, TRUE(BUDGETS), 0.0005))
    near = advise(found, target=0.65, price=0.5).target
    assert near is not None
    assert near.labels.low <= float(TRUE.labels_for(0.65)) <= near.labels.high
    assert near.cost is not None
    assert near.cost.middle == pytest.approx(0.5 * (near.labels.middle - 800))
    assert near.share == 1.0
    never = advise(found, target=0.9).target
    assert never is not None
    assert (never.labels.low, never.labels.high, never.share) == (np.inf, np.inf, 0.0)
    assert never.horizon == HORIZON * 800
    reached = advise(found, target=0.3).target
    assert reached is not None
    assert reached.labels.high < 800
    # infinity and numbers are never averaged
    assert percentiles(np.array([[1.0], [np.inf], [np.inf]]), 0.95).middle[0] == np.inf
