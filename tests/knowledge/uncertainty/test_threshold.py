"""Threshold rules against a search over every cut, their bootstrap against a plain one, and the perturbation table."""

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ka2l.errors import DegenerateError
from ka2l.knowledge.settings import ThresholdRule
from ka2l.knowledge.uncertainty.threshold import RULES, Threshold, fit_threshold, threshold_stability

# What ten answers can give: few different values, many ties. And any numbers at all.
TIED = st.lists(st.sampled_from([0.0, 0.325, 0.5, 0.8018, 1.0, 1.609, 2.3026]), min_size=2, max_size=30)
SPREAD = st.lists(st.floats(0, 2.4, allow_subnormal=False), min_size=2, max_size=30)
ENTROPIES = st.one_of(TIED, SPREAD).map(np.array).filter(lambda v: v.max() - v.min() > 1e-6)


def test_the_rules_are_those_of_the_configuration() -> None:
    assert get_args(ThresholdRule) == RULES


def two_means_objective(values: NDArray[np.float64], threshold: float) -> float:
    sides = values[values < threshold], values[values >= threshold]
    return float(sum(((side - side.mean()) ** 2).sum() for side in sides) / len(values))


def median_objective(values: NDArray[np.float64], threshold: float) -> float:
    return abs(float((values < threshold).mean()) - 0.5)


def eq3_objective(values: NDArray[np.float64], threshold: float) -> float:
    return float(((values - (values >= threshold)) ** 2).mean())


@pytest.mark.parametrize(
    ("rule", "objective"),
    [("two_means", two_means_objective), ("eq3", eq3_objective), ("median", median_objective)],
)
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


@pytest.mark.parametrize("rule", [*RULES, 0.5])
@pytest.mark.parametrize(("values", "message"), [([], "No question"), ([1.2] * 4, "All 4 questions"), ([0.3], "All 1")])
def test_nothing_to_separate(values: list[float], message: str, rule: str | float) -> None:
    with pytest.raises(DegenerateError, match=message):
        fit_threshold(np.array(values), rule)


@pytest.mark.parametrize(("threshold", "side"), [(0.2, "unknown"), (0.1, "unknown"), (1.5, "known")])
def test_a_given_number_that_leaves_one_side_empty(threshold: float, side: str) -> None:
    with pytest.raises(DegenerateError, match=rf"calls all 3 questions {side}"):
        fit_threshold(np.array([0.2, 0.7, 1.4]), threshold)


@settings(max_examples=150, deadline=None)
@given(values=ENTROPIES, quantile=st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9, 1.0]))
def test_quantile_against_every_cut(values: NDArray[np.float64], quantile: float) -> None:
    found = fit_threshold(values, "quantile", quantile=quantile)
    distance = {cut: abs(float((values < cut).mean()) - quantile) for cut in np.unique(values)[1:]}
    assert found.objective == pytest.approx(min(distance.values()), abs=1e-12)
    # Of cuts that are as near, the highest: fewer unknown.
    assert found.value == max(cut for cut, far in distance.items() if far <= min(distance.values()) + 1e-9)
    assert 0 < (values >= found.value).sum() < len(values)


def test_median_by_hand() -> None:
    # Below 1.0 are 3 of 4, below 0.5 are 2 of 4.
    assert fit_threshold(np.array([0.0, 0.2, 0.5, 1.0]), "median") == Threshold(0.5, "median", 0.0)
    # 2 of 6 below 0.5 or 4 of 6 below 1.0 are as near to the half: fewer unknown.
    tied = fit_threshold(np.array([0.0, 0.0, 0.5, 0.5, 1.0, 1.0]), "median")
    assert (tied.value, tied.objective) == (1.0, pytest.approx(1 / 6))


def test_the_median_of_mostly_known_questions_leaves_some_known() -> None:
    """np.median is 0 here, and SE ≥ 0 would call everything unknown."""
    values = np.array([0.0] * 7 + [0.5, 1.0, 2.0])
    assert fit_threshold(values, "median").value == 0.5
    assert fit_threshold(values, "quantile", quantile=0.85).value == 2.0


