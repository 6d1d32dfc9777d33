"""The noise of measured points: between trainings, between questions, and whether the scores rise."""

import numpy as np
import pytest

from curve_data import BUDGETS, exact
from ka2l.studies.forecast.curve_points import ASSUMED_SPREAD, Spread, from_answers, pooled_spread, trend


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


def test_trend() -> None:
    def of(values: list[float], deviation: float) -> str:
        return trend(exact(BUDGETS[: len(values)], np.array(values), deviation))

    assert of([0.1, 0.2, 0.3], 0.01) == "rising"
    assert of([0.1, 0.2, 0.3], 0.2) == "flat"
    assert of([0.2, 0.2, 0.2], 0.01) == "flat"
    assert of([0.3, 0.2, 0.1], 0.01) == "falling"
    assert of([0.1, 0.5, 0.3], 0.01) == "falling"  # above the start, but down from its height
    assert of([0.1, 0.5, 0.3], 0.2) == "flat"
