"""Ambiguity against ignorance: representatives of clusters, the score by hand, and that clusters alone do not move
it.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.knowledge.uncertainty.ambiguity import Ambiguity, ambiguity, cluster_representatives


def test_representatives_by_hand() -> None:
    clusters = [0, 1, 1, 2, 1, 0, 3]
    texts = ["Rome", "oslo", "Oslo", "Lima", "Oslo", "roma", "Bern"]
    assert cluster_representatives(clusters, texts) == [
        (1, "Oslo", 3),
        (0, "Rome", 2),
        (2, "Lima", 1),
        (3, "Bern", 1),
    ]
    assert [lead.cluster for lead in cluster_representatives(clusters, texts, most=2)] == [1, 0]
    assert cluster_representatives([], []) == []


@pytest.mark.parametrize(
    ("p_true", "sizes", "score", "flag"),
    [
        ([0.9, 0.8], [5, 5], 0.72, True),  # several right answers
        ([0.9, 0.1], [5, 5], 0.09, False),  # one right, one wrong
        ([0.2, 0.3], [5, 5], 0.06, False),  # ignorance
        ([0.5, 0.5], [9, 1], 0.25, True),
        ([0.9], [10], 0.0, False),  # one meaning is not ambiguous
        ([0.9, 0.8, 0.0], [5, 4, 1], (20 * 0.72) / (20 + 5 + 4), False),  # a stray answer weighs little
    ],
)
def test_score_by_hand(p_true: list[float], sizes: list[int], score: float, flag: bool) -> None:
    found = ambiguity(p_true, sizes)
    assert found.score == pytest.approx(score)
    assert found.flag is flag


CLUSTERS = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=2, max_size=8)


@settings(deadline=None)
@given(CLUSTERS)
def test_the_score_is_the_mean_over_pairs_of_answers(rows: list[tuple[float, int]]) -> None:
    answers = [(cluster, p) for cluster, (p, size) in enumerate(rows) for _ in range(size)]
    products = [p * q for c, p in answers for d, q in answers if c != d]
    found = ambiguity(*zip(*rows, strict=True))
    assert found.score == pytest.approx(np.mean(products), abs=1e-12)
    assert not found.flag or found.score >= 0.25 - 1e-12


def test_more_clusters_of_the_same_doubt_do_not_move_the_score() -> None:
    """P(True) that is noise: the smallest falls and the second largest rises with the clusters, the mean stays."""
    rng = np.random.default_rng(0)

    def means(clusters: int) -> list[float]:
        draws = rng.random((4000, clusters))
        scores = [ambiguity(p, [1] * clusters).score for p in draws]
        return [float(np.mean(scores)), float(draws.min(1).mean()), float(np.sort(draws)[:, -2].mean())]

    few, many = means(2), means(8)
    assert few[0] == pytest.approx(many[0], abs=0.02)
    assert many[1] < few[1] - 0.2
    assert many[2] > few[2] + 0.3


def test_unknown_is_not_a_score() -> None:
    for p_true, sizes in ([], []), ([0.9, math.nan], [1, 1]):
        score, flag = ambiguity(p_true, sizes)
        assert math.isnan(score)
        assert not flag


def test_order_does_not_matter() -> None:
    assert ambiguity([0.9, 0.6, 0.7], [1, 2, 3]).score == pytest.approx(ambiguity([0.7, 0.9, 0.6], [3, 1, 2]).score)
    assert isinstance(ambiguity([0.9, 0.6], [1, 2]), Ambiguity)


@pytest.mark.parametrize(
    ("p_true", "sizes", "message"),
    [
        ([0.5], [1, 2], r"1 values of P\(True\), but 2 sizes"),
        ([0.5, 1.2], [1, 2], "between 0 and 1, but goes from 0.5 to 1.2"),
        ([0.5, 0.5], [1, 0], "at least one answer"),
    ],
)
def test_impossible_input(p_true: list[float], sizes: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ambiguity(p_true, sizes)
