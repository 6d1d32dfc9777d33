"""Intervals and AUROC against hand-computed values, brute force and scikit-learn."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.common.intervals import Interval, auroc, auroc_interval, bootstrap_interval, mean_interval

LABELLED = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)


def pairs_won(scores: np.ndarray, labels: np.ndarray) -> float:
    """AUROC by its definition, pair by pair."""
    wins = [float(p > q) + 0.5 * float(p == q) for p, q in product(scores[labels], scores[~labels])]
    return float(np.mean(wins))


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([1.0, 2.0, 3.0], [0, 0, 1], 1.0),
        ([3.0, 2.0, 1.0], [0, 0, 1], 0.0),
        ([5.0, 5.0, 5.0], [0, 1, 1], 0.5),
    ],
)
def test_auroc_by_hand(scores: list[float], labels: list[int], expected: float) -> None:
    assert auroc(np.array(scores), np.array(labels)) == pytest.approx(expected)


@pytest.mark.parametrize("label", [0, 1])
def test_auroc_of_one_class_is_undefined(label: int) -> None:
    assert math.isnan(auroc(np.arange(3.0), np.full(3, label)))


@settings(deadline=None, max_examples=60)
@given(LABELLED)
def test_auroc_against_brute_force_and_sklearn(rows: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    scores = np.array([float(score) for score, _ in rows])
    labels = np.array([label for _, label in rows])
    if labels.all() or not labels.any():
        return
    value = auroc(scores, labels)
    assert value == pytest.approx(pairs_won(scores, labels))
    assert value == pytest.approx(roc_auc_score(labels, scores))
    assert auroc(-scores, labels) == pytest.approx(1 - value)
    assert auroc(np.exp(scores), labels) == pytest.approx(value)


def test_mean_interval_surrounds_the_mean() -> None:
    values = [0.0, 1.0] * 50
    interval = mean_interval(values, [str(i) for i in range(100)], resamples=2000, seed=1)
    assert (interval.value, interval.n) == (0.5, 100)
    # The normal approximation: 0.5 ± 1.96 · 0.5 / 10.
    assert interval.low == pytest.approx(0.402, abs=0.02)
    assert interval.high == pytest.approx(0.598, abs=0.02)


def test_repeated_rows_do_not_narrow_the_interval() -> None:
    values = np.repeat([0.0, 1.0] * 10, 8)
    groups = np.repeat([f"fact {i}" for i in range(20)], 8)
    by_group = mean_interval(values.tolist(), groups.tolist())
    by_row = mean_interval(values.tolist(), [str(i) for i in range(values.size)])
    assert by_group.value == by_row.value
    assert by_group.high - by_group.low > 2 * (by_row.high - by_row.low)  # about √8


def test_whole_groups_are_drawn_whatever_their_order() -> None:
    seen: list[list[int]] = []

    def remember(rows: np.ndarray) -> float:
        seen.append(rows.tolist())
        return 0.0

    bootstrap_interval(remember, ["b", "a", "b", "c", "a"], resamples=50)
    for rows in seen:
        counts = np.bincount(rows, minlength=5)
        assert counts[0] == counts[2]
        assert counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3


def test_seed_decides() -> None:
    values, groups = [0.1, 0.9, 0.4, 0.2, 0.7], list("abcde")
    assert mean_interval(values, groups, 200, seed=3) == mean_interval(values, groups, 200, seed=3)
    assert mean_interval(values, groups, 200, seed=3) != mean_interval(values, groups, 200, seed=4)


def test_nothing_gives_nan_and_zero_rows() -> None:
    interval = mean_interval([], [])
    assert interval.n == 0
    assert all(math.isnan(value) for value in interval[:3])


def test_resamples_without_a_value_are_left_out() -> None:
    one_positive = auroc_interval(np.arange(6.0), np.array([0, 0, 0, 0, 0, 1]), list("abcdef"), resamples=300)
    assert one_positive == Interval(1.0, 1.0, 1.0, 6)
    one_class = auroc_interval(np.arange(3.0), np.zeros(3, dtype=int), list("abc"), resamples=100)
    assert one_class.n == 3
    assert all(math.isnan(value) for value in one_class[:3])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from("abcde")), min_size=1, max_size=20))
def test_interval_stays_in_the_range_of_the_values(rows: list[tuple[float, str]]) -> None:
    values = [value for value, _ in rows]
    interval = mean_interval(values, [group for _, group in rows], resamples=100)
    if len({group for _, group in rows}) < 2:
        assert np.isnan(interval.low)  # one group says nothing about the spread
        assert np.isnan(interval.high)
    else:
        assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval.value == pytest.approx(float(np.mean(values)))
