"""Baseline scores by hand, against brute force, and all in one direction: higher = more uncertain."""

import math
from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import expm

from ka2l.knowledge.uncertainty.baseline_scores import (
    answer_length,
    eigenscore,
    lexical_dissimilarity,
    negative_log_likelihood,
    normalized_entropy,
    predictive_entropy,
    rouge_matrix,
)
from ka2l.knowledge.uncertainty.kernel_entropy import (
    HEAT_TIME,
    heat_kernel,
    kernel_language_entropy,
    similarity_from_relations,
    von_neumann_entropy,
)
from ka2l.knowledge.uncertainty.semantic_entropy import semantic_entropy

LN = math.log


def test_likelihood_scores_by_hand() -> None:
    tokens = [[LN(0.5), LN(0.25)], [LN(0.5)]]
    assert negative_log_likelihood(tokens[0]) == pytest.approx(1.5 * LN(2))
    assert predictive_entropy([sum(t) for t in tokens]) == pytest.approx((LN(8) + LN(2)) / 2)
    assert normalized_entropy(tokens) == pytest.approx((1.5 * LN(2) + LN(2)) / 2)
    certain = [negative_log_likelihood([0.0]), predictive_entropy([0.0, 0.0]), normalized_entropy([[0.0]])]
    assert [math.copysign(1, value) for value in certain] == [1, 1, 1]  # 0, not minus 0


def test_predictive_entropy_estimates_the_entropy() -> None:
    """In samples drawn in proportion the Monte Carlo mean is the entropy itself."""
    p = {"a": 0.5, "b": 0.3, "c": 0.2}
    drawn = ["a"] * 5 + ["b"] * 3 + ["c"] * 2
    exact = -sum(x * LN(x) for x in p.values())
    assert predictive_entropy([LN(p[text]) for text in drawn]) == pytest.approx(exact)


def test_no_log_probabilities_is_not_certainty() -> None:
    assert math.isnan(negative_log_likelihood([]))
    assert math.isnan(predictive_entropy([-1.0, math.nan]))
    assert math.isnan(normalized_entropy([[-1.0], []]))


def test_a_score_needs_an_answer() -> None:
    for score in (predictive_entropy, normalized_entropy, lexical_dissimilarity, answer_length):
        with pytest.raises(ValueError, match="at least one answer"):
            score([])


def longest_common(one: list[str], other: list[str]) -> int:
    """By trying every subsequence of the one, the longest first."""
    for size in range(len(one), 0, -1):
        for chosen in combinations(one, size):
            rest = iter(other)
            if all(word in rest for word in chosen):
                return size
    return 0


ANSWERS = st.lists(
    st.lists(st.sampled_from(["rom", "oslo", "東京", "по", "two"]), min_size=1, max_size=4).map(" ".join),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(ANSWERS)
def test_rouge_against_every_subsequence(answers: list[str]) -> None:
    words = [answer.split() for answer in answers]
    expected = [[2 * longest_common(a, b) / (len(a) + len(b)) for b in words] for a in words]
    matrix = rouge_matrix(answers)
    assert matrix.dtype == np.float64
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    pairs = [matrix[i, j] for i, j in combinations(range(len(answers)), 2)]
    wanted = 1 - np.mean(pairs) if pairs else 0.0
    assert lexical_dissimilarity(answers) == pytest.approx(wanted, abs=1e-12)
    assert 0 <= lexical_dissimilarity(answers) <= 1


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["Rome"], 0.0),
        (["Rome", "The Rome.", "rome"], 0.0),  # equal after normalisation
        (["Rome", "Oslo", "Lima"], 1.0),
        (["in Rome", "in Oslo", "in Rome"], 1 / 3),  # pairs 1/2, 1, 1/2
        (["東京", "東京", "大阪"], 2 / 3),  # rouge-score's own tokenizer sees no word here
        (["", "", "Rome"], 2 / 3),
    ],
)
def test_lexical_dissimilarity_by_hand(answers: list[str], expected: float) -> None:
    assert lexical_dissimilarity(answers) == pytest.approx(expected, abs=1e-12)


