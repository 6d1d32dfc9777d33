"""Semantic clusters: by normalised text, and from a judge's relations, asked as seldom as possible."""

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.knowledge.uncertainty.semantic_clusters import (
    Pair,
    Relation,
    cluster_by_meaning,
    cluster_lexical,
    pairwise_relations,
)

Two = tuple[str, str]
Says = Callable[[str, str], Relation]
LETTERS = "abcde"
RELATIONS: tuple[Relation, ...] = ("entailment", "neutral", "contradiction")
MODES = ("strict", "lenient", "no_contradiction")


class Judge:
    """Relations between answers by a rule; remembers every pair and batch it was asked about."""

    def __init__(self, rule: Says, symmetric: bool = False):
        self.rule, self.symmetric = rule, symmetric
        self.batches: list[list[Pair]] = []

    @property
    def asked(self) -> list[Two]:
        return [pair[1:] for batch in self.batches for pair in batch]

    def relations(self, pairs: Sequence[Pair]) -> list[Relation]:
        assert pairs, "an empty batch costs a call"
        self.batches.append(list(pairs))
        return [self.rule(pair.premise, pair.hypothesis) for pair in pairs]


def mutual(*pairs: str) -> Says:
    """A rule under which exactly these pairs (two letters each) entail each other; all others are neutral."""
    held = {(p[0], p[1]) for p in pairs} | {(p[1], p[0]) for p in pairs}
    return lambda left, right: "entailment" if (left, right) in held else "neutral"


def clusters(answers: Sequence[str], judge: Judge, **how: Any) -> list[int]:
    (ids,) = cluster_by_meaning(["Q?"], [answers], judge, **how).ids
    return ids


def test_lexical() -> None:
    answers = ["Paris", "the paris!", "Lyon", " PARIS ", "lyon", "Nice", ""]
    assert cluster_lexical(answers) == [0, 0, 1, 0, 1, 2, 3]
    assert cluster_lexical([]) == []


@given(st.lists(st.text(max_size=4), max_size=12))
def test_lexical_numbers_by_first_appearance(answers: list[str]) -> None:
    clusters = cluster_lexical(answers)
    assert list(dict.fromkeys(clusters)) == list(range(len(set(clusters))))
    assert all(clusters[answers.index(answer)] == cluster for answer, cluster in zip(answers, clusters, strict=True))


# What is equivalent


@pytest.mark.parametrize(
    ("forward", "backward", "held"),
    [
        ("entailment", "entailment", (True, True, True)),
        ("entailment", "neutral", (False, True, True)),
        ("neutral", "entailment", (False, True, True)),
        ("neutral", "neutral", (False, False, True)),
        ("entailment", "contradiction", (False, False, False)),
        ("contradiction", "entailment", (False, False, False)),
        ("neutral", "contradiction", (False, False, False)),
        ("contradiction", "neutral", (False, False, False)),
        ("contradiction", "contradiction", (False, False, False)),
    ],
)
def test_each_equivalence(forward: Relation, backward: Relation, held: tuple[bool, ...]) -> None:
    for mode, same in zip(MODES, held, strict=True):
        for rule in ("first_match", "components"):
            judge = Judge(lambda left, _: forward if left == "a" else backward)
            assert clusters("ab", judge, equivalence=mode, rule=rule) == [0, int(not same)]
            still_open = forward == "entailment" if mode == "strict" else forward != "contradiction"
            assert judge.asked == [("a", "b"), ("b", "a")][: 1 + still_open]


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("mode", MODES)
def test_a_symmetric_judge_is_never_asked_for_the_reverse(mode: Any, relation: Relation) -> None:
    one_way, both_ways = (Judge(lambda *_: relation, symmetric=s) for s in (True, False))
    assert clusters("ba", one_way, equivalence=mode) == clusters("ba", both_ways, equivalence=mode)
    assert len(one_way.asked) == 1


# What is asked


def test_nothing_is_asked_about_identical_answers() -> None:
    judge = Judge(mutual())
    assert cluster_by_meaning(["Q?"], [["Paris", "Paris", " Paris "]], judge) == ([[0, 0, 0]], 0)
    assert judge.batches == []
    assert cluster_by_meaning(["Q?"], [["a", "b", "a", "b", "a"]], judge) == ([[0, 1, 0, 1, 0]], 1)
    assert judge.asked == [("a", "b")]  # once, and not backwards: the forward direction did not hold


def test_assigned_answers_are_never_asked_about_again() -> None:
    """SPEC item 5: comparing answers that already have a cluster made the result depend on their order."""
    judge = Judge(mutual("ac", "bd"))
    assert cluster_by_meaning(["Q?"], [["a", "b", "c", "d", "e"]], judge) == ([[0, 1, 0, 1, 2]], 8)
    forward = [("a", "b"), ("a", "c"), ("a", "d"), ("a", "e"), ("b", "d"), ("b", "e")]
    backward = [("c", "a"), ("d", "b")]
    assert sorted(judge.asked) == sorted(forward + backward)


def test_components_ask_nothing_that_is_linked_already() -> None:
    judge = Judge(mutual("ab", "bc", "ac", "de"))
    assert cluster_by_meaning(["Q?"], [list("abcde")], judge, rule="components").ids == [[0, 0, 0, 1, 1]]
    forward = {frozenset(pair) for pair in judge.asked}
    assert frozenset("bc") not in forward  # a was found to be both
    assert judge.asked.count(("d", "e")) == 1


