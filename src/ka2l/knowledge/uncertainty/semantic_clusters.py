"""Semantic clusters: which answers to a question have the same meaning.

`cluster_lexical` groups answers that are equal after SQuAD normalisation. `cluster_by_meaning` uses a judge for the
relation of one answer to another in the question's context, with as few judgements as possible: all questions advance
together, so that each call of the judge is one large batch, and no pair is judged twice.
"""

from collections.abc import Generator, Sequence
from itertools import combinations, permutations
from typing import Literal, NamedTuple, Protocol, TypeVar

from ka2l.common.answer_text import normalize_answer

Relation = Literal["entailment", "neutral", "contradiction"]
Equivalence = Literal["strict", "lenient", "no_contradiction"]
Rule = Literal["first_match", "components"]


class Pair(NamedTuple):
    """Two answers in one question's context: does the first entail the second?"""

    question: str
    premise: str
    hypothesis: str


class Judge(Protocol):
    """Gives the relation between answers."""

    symmetric: bool
    """Whether the relation of a to b equals that of b to a; the reverse direction is then never judged."""

    def relations(self, pairs: Sequence[Pair]) -> Sequence[Relation]:
        """The relation of each pair, in order; called with at least one pair and never with the same pair twice."""
        ...


class Clusters(NamedTuple):
    """Cluster number of each answer, per question, numbered by first appearance; and the cost."""

    ids: list[list[int]]
    pairs: int  # pairs that were judged


def cluster_lexical(answers: Sequence[str]) -> list[int]:
    """Cluster number of each answer, numbered by first appearance."""
    return _numbered([normalize_answer(answer) for answer in answers])


def cluster_by_meaning(
    questions: Sequence[str],
    answers: Sequence[Sequence[str]],
    judge: Judge,
    *,
    equivalence: Equivalence = "strict",
    rule: Rule = "first_match",
) -> Clusters:
    """Clusters of many questions at once, from a judge's relations between answers.

    Two answers are equivalent, with `strict`, when each entails the other (Kuhn et al., arXiv 2302.09664); with
    `lenient`, when neither direction is a contradiction and at least one is not neutral (Farquhar et al., Nature 2024);
    with `no_contradiction`, when neither direction is a contradiction. The reverse direction is judged only if the
    forward one does not decide. Answers that differ in surrounding white space only are equal and not judged.

    With `first_match` an answer joins the first cluster whose first answer it is equivalent to. Only first answers are
    compared, so if A and B both match C but not each other, the order matters: C first gives {A, B, C}, A first gives
    {A, C} and {B}. With `components` all linked answers are one cluster: {A, B, C} in every order.

    Args:
        questions: one text per question.
        answers: the answers of each.
        judge: gives the relations.
        equivalence: when two answers mean the same.
        rule: how pairs make clusters.
    """
    distinct = [list(dict.fromkeys(answer.strip() for answer in group)) for group in answers]
    judgements = _Judgements(judge)
    texts = [question.strip() for question in questions]
    by_rule = {"first_match": _first_match, "components": _components}[rule]
    founders = _run_together(texts, [by_rule(group, equivalence) for group in distinct], judgements)
    ids = [
        _numbered([founder_of[answer.strip()] for answer in group])
        for founder_of, group in zip(founders, answers, strict=True)
    ]
    return Clusters(ids, len(judgements.known))


def pairwise_relations(
    questions: Sequence[str], answers: Sequence[Sequence[str]], judge: Judge
) -> list[dict[tuple[str, str], Relation]]:
    """The relation of every ordered pair of distinct (stripped) answers, per question, judged in one batch."""
    judgements = _Judgements(judge)
    wanted = [
        [Pair(question.strip(), *pair) for pair in permutations(dict.fromkeys(a.strip() for a in group), 2)]
        for question, group in zip(questions, answers, strict=True)
    ]
    relations = iter(judgements.relations([pair for pairs in wanted for pair in pairs]))
    return [{(pair.premise, pair.hypothesis): next(relations) for pair in pairs} for pairs in wanted]


class _Judgements:
    """A judge and its judgements so far: a pair in several questions of the same text is judged once."""

    def __init__(self, judge: Judge):
        self._judge = judge
        self.known: dict[Pair, Relation] = {}

    def relations(self, pairs: Sequence[Pair]) -> list[Relation]:
        keys = [self._key(pair) for pair in pairs]
        new = [key for key in dict.fromkeys(keys) if key not in self.known]
        if new:
            self.known.update(zip(new, self._judge.relations(new), strict=True))
        return [self.known[key] for key in keys]

    def _key(self, pair: Pair) -> Pair:
        swapped = self._judge.symmetric and pair.premise > pair.hypothesis
        return Pair(pair.question, pair.hypothesis, pair.premise) if swapped else pair