def test_answer_length_counts_words() -> None:
    assert answer_length(["in the  city\nof Rome", "Oslo", ""]) == 2.0


def test_eigenscore_by_hand() -> None:
    # Rows of variance 2/1 and 0 that do not covary: eigenvalues 2 + α and α.
    states = np.array([[1.0, -1.0], [5.0, 5.0]])
    assert eigenscore(states, alpha=0.5) == pytest.approx((LN(2.5) + LN(0.5)) / 2)
    # Equal rows: one eigenvalue of K times the variance, the rest 0.
    same = np.tile([1.0, 2.0, 3.0], (4, 1))
    assert eigenscore(same) == pytest.approx((LN(4 + 1e-3) + 3 * LN(1e-3)) / 4)


@settings(deadline=None)
@given(k=st.integers(1, 6), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_eigenscore_is_the_mean_log_determinant(k: int, width: int, seed: int) -> None:
    states = np.random.default_rng(seed).normal(size=(k, width)).astype(np.float32)
    covariance = np.cov(states.astype(float), ddof=1 if width > 1 else 0).reshape(k, k)
    _, logdet = np.linalg.slogdet(covariance + 1e-3 * np.eye(k))
    assert eigenscore(states) == pytest.approx(logdet / k, abs=1e-6)
    # As printed, without the division: another α and a constant.
    centred = states.astype(float) - states.astype(float).mean(1, keepdims=True)
    _, printed = np.linalg.slogdet(centred @ centred.T + 1e-3 * np.eye(k))
    shift = max(width - 1, 1)
    assert eigenscore(states, 1e-3 / shift) + LN(shift) == pytest.approx(printed / k, abs=1e-4)


def test_eigenscore_rises_with_the_spread_and_bears_half_precision() -> None:
    rng = np.random.default_rng(1)
    base, noise = rng.normal(size=(1, 64)), rng.normal(size=(10, 64))
    rising = [eigenscore((base + spread * noise).astype(np.float16)) for spread in (0.0, 0.1, 0.5, 2.0)]
    assert rising == sorted(rising)
    assert len(set(rising)) == 4
    # Sums overflow in half precision.
    assert math.isfinite(eigenscore(np.full((10, 64), 60000, dtype=np.float16)))


@pytest.mark.parametrize(
    ("states", "alpha", "message"),
    [
        (np.zeros(3), 1e-3, r"\[answers, width\].*not \[3\]"),
        (np.zeros((0, 3)), 1e-3, r"not \[0, 3\]"),
        (np.array([[0.0, np.nan]]), 1e-3, "not finite"),
        (np.zeros((2, 3)), 0.0, "alpha must be above 0"),
    ],
)
def test_eigenscore_of_impossible_input(states: NDArray[np.float64], alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        eigenscore(states, alpha)


def blocks(clusters: Sequence[int]) -> NDArray[np.float64]:
    return np.equal.outer(clusters, clusters).astype(float)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_the_entropy_of_a_block_kernel_is_the_semantic_entropy(clusters: list[int]) -> None:
    assert von_neumann_entropy(blocks(clusters)) == pytest.approx(semantic_entropy(clusters), abs=1e-9)
    assert von_neumann_entropy(7 * blocks(clusters)) == pytest.approx(semantic_entropy(clusters), abs=1e-9)
    # Answers linked within clusters only: heat that has spread for long enough makes just that kernel.
    long = kernel_language_entropy(blocks(clusters), time=100)
    assert long == pytest.approx(semantic_entropy(clusters), abs=1e-9)
    # Before that, answers of one cluster are not yet quite one.
    assert kernel_language_entropy(blocks(clusters)) >= semantic_entropy(clusters) - 1e-9
    assert kernel_language_entropy(blocks(clusters), time=0) == pytest.approx(LN(len(clusters)))


@settings(deadline=None)
@given(n=st.integers(1, 7), seed=st.integers(0, 99), time=st.floats(0, 5))
def test_heat_kernel_against_the_matrix_exponential(n: int, seed: int, time: float) -> None:
    weights = np.random.default_rng(seed).random((n, n))
    weights = (weights + weights.T) / 2
    laplacian = np.diag(weights.sum(1)) - weights
    kernel = heat_kernel(weights, time)
    np.testing.assert_allclose(kernel, expm(-time * laplacian), atol=1e-9)
    np.testing.assert_allclose(heat_kernel(weights - np.diag(np.diag(weights)), time), kernel, atol=1e-9)
    assert 0 <= von_neumann_entropy(kernel) <= LN(n)


def test_kernel_entropy_of_two_answers_by_hand() -> None:
    """L = w [[1, −1], [−1, 1]]: the kernel's off-diagonal, scaled, is tanh(w t)."""
    for weight in (0.0, 0.5, 1.0):
        rho = math.tanh(weight * HEAT_TIME)
        levels = [(1 + rho) / 2, (1 - rho) / 2]
        expected = -sum(x * LN(x) for x in levels)
        found = kernel_language_entropy(np.array([[1.0, weight], [weight, 1.0]]))
        assert found == pytest.approx(expected, abs=1e-12)


def test_kernel_entropy_sees_what_clusters_do_not() -> None:
    """Three answers, three clusters both times; neutral ones are nearer to each other than contradictions."""
    answers = ["a", "b", "c"]
    entropies = [
        kernel_language_entropy(similarity_from_relations(answers, dict.fromkeys(permutations(answers, 2), relation)))
        for relation in ("entailment", "neutral", "contradiction")
    ]
    assert entropies == sorted(entropies)
    assert entropies[1] < entropies[2] - 0.09
    assert entropies[2] == pytest.approx(LN(3))


def test_neutral_answers_merge_as_they_become_more() -> None:
    """The eigenvalues of n answers all half linked: 1/n + (n − 1)/n ρ once and (1 − ρ)/n for the rest."""
    for n, documented in ((5, 1.35), (10, 1.30), (20, 0.32)):
        heat = math.exp(-HEAT_TIME * n / 2)
        rho = (1 - heat) / (1 + (n - 1) * heat)
        levels = [(1 + (n - 1) * rho) / n] + [(1 - rho) / n] * (n - 1)
        found = kernel_language_entropy(np.full((n, n), 0.5))
        assert found == pytest.approx(-sum(x * LN(x) for x in levels), abs=1e-9)
        assert found == pytest.approx(documented, abs=0.005)


def test_similarity_by_hand() -> None:
    relations = {
        ("Rome", "a city"): "entailment",
        ("a city", "Rome"): "neutral",
        ("Rome", "Oslo"): "contradiction",
        ("Oslo", "Rome"): "contradiction",
        ("a city", "Oslo"): "neutral",
        ("Oslo", "a city"): "contradiction",
    }
    found = similarity_from_relations(["Rome", "Oslo", " Rome", "a city"], relations)
    expected = [[1, 0, 1, 0.75], [0, 1, 0, 0.25], [1, 0, 1, 0.75], [0.75, 0.25, 0.75, 1]]
    np.testing.assert_array_equal(found, expected)


def test_a_relation_that_is_missing_or_unheard_of() -> None:
    with pytest.raises(ValueError, match="relation of 'b' to 'a' is None, not one of entailment, neutral"):
        similarity_from_relations(["a", "b"], {("a", "b"): "neutral"})
    with pytest.raises(ValueError, match="is 'maybe'"):
        similarity_from_relations(["a", "b"], {("a", "b"): "maybe"})


@pytest.mark.parametrize(
    ("similarity", "time", "message"),
    [
        (np.zeros((2, 3)), 1.0, r"not \[2, 3\]"),
        (np.array([[1, 0.5], [0.4, 1]]), 1.0, "symmetric"),
        (np.array([[1, -0.5], [-0.5, 1]]), 1.0, "not negative"),
        (np.array([[1, np.nan], [np.nan, 1]]), 1.0, "finite"),
        (np.eye(2), -1.0, "time must be 0 or more, not -1"),
    ],
)
def test_impossible_similarities(similarity: NDArray[np.float64], time: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel_language_entropy(similarity, time)


def test_impossible_kernels() -> None:
    with pytest.raises(ValueError, match="not positive semi-definite"):
        von_neumann_entropy(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="diagonal"):
        von_neumann_entropy(np.zeros((2, 2)))
