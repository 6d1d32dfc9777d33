"""`measure` over strings and arrays: its example, every score against its own function, and what it refuses."""

import doctest
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ka2l.errors import DegenerateError
from ka2l.knowledge.uncertainty import measure as module
from ka2l.knowledge.uncertainty.measure import measure
from ka2l.knowledge.uncertainty.semantic_clusters import Pair, Relation

QUESTIONS = ["Capital of France?", "Capital of Peru?", "Capital of Chad?"]
ANSWERS = [["Paris", "in Paris", "Paris"], ["Lima", "Lima", "Lima"], ["Abéché", "Moundou", "Sarh"]]
ASKED: dict[str, Any] = {"questions": QUESTIONS, "answers": ANSWERS}
LN3 = math.log(3)
MIXED = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))  # two of three alike


class WordsJudge:
    """The first entails the second when it says all of its words."""

    symmetric = False

    def relations(self, pairs: Sequence[Pair]) -> list[Relation]:
        return [
            "entailment" if set(pair.hypothesis.split()) <= set(pair.premise.split()) else "neutral" for pair in pairs
        ]


def test_the_example_in_the_docstring() -> None:
    found = doctest.testmod(module)
    assert found.attempted == 4
    assert found.failed == 0


def test_scores_by_hand() -> None:
    logprobs: list[list[list[float]]] = [
        [[-0.1], [-1.0, -0.2], [-0.1]],
        [[-0.2], [-0.2], [-0.2]],
        [[-1.0, -1.0], [-2.0], [-4.0, 0.0]],
    ]
    found = measure(QUESTIONS, ANSWERS, token_logprobs=logprobs, low_token_logprobs=[[-0.1, -0.3], [-0.2], [-1.5]])
    assert found.clusters == [[0, 1, 0], [0, 0, 0], [0, 1, 2]]
    p = 1 / (1 + math.exp(-1.1))  # e^-0.1 against e^-1.2; per token against e^-0.6
    q = 1 / (1 + math.exp(-0.5))
    weights = np.exp([0, 0, -2.0]) / np.exp([0, 0, -2.0]).sum()
    expected: dict[str, list[float]] = {
        "semantic_entropy": [MIXED, 0, LN3],
        "semantic_entropy_rao": [entropy([p, 1 - p]), 0, entropy(weights)],
        "semantic_entropy_length_normalized": [
            entropy([q, 1 - q]),
            0,
            entropy(np.exp([-1, -2, -2]) / np.exp([-1, -2, -2]).sum()),
        ],
        "predictive_entropy": [1.4 / 3, 0.2, 8 / 3],
        "normalized_entropy": [0.8 / 3, 0.2, 5 / 3],
        "negative_log_likelihood": [0.2, 0.2, 1.5],
        "lexical_dissimilarity": [1 - (2 / 3 + 1 + 2 / 3) / 3, 0, 1],
        "n_clusters": [2, 1, 3],
        "answer_length": [4 / 3, 1, 1],
    }
    assert list(found.scores) == list(expected)
    for name, values in expected.items():
        assert found.scores[name].dtype == np.float64
        np.testing.assert_allclose(found.scores[name], values, atol=1e-12, err_msg=name)
    assert found.threshold is not None
    assert found.unknown is not None
    assert found.threshold.value == MIXED  # 0 | 0.64 1.10: the gap below is the wider one
    assert found.unknown.tolist() == [True, False, True]
    assert found.pairs == 0


def entropy(p: Any) -> float:
    return float(-(np.array(p) * np.log(p)).sum())


def test_without_log_probabilities_the_rest_is_there() -> None:
    found = measure(QUESTIONS, ANSWERS)
    undefined = {name for name, values in found.scores.items() if np.isnan(values).all()}
    assert undefined == {
        "semantic_entropy_rao",
        "semantic_entropy_length_normalized",
        "predictive_entropy",
        "normalized_entropy",
        "negative_log_likelihood",
    }
    assert all(np.isfinite(values).all() for name, values in found.scores.items() if name not in undefined)


def test_one_answer_without_log_probabilities_makes_its_question_undefined_and_no_other() -> None:
    some: list[list[list[float] | None]] = [[[-0.1], None, [-0.1]], [[-0.2]] * 3, [[-1.0], [], [-2.0]]]
    found = measure(QUESTIONS, ANSWERS, token_logprobs=some, low_token_logprobs=[None, [-0.5], []])
    for name in (
        "semantic_entropy_rao",
        "predictive_entropy",
        "normalized_entropy",
        "negative_log_likelihood",
    ):
        assert np.isnan(found.scores[name]).tolist() == [True, False, True], name


def test_a_judge_decides_what_is_the_same() -> None:
    strict = measure(QUESTIONS, ANSWERS, judge=WordsJudge(), threshold=None)
    assert strict.clusters[0] == [0, 1, 0]
    assert strict.pairs > 0
    assert (strict.threshold, strict.unknown) == (None, None)
    lenient = measure(QUESTIONS, ANSWERS, judge=WordsJudge(), equivalence="lenient", threshold=None)
    assert lenient.clusters[0] == [0, 0, 0]  # one direction is enough
    assert lenient.scores["semantic_entropy"][0] == 0
    any_order = measure(
        QUESTIONS[:1],
        [["x", "x y", "y"]],
        judge=WordsJudge(),
        equivalence="lenient",
        rule="components",
        threshold=None,
    )
    assert any_order.clusters == [[0, 0, 0]]


def test_the_threshold_is_fitted_on_training_rows_only() -> None:
    for train in ([0, 1], [True, True, False], np.array([1, 0])):
        found = measure(QUESTIONS, ANSWERS, threshold="median", train=train)
        assert found.threshold is not None
        assert found.threshold.value == MIXED
    given: dict[str, Any]
    for given, expected in (({"threshold": 0.1}, 2), ({"threshold": "quantile", "quantile": 0.9}, 1)):
        unknown = measure(**ASKED | given).unknown
        assert unknown is not None
        assert unknown.sum() == expected


def test_nothing_to_separate_is_said_and_threshold_none_gives_the_scores() -> None:
    with pytest.raises(DegenerateError, match="All 1 training questions of 3"):
        measure(QUESTIONS, ANSWERS, train=[1])
    with pytest.raises(DegenerateError, match="No question has an entropy"):
        measure(QUESTIONS, ANSWERS, train=[])
    alike = measure(QUESTIONS, [["x"]] * 3, threshold=None)
    assert alike.scores["semantic_entropy"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": ANSWERS[:2]}, "3 questions, but 2 lists of answers"),
        ({"answers": [["Paris"], [], ["Sarh"]]}, r"question 1 \('Capital of Peru\?'\) has no answers"),
        ({"answers": [["Paris"], "Lima", ["Sarh"]]}, r"question 1 \('Capital of Peru\?'\) has one text"),
        ({"token_logprobs": [[[-1.0]] * 3] * 2}, "3 questions, but 2 items in token_logprobs"),
        (
            {"token_logprobs": [[[-1.0]] * 3, [[-1.0]] * 3, [[-1.0]] * 2]},
            r"question 2 \('Capital of Chad\?'\) has 3 answers, but log-probabilities of 2",
        ),
        ({"low_token_logprobs": [[-1.0]]}, "3 questions, but 1 items in low_token_logprobs"),
        ({"train": [0, 3]}, "row numbers from 0 to 2"),
        ({"train": [True, False]}, "mask of 2 questions, but there are 3"),
        ({"train": [0.5]}, "row numbers from 0 to 2"),
        ({"threshold": "mean"}, "no threshold rule 'mean'"),
    ],
)
def test_impossible_input(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(**ASKED | change)
