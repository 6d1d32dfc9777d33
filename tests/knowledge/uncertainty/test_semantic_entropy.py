"""Semantic entropy by hand, against the exact entropy of a known distribution, and against the field's mistakes."""

import math
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.knowledge.uncertainty import semantic_entropy as semantic_entropy_module
from ka2l.knowledge.uncertainty.semantic_entropy import likelihood_semantic_entropy, semantic_entropy

LN = math.log


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
    assert 0 <= entropy <= LN(len(clusters))
    assert (entropy == 0) == (len(set(clusters)) == 1)


@pytest.mark.parametrize("n", range(1, 200))
def test_rounding_never_leaves_the_bounds(n: int) -> None:
    assert semantic_entropy(range(n)) <= LN(n)
    assert likelihood_semantic_entropy(range(n), list(map(str, range(n))), [-3.3] * n) <= LN(n)


@pytest.mark.parametrize("counts", [(1, 2, 3, 4), (1, 1, 2, 6), (1, 1, 1, 2, 5), (2, 3, 5), (1, 1, 3, 5)])
def test_equal_clusterings_have_the_same_entropy_to_the_last_bit(counts: tuple[int, ...]) -> None:
    """The threshold is a value that occurs: a difference in the last bit would part equal questions."""
    entropies = {
        semantic_entropy([name for name, count in enumerate(order) for _ in range(count)])
        for order in permutations(counts)
    }
    assert len(entropies) == 1


@pytest.mark.parametrize("value", [-0.01, LN(3) + 0.01, math.nan])
def test_a_value_outside_the_bounds_is_an_error_not_a_label(value: float) -> None:
    with pytest.raises(ArithmeticError, match=r"3 answers.*outside \[0, ln 3\]"):
        semantic_entropy_module._within_bounds(value, 3)


def test_no_answers() -> None:
    with pytest.raises(ValueError, match="at least one answer"):
        semantic_entropy([])
    with pytest.raises(ValueError, match="at least one answer"):
        likelihood_semantic_entropy([], [], [])


# A model that gives four sequences of three meanings, with these probabilities: the entropy of the meaning is known.
SUPPORT = {"Rome": (0, 0.5), "in Rome": (0, 0.2), "Oslo": (1, 0.2), "Lima": (2, 0.1)}
EXACT = -(0.7 * LN(0.7) + 0.2 * LN(0.2) + 0.1 * LN(0.1))  # 0.8018


def sampled(texts: Sequence[str]) -> tuple[list[int], Sequence[str], list[float]]:
    return [SUPPORT[text][0] for text in texts], texts, [LN(SUPPORT[text][1]) for text in texts]


def repeats_counted(clusters: Sequence[int], log_likelihoods: Sequence[float]) -> float:
    """The field's first mistake: a sequence sampled three times is added three times, so likely ones count squared."""
    mass = {c: sum(math.exp(x) for k, x in zip(clusters, log_likelihoods, strict=True) if k == c) for c in clusters}
    return -sum(m / sum(mass.values()) * LN(m / sum(mass.values())) for m in mass.values())


def over_samples(clusters: Sequence[int], log_likelihoods: Sequence[float]) -> float:
    """Its second: the sum −Σ p ln p runs over the samples instead of over the classes."""
    total = sum(map(math.exp, log_likelihoods))
    mass = {
        c: sum(math.exp(x) for k, x in zip(clusters, log_likelihoods, strict=True) if k == c) / total for c in clusters
    }
    return -sum(mass[c] * LN(mass[c]) for c in clusters)


SAMPLES = ["Rome"] * 5 + ["in Rome"] * 2 + ["Oslo"] * 2 + ["Lima"]


def test_samples_that_cover_the_support_give_the_exact_entropy_however_often_each_came() -> None:
    assert likelihood_semantic_entropy(*sampled(SAMPLES)) == pytest.approx(EXACT, abs=1e-12)
    assert likelihood_semantic_entropy(*sampled(list(SUPPORT))) == pytest.approx(EXACT, abs=1e-12)
    assert likelihood_semantic_entropy(*sampled([*SUPPORT, *["Lima"] * 20])) == pytest.approx(EXACT, abs=1e-12)


