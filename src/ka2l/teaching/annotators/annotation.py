"""An answer to a question with who gave it, how sure they were and what it cost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ka2l.questions.question import Question


class Annotation(NamedTuple):
    """One labelled question: answers[0] is taught, all of them count as right."""

    question_id: str
    answers: tuple[str, ...]
    annotator: str
    confidence: float | None
    cost: float


class AnnotationResult(NamedTuple):
    """The annotations in the order of the questions, and the ids of questions nobody has answered."""

    annotations: list[Annotation]
    missing: list[str]


class Label(NamedTuple):
    """What one person wrote about one question."""

    answers: tuple[str, ...]
    confidence: float | None = None
    annotator: str = "file"


def annotate_gold(questions: Sequence[Question], cost_per_label: float) -> AnnotationResult:
    """Label each question with the answers it came with."""
    labels = {question.id: Label(question.answers, annotator="gold") for question in questions}
    return annotate_from_labels(questions, labels, cost_per_label)


def annotate_from_labels(
    questions: Sequence[Question], labels: Mapping[str, Label | Sequence[str]], cost_per_label: float
) -> AnnotationResult:
    """Label each question with the answers in `labels`: those of `import_csv`, or plain lists from anywhere else."""
    annotations, missing = [], []
    for question in questions:
        given = labels.get(question.id, ())
        label = (
            given if isinstance(given, Label) else Label((given,) if isinstance(given, str) else tuple(given))
        )
        if answers := _clean(label.answers):
            annotations.append(
                Annotation(question.id, answers, label.annotator, label.confidence, cost_per_label)
            )
        else:
            missing.append(question.id)
    return AnnotationResult(annotations, missing)


def _clean(answers: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(stripped for answer in answers if (stripped := answer.strip())))
