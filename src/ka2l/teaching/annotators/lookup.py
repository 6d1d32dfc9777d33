"""Answers to decoded questions from a function that looks them up, such as `ka2l.questions.geonames.resolver.resolve`.

    labels, refused = annotate_decoded(questions, resolve)

A decoded question never gets the answer of its source question: it asks for something else. Questions that cannot be
looked up are dropped or, as other questions, answered by people (`spreadsheet`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ka2l.questions.question import Question
from ka2l.teaching.annotators.annotation import Label


class Answered(Protocol):
    """The result of a resolver."""

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers that count as correct; the first is taught."""


Resolver = Callable[[str], Answered | None]
"""Answers the text of a question; None if it cannot."""


class DecodedLabels(NamedTuple):
    """Every question is in exactly one of the two fields."""

    labels: dict[str, Label]
    """By question id."""
    refused: list[str]
    """Ids of the questions that the resolver cannot answer, in their order."""


def annotate_decoded(questions: Sequence[Question], resolve: Resolver, annotator: str = "geonames") -> DecodedLabels:
    """Look up every question.

    Args:
        questions: decoded questions; their answers, if any, are not read.
        resolve: answers a question's text.
        annotator: name of the annotator in the labels.
    """
    labels: dict[str, Label] = {}
    refused = []
    for question in questions:
        answered = resolve(question.question)
        if answered is None or not answered.answers:
            refused.append(question.id)
        else:
            labels[question.id] = Label(tuple(answered.answers), annotator=annotator)
    return DecodedLabels(labels, refused)