Two = tuple[str, str]
T = TypeVar("T")
# The clustering of one question, step by step: it yields pairs of distinct answers, is sent their relations and returns
# a T.
_Steps = Generator[list[Two], list[Relation], T]


def _equivalent(pairs: list[Two], equivalence: Equivalence) -> _Steps[list[bool]]:
    """Whether the two answers of each pair mean the same: in two steps, or one if that decides all pairs."""
    forward = yield pairs
    strict = equivalence == "strict"
    is_open = [relation == "entailment" if strict else relation != "contradiction" for relation in forward]
    reverse = [(b, a) for (a, b), undecided in zip(pairs, is_open, strict=True) if undecided]
    backward = iter((yield reverse) if reverse else [])
    return [
        undecided and _both_ways(equivalence, relation, next(backward))
        for undecided, relation in zip(is_open, forward, strict=True)
    ]


def _both_ways(equivalence: Equivalence, forward: Relation, backward: Relation) -> bool:
    if equivalence == "strict":
        return forward == backward == "entailment"
    if "contradiction" in (forward, backward):
        return False
    return equivalence == "no_contradiction" or not forward == backward == "neutral"


def _first_match(answers: Sequence[str], equivalence: Equivalence) -> _Steps[dict[str, str]]:
    """The founder (first answer) of each answer's cluster; each founder is compared with all answers without one."""
    founder_of: dict[str, str] = {}
    waiting = list(answers)
    while waiting:
        founder, *others = waiting
        founder_of[founder] = founder
        if others:
            same = yield from _equivalent([(founder, other) for other in others], equivalence)
            founder_of |= {answer: founder for answer, is_same in zip(others, same, strict=True) if is_same}
        waiting = [answer for answer in others if answer not in founder_of]
    return founder_of


def _components(answers: Sequence[str], equivalence: Equivalence) -> _Steps[dict[str, str]]:
    """One representative answer for each answer's connected component.

    The pairs of one step are a forest over the current components: none of them can be decided by the others.
    """
    parent = {answer: answer for answer in answers}
    left = list(combinations(answers, 2))
    while left := [pair for pair in left if _root(parent, pair[0]) != _root(parent, pair[1])]:
        trial = dict(parent)
        step = [pair for pair in left if _link(trial, *pair)]
        same = yield from _equivalent(step, equivalence)
        for pair, is_same in zip(step, same, strict=True):
            if is_same:
                _link(parent, *pair)
        judged = set(step)
        left = [pair for pair in left if pair not in judged]
    return {answer: _root(parent, answer) for answer in answers}


def _root(parent: dict[str, str], answer: str) -> str:
    """The representative of an answer's component (union-find with path halving)."""
    while parent[answer] != answer:
        parent[answer] = answer = parent[parent[answer]]
    return answer


def _link(parent: dict[str, str], one: str, other: str) -> bool:
    """Join the components of two answers; returns whether they were different ones."""
    first, second = _root(parent, one), _root(parent, other)
    parent[second] = first
    return first != second


def _run_together(questions: Sequence[str], steps: Sequence[_Steps[T]], judgements: _Judgements) -> list[T]:
    """Run the clusterings of all questions in parallel: their next pairs are judged in one batch."""
    results: dict[int, T] = {}
    # Relations to send to each unfinished question; None starts it.
    answers: dict[int, list[Relation] | None] = dict.fromkeys(range(len(steps)))
    while answers:
        wanted: dict[int, list[Pair]] = {}
        for index, relations in answers.items():
            try:
                pairs = steps[index].send(relations)  # type: ignore[arg-type]
            except StopIteration as end:
                results[index] = end.value
            else:
                wanted[index] = [Pair(questions[index], *pair) for pair in pairs]
        batch = iter(judgements.relations([pair for pairs in wanted.values() for pair in pairs]))
        answers = {index: [next(batch) for _ in pairs] for index, pairs in wanted.items()}
    return [results[index] for index in range(len(steps))]


def _numbered(names: Sequence[str]) -> list[int]:
    """The number of each name, by first appearance."""
    seen: dict[str, int] = {}
    return [seen.setdefault(name, len(seen)) for name in names]
