"""Statistics of learning curves: by hand, and what must not change them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ka2l.common.curve_statistics import (
    Resampled,
    arm_draws,
    crossing,
    estimate,
    holm,
    mean,
    mean_height,
    paired_test,
    resample_ratios,
)

NAN = math.nan


def test_mean_and_spread_by_hand() -> None:
    assert estimate([0.1, 0.3]) == pytest.approx((0.2, math.sqrt(0.02), 2))
    assert estimate([0.3, NAN]).mean == 0.3
    assert estimate([0.3, NAN]).n == 1
    assert math.isnan(estimate([0.3]).std)
    assert estimate([0.1, 0.1, 0.1]).std == 0.0
    assert estimate([NAN]).n == 0
    assert math.isnan(estimate([]).mean)
    assert mean([0.1, NAN, 0.3]) == pytest.approx(0.2)
    assert math.isnan(mean([]))


def test_holm_by_hand() -> None:
    # 4 · 0.01; then 3 · 0.02 and 2 · 0.03 (not below the one before); 1 · 0.9
    adjusted = holm({"a": 0.03, "b": 0.01, "c": 0.9, "d": 0.02})
    assert adjusted == pytest.approx({"b": 0.04, "d": 0.06, "a": 0.06, "c": 0.9})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_and_keeps_their_order(numbers: list[float]) -> None:
    p = dict(enumerate(numbers))
    adjusted = holm(p)
    assert all(p[key] <= adjusted[key] <= 1 for key in p)
    assert all(adjusted[a] <= adjusted[b] for a in p for b in p if p[a] < p[b])
    assert max(adjusted.values()) <= min(1.0, max(numbers) * len(numbers))


def test_labels_to_a_target_by_hand() -> None:
    labels, scores = [0.0, 50.0, 100.0], [0.4, 0.5, 0.7]
    assert crossing(labels, scores, 0.6) == pytest.approx(75)
    assert crossing(labels, scores, 0.45) == pytest.approx(25)
    assert crossing(labels, scores, 0.7) == 100
    assert crossing(labels, scores, 0.71) is None
    assert crossing(labels, scores, 0.4) == 0  # before any label
    # the first time, also if it falls again
    assert crossing(labels, [0.4, 0.6, 0.3], 0.5) == pytest.approx(25)
    assert crossing(labels, scores, NAN) is None


def test_the_mean_height_of_a_curve_by_hand() -> None:
    labels, scores = [0.0, 50.0, 100.0], [0.4, 0.5, 0.7]
    assert mean_height(labels, scores, 100) == pytest.approx((0.45 * 50 + 0.6 * 50) / 100)
    assert mean_height(labels, scores, 75) == pytest.approx((0.45 * 50 + 0.55 * 25) / 75)  # 0.6 at 75
    assert mean_height(labels[::-1], scores[::-1], 75) == mean_height(labels, scores, 75)
    assert mean_height([0.0, 40.0], [0.5, 0.5], 40) == 0.5
    assert math.isnan(mean_height(labels, [0.4, NAN, 0.7], 100))
    assert math.isnan(mean_height(labels, scores, 0))


def test_resampled_ratios_by_hand() -> None:
    # two groups: the first has 2 of 4 right in column 0 and 1 of 1 in column 1, the second 1 of 4 and none
    tops, bottoms = np.array([[2.0, 1.0], [1.0, 0.0]]), np.array([[4.0, 1.0], [4.0, 0.0]])
    resampled = resample_ratios(tops, bottoms, 400, 0)
    assert resampled.values.tolist() == [3 / 8, 1.0]
    assert resampled.groups == 2
    assert resampled.drawn.shape == (400, 2)
    # the first group twice, one of each, the second twice; about a quarter, a half and a quarter of the resamples
    shares = {value: float((resampled.drawn[:, 0] == value).mean()) for value in (0.5, 0.375, 0.25)}
    assert shares == pytest.approx({0.5: 0.25, 0.375: 0.5, 0.25: 0.25}, abs=0.08)
    assert sum(shares.values()) == 1
    # the same draws for both columns: column 1 has no value where the second group is drawn twice
    assert (np.isnan(resampled.drawn[:, 1]) == (resampled.drawn[:, 0] == 0.25)).all()
    assert np.array_equal(resample_ratios(tops, bottoms, 400, 0).drawn, resampled.drawn, equal_nan=True)
    alone = resample_ratios(tops[:1], bottoms[:1], 10, 0)
    assert alone.values.tolist() == [0.5, 1.0]
    assert np.isnan(alone.drawn).all()
    assert np.isnan(resample_ratios(np.zeros((0, 2)), np.zeros((0, 2)), 10, 0).values).all()


def test_seeds_are_resampled_around_the_mean_by_hand() -> None:
    # no noise of the groups: of two seeds one is drawn, so a resample is the value of one of them
    values = np.array([0.5, 0.7, 0.4, 0.4])
    resampled = Resampled(values, np.tile(values, (300, 1)), 9)
    both = arm_draws(resampled, [0, 1], 0)
    assert set(np.round(both, 9)) == {0.5, 0.7}
    assert both.mean() == pytest.approx(0.6, abs=0.03)
    assert set(arm_draws(resampled, [0], 0)) == {0.5}  # a single seed is not resampled
    test = paired_test(resampled, [0, 1], [2, 3], 0)
    assert test is not None
    assert test.interval == pytest.approx((0.2, 0.1, 0.3, 9))
    assert test.p == pytest.approx(2 / 301)  # no resample is at or below 0
    nothing = paired_test(resampled, [2, 3], [3, 2], 0)
    assert nothing is not None
    assert (nothing.interval.value, nothing.p) == (0.0, 1.0)
    assert paired_test(resampled, [0], [2], 0) is None
    assert paired_test(Resampled(np.full(4, NAN), resampled.drawn, 9), [0, 1], [2, 3], 0) is None
    with pytest.raises(ValueError, match="2 columns against 1"):
        paired_test(resampled, [0, 1], [2], 0)
