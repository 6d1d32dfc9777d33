"""Labels and annotations: the answers to a question, the annotator, their confidence and the cost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ka2l.questions.question import Question


class Annotation(NamedTuple):
    """One labelled question: answers[0] is taught, all of them count as correct."""

    question_id: str
    answers: tuple[str, ...]
    annotator: str
    confidence: float | None
    """From 0 to 1; None: not given."""
    cost: float
    """In any currency."""


class AnnotationResult(NamedTuple):
    """The annotations in the order of the questions, and the ids of the questions without an answer."""

    annotations: list[Annotation]
    missing: list[str]


class Label(NamedTuple):
    """The answers of one annotator to one question."""

    answers: tuple[str, ...]
    confidence: float | None = None
    annotator: str = "file"


def annotate_gold(questions: Sequence[Question], cost_per_label: float) -> AnnotationResult:
    """Annotate each question with its gold answers."""
    labels = {question.id: Label(question.answers, annotator="gold") for question in questions}
    return annotate_from_labels(questions, labels, cost_per_label)


def annotate_from_labels(
    questions: Sequence[Question], labels: Mapping[str, Label | Sequence[str]], cost_per_label: float
) -> AnnotationResult:
    """Annotate each question with its answers in `labels`.

    Args:
        questions: what is to be annotated.
        labels: by question id, as `import_csv` reads them, or plain lists of answers.
        cost_per_label: cost of each annotation, in any currency.
    """
    annotations, missing = [], []
    for question in questions:
        given = labels.get(question.id, ())
        label = given if isinstance(given, Label) else Label((given,) if isinstance(given, str) else tuple(given))
        if answers := clean_answers(label.answers):
            annotations.append(Annotation(question.id, answers, label.annotator, label.confidence, cost_per_label))
        else:
            missing.append(question.id)
    return AnnotationResult(annotations, missing)


def clean_answers(answers: Iterable[str]) -> tuple[str, ...]:
    """The answers without white space around them, without empty ones and repetitions, in their order."""
    return tuple(dict.fromkeys(stripped for answer in answers if (stripped := answer.strip())))
