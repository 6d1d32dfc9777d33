"""Semantic clusters: by normalised text, and by two-way entailment asked as seldom as possible."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.knowledge.clustering import cluster_lexical, cluster_nli

Pair = tuple[str, str]
LETTERS = "abcde"


class Judge:
    """Entailment between answers by a rule; remembers every pair and batch it was asked about."""

    def __init__(self, rule: Callable[[str, str], bool], question: str = "Q?"):
        self.rule, self.question = rule, question
        self.batches: list[list[Pair]] = []

    @property
    def asked(self) -> list[Pair]:
        return [pair for batch in self.batches for pair in batch]

    def __call__(self, pairs: Sequence[Pair]) -> list[bool]:
        assert pairs, "an empty batch costs a call"
        answers = [(self.answer(premise), self.answer(hypothesis)) for premise, hypothesis in pairs]
        self.batches.append(answers)
        return [self.rule(*pair) for pair in answers]

    def answer(self, text: str) -> str:
        """The NLI input is question and answer together."""
        assert text.startswith(self.question + " ")
        return text[len(self.question) + 1 :]


def mutual(*pairs: str) -> Callable[[str, str], bool]:
    """A rule under which exactly these pairs (two letters each) entail each other."""
    held = {(p[0], p[1]) for p in pairs} | {(p[1], p[0]) for p in pairs}
    return lambda left, right: (left, right) in held


def test_lexical() -> None:
    answers = ["Paris", "the paris!", "Lyon", " PARIS ", "lyon", "Nice", ""]
    assert cluster_lexical(answers) == [0, 0, 1, 0, 1, 2, 3]
    assert cluster_lexical([]) == []


@given(st.lists(st.text(max_size=4), max_size=12))
def test_lexical_numbers_by_first_appearance(answers: list[str]) -> None:
    clusters = cluster_lexical(answers)
    assert list(dict.fromkeys(clusters)) == list(range(len(set(clusters))))
    assert all(
        clusters[answers.index(answer)] == cluster for answer, cluster in zip(answers, clusters, strict=True)
    )


def test_nothing_is_asked_about_identical_answers() -> None:
    judge = Judge(mutual())
    assert cluster_nli(["Q?"], [["Paris", "Paris", " Paris "]], judge) == [[0, 0, 0]]
    assert judge.batches == []
    assert cluster_nli(["Q?"], [["a", "b", "a", "b", "a"]], judge) == [[0, 1, 0, 1, 0]]
    assert judge.asked == [("a", "b")]  # once, and not backwards: the forward direction did not hold


def test_both_directions_must_hold() -> None:
    one_way = Judge(lambda left, right: (left, right) == ("a", "b"))
    assert cluster_nli(["Q?"], [["a", "b"]], one_way) == [[0, 1]]
    assert one_way.asked == [("a", "b"), ("b", "a")]
    both = Judge(mutual("ab"))
    assert cluster_nli(["Q?"], [["a", "b"]], both) == [[0, 0]]


def test_assigned_answers_are_never_asked_about_again() -> None:
    """SPEC item 5: comparing answers that already have a cluster made the result depend on their order."""
    judge = Judge(mutual("ac", "bd"))
    assert cluster_nli(["Q?"], [["a", "b", "c", "d", "e"]], judge) == [[0, 1, 0, 1, 2]]
    forward = [("a", "b"), ("a", "c"), ("a", "d"), ("a", "e"), ("b", "d"), ("b", "e")]
    backward = [("c", "a"), ("d", "b")]
    assert sorted(judge.asked) == sorted(forward + backward)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("abc", [0, 1, 0]),
        ("acb", [0, 0, 1]),
        ("bac", [0, 1, 0]),
        ("bca", [0, 0, 1]),
        ("cab", [0, 0, 0]),
        ("cba", [0, 0, 0]),
    ],
)
def test_a_like_c_and_b_like_c_but_not_a_like_b(order: str, expected: list[int]) -> None:
    """Only founders are compared: where the common neighbour comes first all are one, else two."""
    assert cluster_nli(["Q?"], [list(order)], Judge(mutual("ac", "bc"))) == [expected]


def test_questions_advance_together() -> None:
    judge = Judge(mutual("ab"))
    groups = [list("abc"), ["a"], [], list("ca"), ["b", "b"]]
    assert cluster_nli(["Q?"] * 5, groups, judge) == [[0, 0, 1], [0], [], [0, 1], [0, 0]]
    # One batch forward for the first founders of all questions, one backward; nothing is left to ask afterwards.
    assert judge.batches == [[("a", "b"), ("a", "c"), ("c", "a")], [("b", "a")]]


def test_no_questions() -> None:
    assert cluster_nli([], [], Judge(mutual())) == []


def one_at_a_time(answers: Sequence[str], rule: Callable[[str, str], bool]) -> list[int]:
    """The textbook loop for one question: each answer against the founders, in order of appearance."""
    founders: list[str] = []
    clusters = []
    for answer in answers:
        for number, founder in enumerate(founders):
            if answer == founder or (rule(founder, answer) and rule(answer, founder)):
                clusters.append(number)
                break
        else:
            clusters.append(len(founders))
            founders.append(answer)
    return clusters


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(LETTERS), max_size=8), max_size=4),
    st.frozensets(st.tuples(st.sampled_from(LETTERS), st.sampled_from(LETTERS))),
)
def test_equals_the_textbook_loop(groups: list[list[str]], held: frozenset[Pair]) -> None:
    def rule(left: str, right: str) -> bool:
        return (left, right) in held

    judge = Judge(rule)
    assert cluster_nli(["Q?"] * len(groups), groups, judge) == [
        one_at_a_time(group, rule) for group in groups
    ]
    assert all(left != right for left, right in judge.asked)


@given(st.lists(st.sampled_from(LETTERS), max_size=10))
def test_no_pair_is_scored_twice(answers: list[str]) -> None:
    judge = Judge(mutual("ab", "bc", "de"))
    cluster_nli(["Q?"], [answers], judge)
    assert len(judge.asked) == len(set(judge.asked))
