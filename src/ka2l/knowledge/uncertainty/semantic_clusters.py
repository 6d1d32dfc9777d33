"""Semantic clusters: which of a question's answers mean the same.

`lexical` puts answers together that are equal after SQuAD normalisation. Everything else asks a judge for the relation
of one answer to another in the question's context, as seldom as possible: all questions advance together, so that
each call of the judge is one large batch, and no pair is asked about twice.
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
    """Who says how answers relate."""

    symmetric: bool
    """Whether the relation of a to b is that of b to a: the reverse is then never asked."""

    def relations(self, pairs: Sequence[Pair]) -> Sequence[Relation]:
        """The relation of each pair, in order; never called without pairs, nor with one pair twice."""
        ...


class Clusters(NamedTuple):
    """Cluster number of each answer, per question, numbered by first appearance; and what that took."""

    ids: list[list[int]]
    pairs: int  # that the judge was asked about


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
    """Clusters of many questions at once, from what a judge says of pairs of answers.

    Two answers are equivalent, with `strict`, when each entails the other (Kuhn et al., arXiv 2302.09664); with
    `lenient`, when neither direction is a contradiction and at least one is not neutral (Farquhar et al., Nature 2024);
    with `no_contradiction`, when neither direction is a contradiction. The reverse direction is asked only where the
    forward one leaves this open. Answers that are equal but for surrounding space are never asked about.

    With `first_match` an answer joins the first cluster whose founder it is equivalent to. Only founders are compared,
    so where A and B both match C but not each other, the order decides: C first gives {A, B, C}, A first gives {A, C}
    and {B}. With `components` all that is linked is one cluster: {A, B, C} in every order.

    Args:
        questions: one text per question.
        answers: the answers of each.
        judge: who is asked.
        equivalence: what makes two answers mean the same.
        rule: how pairs make clusters.
    """
    distinct = [list(dict.fromkeys(answer.strip() for answer in group)) for group in answers]
    asked = _Asked(judge)
    texts = [question.strip() for question in questions]
    by_rule = {"first_match": _first_match, "components": _components}[rule]
    homes = _together(texts, [by_rule(group, equivalence) for group in distinct], asked)
    ids = [_numbered([home[a.strip()] for a in group]) for home, group in zip(homes, answers, strict=True)]
    return Clusters(ids, len(asked.known))


def pairwise_relations(
    questions: Sequence[str], answers: Sequence[Sequence[str]], judge: Judge
) -> list[dict[tuple[str, str], Relation]]:
    """The relation of every ordered pair of distinct (stripped) answers, per question, asked in one batch."""
    asked = _Asked(judge)
    wanted = [
        [Pair(question.strip(), *pair) for pair in permutations(dict.fromkeys(a.strip() for a in group), 2)]
        for question, group in zip(questions, answers, strict=True)
    ]
    said = iter(asked.relations([pair for pairs in wanted for pair in pairs]))
    return [{(pair.premise, pair.hypothesis): next(said) for pair in pairs} for pairs in wanted]


class _Asked:
    """A judge and what it has said: a pair that stands in several questions of one text is asked about once."""

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
        turned = self._judge.symmetric and pair.premise > pair.hypothesis
        return Pair(pair.question, pair.hypothesis, pair.premise) if turned else pair


Two = tuple[str, str]
T = TypeVar("T")
# What one question asks step by step, as pairs of its distinct answers; it is told their relations, and ends in a T.
_Steps = Generator[list[Two], list[Relation], T]


def _equivalent(pairs: list[Two], equivalence: Equivalence) -> _Steps[list[bool]]:
    """Whether the two answers of each pair mean the same: two steps, or one where that settles all."""
    forward = yield pairs
    strict = equivalence == "strict"
    is_open = [said == "entailment" if strict else said != "contradiction" for said in forward]
    reverse = [(b, a) for (a, b), left in zip(pairs, is_open, strict=True) if left]
    backward = iter((yield reverse) if reverse else [])
    return [
        left and _both_ways(equivalence, there, next(backward))
        for left, there in zip(is_open, forward, strict=True)
    ]


def _both_ways(equivalence: Equivalence, forward: Relation, backward: Relation) -> bool:
    if equivalence == "strict":
        return forward == backward == "entailment"
    if "contradiction" in (forward, backward):
        return False
    return equivalence == "no_contradiction" or not forward == backward == "neutral"


def _first_match(answers: Sequence[str], equivalence: Equivalence) -> _Steps[dict[str, str]]:
    """Each answer's founder: one founder after the other is compared with all answers that have none yet."""
    home: dict[str, str] = {}
    waiting = list(answers)
    while waiting:
        founder, *others = waiting
        home[founder] = founder
        if others:
            held = yield from _equivalent([(founder, other) for other in others], equivalence)
            home |= {answer: founder for answer, same in zip(others, held, strict=True) if same}
        waiting = [answer for answer in others if answer not in home]
    return home


def _components(answers: Sequence[str], equivalence: Equivalence) -> _Steps[dict[str, str]]:
    """An answer that stands for each answer's component.

    Asked together are pairs none of which could link what another one of them links, or what is linked already.
    """
    home = {answer: answer for answer in answers}
    left = list(combinations(answers, 2))
    while left := [pair for pair in left if _find(home, pair[0]) != _find(home, pair[1])]:
        perhaps = dict(home)
        now = [pair for pair in left if _link(perhaps, *pair)]
        held = yield from _equivalent(now, equivalence)
        for pair, same in zip(now, held, strict=True):
            if same:
                _link(home, *pair)
        asked = set(now)
        left = [pair for pair in left if pair not in asked]
    return {answer: _find(home, answer) for answer in answers}


def _find(home: dict[str, str], answer: str) -> str:
    while home[answer] != answer:
        home[answer] = answer = home[home[answer]]
    return answer


def _link(home: dict[str, str], one: str, other: str) -> bool:
    """Put two answers together; whether they were apart."""
    first, second = _find(home, one), _find(home, other)
    home[second] = first
    return first != second


def _together(questions: Sequence[str], steps: Sequence[_Steps[T]], asked: _Asked) -> list[T]:
    """Take all questions' steps side by side: whatever they ask next is asked at once."""
    ends: dict[int, T] = {}
    told: dict[int, list[Relation] | None] = dict.fromkeys(range(len(steps)))
    while told:
        wanted: dict[int, list[Pair]] = {}
        for index, relations in told.items():
            try:
                pairs = steps[index].send(relations)  # type: ignore[arg-type]  # None begins it
            except StopIteration as end:
                ends[index] = end.value
            else:
                wanted[index] = [Pair(questions[index], *pair) for pair in pairs]
        said = iter(asked.relations([pair for pairs in wanted.values() for pair in pairs]))
        told = {index: [next(said) for _ in pairs] for index, pairs in wanted.items()}
    return [ends[index] for index in range(len(steps))]


def _numbered(names: Sequence[str]) -> list[int]:
    """Each name as a number, by first appearance."""
    seen: dict[str, int] = {}
    return [seen.setdefault(name, len(seen)) for name in names]
