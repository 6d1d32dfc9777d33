"""Answers to decoded questions from whoever can look a question up, such as `ka2l.questions.geonames.resolver.resolve`.

    labels, refused = annotate_decoded(questions, resolve)

The answer of the question it was decoded from is never carried over: a new question has its own. What cannot be
looked up goes to people, as every other question does (`annotators`), or is dropped.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ka2l.questions.question import Question
from ka2l.teaching.annotators.annotation import Label


class Answered(Protocol):
    """What a resolver found."""

    @property
    def answers(self) -> tuple[str, ...]:
        """All that count as right; the first is the one to teach."""


Resolver = Callable[[str], Answered | None]
"""Answers the text of a question, or says None."""


class DecodedLabels(NamedTuple):
    """Every question is in exactly one of the two."""

    labels: dict[str, Label]
    """By id."""
    refused: list[str]
    """Ids of what the resolver does not know, in the order of the questions."""


def annotate_decoded(
    questions: Sequence[Question], resolve: Resolver, annotator: str = "geonames"
) -> DecodedLabels:
    """Look every question up.

    Args:
        questions: decoded ones; their answers, if any, are not looked at.
        resolve: who knows.
        annotator: the name that the labels carry.
    """
    labels: dict[str, Label] = {}
    refused = []
    for question in questions:
        found = resolve(question.question)
        if found is None or not found.answers:
            refused.append(question.id)
        else:
            labels[question.id] = Label(tuple(found.answers), annotator=annotator)
    return DecodedLabels(labels, refused)