def test_sums_over_samples_are_not_the_entropy() -> None:
    clusters, _, values = sampled(SAMPLES)
    assert repeats_counted(clusters, values) < EXACT - 0.2  # 29/34 of the weight is Rome instead of 7/10
    assert over_samples(clusters, values) > EXACT + 0.2
    # Over samples even the bound ln N falls: two meanings, one of them sampled often, all equally likely.
    assert over_samples([0] * 9 + [1] * 9, [-1.0] * 18) > LN(18)
    assert likelihood_semantic_entropy([0] * 9 + [1] * 9, ["a"] * 9 + ["b"] * 9, [-1.0] * 18) == pytest.approx(LN(2))


def test_length_normalised_by_hand() -> None:
    """Means per token instead of sums: e⁻¹ against e⁻², whatever the number of tokens."""
    p = 1 / (1 + math.exp(-1))
    found = likelihood_semantic_entropy([0, 1], ["Rome", "a city by the sea"], [-1.0, -2.0])
    assert found == pytest.approx(-p * LN(p) - (1 - p) * LN(1 - p), abs=1e-12)


ANSWERS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.floats(-60, 0)), min_size=1, max_size=12).map(
    lambda rows: [(c, f"{c}/{t}", x) for c, t, x in rows]
)  # a text lies in one cluster


@settings(deadline=None)
@given(rows=ANSWERS, shift=st.floats(-900, 900), data=st.data())
def test_order_repeats_and_a_constant_do_not_matter(
    rows: list[tuple[int, str, float]], shift: float, data: st.DataObject
) -> None:
    found = likelihood_semantic_entropy(*zip(*rows, strict=True))
    assert 0 <= found <= LN(len({c for c, _, _ in rows}))
    shuffled = data.draw(st.permutations(rows))
    assert likelihood_semantic_entropy(*zip(*shuffled, strict=True)) == found  # to the last bit
    again = rows + data.draw(st.lists(st.sampled_from(rows), max_size=5))
    assert likelihood_semantic_entropy(*zip(*again, strict=True)) == found
    moved = [(c, t, x + shift) for c, t, x in rows]
    assert likelihood_semantic_entropy(*zip(*moved, strict=True)) == pytest.approx(found, abs=1e-9)


def test_very_unlikely_answers() -> None:
    """exp(−1000) is 0 in floating point; only the differences count."""
    found = likelihood_semantic_entropy([0, 1, 1], ["a", "b", "c"], [-1000.0, -1000.0, -1000.0])
    assert found == pytest.approx(-(LN(1 / 3) / 3 + 2 * LN(2 / 3) / 3), abs=1e-12)
    assert likelihood_semantic_entropy([0, 1], ["a", "b"], [-1.0, -1000.0]) == pytest.approx(0, abs=1e-12)
    assert likelihood_semantic_entropy([0, 1], ["a", "b"], [-1.0, -math.inf]) == 0


def test_of_one_text_the_largest_likelihood_counts() -> None:
    once = likelihood_semantic_entropy([0, 1], ["a", "b"], [-1.0, -2.0])
    assert likelihood_semantic_entropy([0, 0, 1, 0], ["a"] * 2 + ["b", "a"], [-1.5, -1.0, -2.0, -9.0]) == once


def test_unknown_likelihoods_are_not_an_entropy() -> None:
    assert math.isnan(likelihood_semantic_entropy([0, 1], ["a", "b"], [-1.0, math.nan]))
    assert math.isnan(likelihood_semantic_entropy([0, 1], ["a", "b"], [-math.inf, -math.inf]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([0, 1], ["a"], [-1.0, -1.0]), "2 cluster ids, 1 texts and 2 log-likelihoods"),
        (([0, 1], ["a", "b"], [-1.0]), "2 cluster ids, 2 texts and 1 log-likelihoods"),
        (([0, 1], ["a", "a"], [-1.0, -1.0]), "'a' is in two clusters, 0 and 1"),
        (([0, 1], ["a", "b"], [-1.0, math.inf]), r"\+inf"),
    ],
)
def test_impossible_input(given: tuple[list[int], list[str], list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        likelihood_semantic_entropy(*given)