def test_questions_advance_together() -> None:
    judge = Judge(mutual("ab"))
    groups = [list("abc"), ["a"], [], list("ca"), ["b", "b"]]
    made = cluster_by_meaning([" Q? "] * 5, groups, judge)
    assert made.ids == [[0, 0, 1], [0], [], [0, 1], [0, 0]]
    # One batch forward for the first founders of all questions, one backward; nothing is left to ask afterwards.
    assert judge.batches == [
        [Pair("Q?", "a", "b"), Pair("Q?", "a", "c"), Pair("Q?", "c", "a")],
        [Pair("Q?", "b", "a")],
    ]
    assert made.pairs == 4


def test_a_pair_of_several_questions_is_asked_once() -> None:
    for symmetric, count in ((False, 4), (True, 2)):
        judge = Judge(mutual("ab"), symmetric)
        made = cluster_by_meaning(["Q?", "Q?", "Other?", "Q?"], ["ab", "ab", "ab", "ba"], judge)
        assert made == ([[0, 0]] * 4, count)
        assert len(judge.asked) == count


def test_no_questions() -> None:
    judge = Judge(mutual())
    assert cluster_by_meaning([], [], judge) == ([], 0)
    assert pairwise_relations([], [], judge) == []
    assert judge.batches == []


# What each rule makes of it


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
    """Founders alone: where the common neighbour comes first all are one, else two. Components: one in every order."""
    assert clusters(order, Judge(mutual("ac", "bc"))) == expected
    assert clusters(order, Judge(mutual("ac", "bc")), rule="components") == [0, 0, 0]


def one_at_a_time(answers: Sequence[str], same: Callable[[str, str], bool]) -> list[int]:
    """The textbook loop for one question: each answer against the founders, in order of appearance."""
    founders: list[str] = []
    found = []
    for answer in answers:
        for number, founder in enumerate(founders):
            if answer == founder or same(founder, answer):
                found.append(number)
                break
        else:
            found.append(len(founders))
            founders.append(answer)
    return found


def reachable(answers: Sequence[str], same: Callable[[str, str], bool]) -> list[int]:
    """Components by the plainest means: spread from each answer until nothing changes."""
    home = {answer: {answer} for answer in answers}
    for _ in answers:
        for a, b in permutations(home, 2):
            if same(a, b):
                home[a] |= home[b]
                home[b] |= home[a]
    names = [min(home[answer]) for answer in answers]
    return [list(dict.fromkeys(names)).index(name) for name in names]


def equivalent(said: Says, mode: str) -> Callable[[str, str], bool]:
    """The three definitions, written as sets of what both directions may say."""

    def same(a: str, b: str) -> bool:
        both = {said(a, b), said(b, a)}
        if mode == "strict":
            return both == {"entailment"}
        return "contradiction" not in both and (mode != "lenient" or both != {"neutral"})

    return same


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(LETTERS), max_size=8), max_size=4),
    st.dictionaries(st.tuples(st.sampled_from(LETTERS), st.sampled_from(LETTERS)), st.sampled_from(RELATIONS)),
    st.sampled_from(MODES),
    st.booleans(),
)
def test_both_rules_equal_their_textbook(
    groups: list[list[str]], told: dict[Two, Relation], mode: Any, symmetric: bool
) -> None:
    def said(a: str, b: str) -> Relation:
        return told.get((min(a, b), max(a, b)) if symmetric else (a, b), "neutral")

    for rule, textbook in (("first_match", one_at_a_time), ("components", reachable)):
        judge = Judge(said, symmetric)
        questions = [f"Q{i}?" for i in range(len(groups))]
        made = cluster_by_meaning(questions, groups, judge, equivalence=mode, rule=rule)  # type: ignore[arg-type]
        assert made.ids == [textbook(group, equivalent(said, mode)) for group in groups]
        pairs = [pair for batch in judge.batches for pair in batch]
        assert made.pairs == len(pairs) == len(set(pairs))
        assert all(pair.premise != pair.hypothesis for pair in pairs)


@given(st.permutations(LETTERS), st.sets(st.sampled_from(["ab", "bc", "cd", "de", "ae", "bd"])))
def test_components_do_not_depend_on_the_order(order: list[str], links: set[str]) -> None:
    def parts(answers: Sequence[str]) -> set[frozenset[str]]:
        ids = clusters(answers, Judge(mutual(*links)), rule="components")
        return {frozenset(a for a, i in zip(answers, ids, strict=True) if i == n) for n in ids}

    assert parts(order) == parts(LETTERS)


# All pairs


def test_relations_of_all_pairs() -> None:
    judge = Judge(lambda a, b: "entailment" if a < b else "contradiction" if (a, b) == ("c", "a") else "neutral")
    found = pairwise_relations(["Q?", "Q?", "R?"], [["a", "c ", "a"], ["b", "a"], ["d"]], judge)
    assert found == [
        {("a", "c"): "entailment", ("c", "a"): "contradiction"},
        {("b", "a"): "neutral", ("a", "b"): "entailment"},
        {},
    ]
    assert len(judge.batches) == 1
    symmetric = Judge(mutual("ab"), symmetric=True)
    assert pairwise_relations(["Q?"], ["ba"], symmetric) == [{("b", "a"): "entailment", ("a", "b"): "entailment"}]
    assert len(symmetric.asked) == 1
