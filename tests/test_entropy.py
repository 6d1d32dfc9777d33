"""Semantic entropy by hand, and both threshold rules against a search over every cut."""

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ka2l.errors import DegenerateError
from ka2l.knowledge.entropy import fit_threshold, semantic_entropy

LN = math.log

# What ten answers can give: few different values, many ties. And any numbers at all.
TIED = st.lists(st.sampled_from([0.0, 0.325, 0.5, 0.8018, 1.0, 1.609, 2.3026]), min_size=2, max_size=30)
SPREAD = st.lists(st.floats(0, 2.4, allow_subnormal=False), min_size=2, max_size=30)
ENTROPIES = st.one_of(TIED, SPREAD).map(np.array).filter(lambda v: v.max() - v.min() > 1e-6)


@pytest.mark.parametrize(
    ("clusters", "expected"),
    [
        ([7], 0.0),
        ([0] * 10, 0.0),
        ([0, 1], LN(2)),
        (list(range(10)), LN(10)),
        ([0, 0, 0, 1], -0.75 * LN(0.75) - 0.25 * LN(0.25)),  # 0.5623
        ([0, 1, 1, 2, 2, 2, 2, 0, 1, 2], -(0.2 * LN(0.2) + 0.3 * LN(0.3) + 0.5 * LN(0.5))),  # 1.0297
        (["a", "b", "a", "b"], LN(2)),
    ],
)
def test_by_hand(clusters: list[int], expected: float) -> None:
    assert semantic_entropy(clusters) == pytest.approx(expected, abs=1e-12)
    assert math.copysign(1, semantic_entropy(clusters)) == 1  # no minus zero


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_between_zero_and_ln_n(clusters: list[int]) -> None:
    entropy = semantic_entropy(clusters)
    assert 0 <= entropy <= LN(len(clusters)) + 1e-12
    assert (entropy == 0) == (len(set(clusters)) == 1)


@pytest.mark.parametrize("counts", [(1, 2, 3, 4), (1, 1, 2, 6), (1, 1, 1, 2, 5), (2, 3, 5), (1, 1, 3, 5)])
def test_equal_clusterings_have_the_same_entropy_to_the_last_bit(counts: tuple[int, ...]) -> None:
    """The threshold is a value that occurs: a difference in the last bit would part equal questions."""
    entropies = {
        semantic_entropy([name for name, count in enumerate(order) for _ in range(count)])
        for order in permutations(counts)
    }
    assert len(entropies) == 1


def test_no_answers() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        semantic_entropy([])


def two_means_objective(values: NDArray[np.float64], threshold: float) -> float:
    sides = values[values < threshold], values[values >= threshold]
    return float(sum(((side - side.mean()) ** 2).sum() for side in sides) / len(values))


def eq3_objective(values: NDArray[np.float64], threshold: float) -> float:
    return float(((values - (values >= threshold)) ** 2).mean())


@pytest.mark.parametrize(("rule", "objective"), [("two_means", two_means_objective), ("eq3", eq3_objective)])
@settings(max_examples=150, deadline=None)
@given(values=ENTROPIES)
def test_rules_against_every_cut(
    rule: str, objective: Callable[[NDArray[np.float64], float], float], values: NDArray[np.float64]
) -> None:
    found = fit_threshold(values, rule)
    cuts = np.unique(values)[1:]  # both sides of these hold something
    best = min(objective(values, cut) for cut in cuts)
    assert found.rule == rule
    assert found.value in cuts
    assert found.objective == pytest.approx(best, abs=1e-9)
    assert objective(values, found.value) == pytest.approx(best, abs=1e-9)
    # The order of the questions decides nothing.
    assert fit_threshold(values[::-1].copy(), rule) == found


def test_two_means_by_hand() -> None:
    found = fit_threshold(np.array([0.0, 2.0, 0.2, 1.8, 0.1]), "two_means")
    assert found.value == 1.8
    assert found.objective == pytest.approx((0.01 + 0 + 0.01 + 0.01 + 0.01) / 5)


def test_two_means_keeps_equal_entropies_on_one_side() -> None:
    values = np.array([0.0] * 3 + [1.0] * 50 + [2.3] * 2)
    high = values >= fit_threshold(values, "two_means").value
    for value in (0.0, 1.0, 2.3):
        assert len(set(high[values == value])) == 1


@settings(deadline=None)
@given(ENTROPIES)
def test_eq3_lands_at_one_half_whatever_the_data(values: NDArray[np.float64]) -> None:
    """SPEC: an item is better off at 1 exactly when SE > 0.5, so Eq. 3 knows nothing about the data."""
    threshold = fit_threshold(values, "eq3").value
    occurring = np.unique(values)
    if (occurring > 0.5).sum() in (0, len(occurring)):
        return  # no cut at one half exists
    # All cuts that part the values at one half are equally good; the first value above it is one of them.
    first_above = occurring[occurring > 0.5][0]
    assert threshold >= 0.5
    assert eq3_objective(values, threshold) == pytest.approx(eq3_objective(values, first_above), abs=1e-12)


@pytest.mark.parametrize("high", [1.7, 2.2, 3.0])
def test_eq3_on_dense_data_is_one_half_and_two_means_parts_the_groups(high: float) -> None:
    rng = np.random.default_rng(0)
    low, top = np.abs(rng.normal(0.3, 0.25, 4000)), rng.normal(high, 0.1, 4000)
    values = np.concatenate([low, top])
    assert fit_threshold(values, "eq3").value == pytest.approx(0.5, abs=0.01)
    assert abs((low < fit_threshold(values, "two_means").value).mean() - 1) < 0.02
    assert (top >= fit_threshold(values, "two_means").value).all()


def test_a_given_number_is_taken_as_it_is() -> None:
    found = fit_threshold(np.array([0.0, 1.0, 2.0]), 0.7)
    assert (found.value, found.rule) == (0.7, "given")
    assert math.isnan(found.objective)
    assert fit_threshold(np.array([0.0, 1.0]), 1.0).value == 1.0  # unknown iff SE >= threshold


@pytest.mark.parametrize("rule", ["two_means", "eq3", 0.5])
@pytest.mark.parametrize(
    ("values", "message"), [([], "No question"), ([1.2] * 4, "All 4 questions"), ([0.3], "All 1")]
)
def test_nothing_to_separate(values: list[float], message: str, rule: str | float) -> None:
    with pytest.raises(DegenerateError, match=message):
        fit_threshold(np.array(values), rule)


@pytest.mark.parametrize(("threshold", "side"), [(0.2, "unknown"), (0.1, "unknown"), (1.5, "known")])
def test_a_given_number_that_leaves_one_side_empty(threshold: float, side: str) -> None:
    with pytest.raises(DegenerateError, match=rf"calls all 3 questions {side}"):
        fit_threshold(np.array([0.2, 0.7, 1.4]), threshold)