@pytest.mark.parametrize(
    ("values", "rule", "quantile", "message"),
    [
        ([0.0, 1.0], "mean", 0.5, "no threshold rule 'mean'; use a number or one of two_means, eq3"),
        ([0.0, 1.0], "quantile", 1.5, "between 0 and 1, not 1.5"),
        ([0.0, 1.0, math.nan], "two_means", 0.5, "1 entropies are not finite, the first in row 2"),
    ],
)
def test_impossible_input(values: list[float], rule: str, quantile: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_threshold(np.array(values), rule, quantile=quantile)
    with pytest.raises(ValueError, match=message):
        threshold_stability(np.array(values), rule, ["g"] * len(values), quantile=quantile)


def plain_bootstrap(
    values: NDArray[np.float64], rule: str, groups: list[str], resamples: int, seed: int
) -> tuple[list[float], float]:
    """The thresholds, and the share of labels that flip, from rows that are copied out and fitted one by one."""
    names = sorted(set(groups))
    fitted = fit_threshold(values, rule, quantile=0.3).value
    rng = np.random.default_rng(seed)
    cuts, flips = [], []
    for _ in range(resamples):
        drawn = [names[i] for i in rng.integers(0, len(names), len(names))]
        rows = [row for name in drawn for row, group in enumerate(groups) if group == name]
        try:
            cuts.append(fit_threshold(values[rows], rule, quantile=0.3).value)
        except DegenerateError:
            continue
        flips.append(np.mean((values >= cuts[-1]) != (values >= fitted)))
    return cuts, float(np.mean(flips))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [6, 60])
def test_stability_against_a_plain_bootstrap(rule: str, size: int) -> None:
    rng = np.random.default_rng(4)
    values = rng.choice([0.0, 0.325, 0.5, 0.8018, 1.0, 1.609, 2.3026], size, p=[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    groups = [str(i // 2) for i in range(size)]
    cuts, flips = plain_bootstrap(values, rule, groups, 200, seed=5)
    found = threshold_stability(values, rule, groups, quantile=0.3, resamples=200, seed=5)
    assert found.value == fit_threshold(values, rule, quantile=0.3).value
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(cuts, [2.5, 97.5])))
    assert found.flips == pytest.approx(flips)
    assert found.left_out == 200 - len(cuts)


def test_well_parted_groups_are_stable_and_a_smear_is_not() -> None:
    rng = np.random.default_rng(0)
    parted = np.concatenate([rng.normal(0.2, 0.05, 100), rng.normal(2.0, 0.05, 100)]).clip(0)
    smear = rng.random(200) * 2.3
    groups = [str(i) for i in range(200)]
    firm, loose = (threshold_stability(v, "two_means", groups, resamples=300) for v in (parted, smear))
    assert firm.flips < 0.005  # a draw that misses the smallest high value starts at the next
    assert loose.flips > 5 * firm.flips
    assert loose.high - loose.low > 0.05
    assert loose.low <= loose.value <= loose.high


def test_groups_are_drawn_whole() -> None:
    """Twenty wordings of one fact are one observation, not twenty."""
    values = np.array([0.0] * 20 + [1.0] * 20 + [2.0] * 20)
    apart = threshold_stability(values, "two_means", [str(i) for i in range(60)], resamples=400)
    together = threshold_stability(values, "two_means", [str(i // 20) for i in range(60)], resamples=400)
    assert apart.left_out == 0
    assert 20 < together.left_out < 80  # 1/9 of the draws take one group three times
    assert together.flips > apart.flips > 0  # three equal clumps: the middle one falls to either side


def test_one_group_says_nothing_about_the_spread() -> None:
    found = threshold_stability(np.array([0.0, 1.0, 2.0]), "median", ["a"] * 3, resamples=100)
    assert found.value == 2.0  # a third below or two thirds: fewer unknown
    assert all(map(math.isnan, (found.low, found.high, found.flips)))


def test_a_given_number_does_not_move() -> None:
    assert threshold_stability(np.array([0.0, 1.0, 2.0]), 0.7, ["a", "b", "c"]) == (0.7, 0.7, 0.7, 0.0, 0)


def test_stability_needs_a_threshold_and_a_group_for_each_row() -> None:
    with pytest.raises(DegenerateError, match="All 3 questions"):
        threshold_stability(np.array([1.0, 1.0, 1.0]), "two_means", ["a", "b", "c"])
    with pytest.raises(ValueError, match="2 entropies, but 3 groups"):
        threshold_stability(np.array([1.0, 2.0]), "two_means", ["a", "b", "c"])
