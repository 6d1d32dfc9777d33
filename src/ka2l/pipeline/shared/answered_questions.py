"""The probe questions that were answered, with their answers and their split: the input of `measure`."""

from dataclasses import dataclass
from typing import Any

from ka2l.common.answer_text import is_correct
from ka2l.knowledge.group_splits import TRAIN, assign_split
from ka2l.pipeline.context import Context
from ka2l.pipeline.shared.artifact_tables import read_answers
from ka2l.questions.question import Question

Row = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """The answered questions as parallel lists, one item per question."""

    questions: list[Question]
    # The N sampled answers: text, token_logprobs, finish_reason.
    samples: list[list[Row]]
    # The low-temperature answer.
    low: list[Row | None]
    split: list[str]
    # Whether the low-temperature answer is right; None without such an answer or without a gold answer.
    correct: list[bool | None]

    @property
    def ids(self) -> list[str]:
        """The questions' ids."""
        return [question.id for question in self.questions]

    @property
    def question_texts(self) -> list[str]:
        """The questions' texts."""
        return [question.question for question in self.questions]

    @property
    def groups(self) -> list[str]:
        """The questions' groups."""
        return [question.group for question in self.questions]

    @property
    def answer_texts(self) -> list[list[str]]:
        """The sampled answers' texts."""
        return [[str(row["text"]) for row in rows] for rows in self.samples]

    @property
    def training(self) -> list[int]:
        """Indices of the questions in the training split."""
        return [index for index, name in enumerate(self.split) if name == TRAIN]


def answered_questions(context: Context) -> Answered:
    """The run's probe questions that have answers, with these answers."""
    config = context.config
    answers = read_answers(context.run.file("answers"), config.sample.n)
    questions = [question for question in context.questions("probe") if question.id in answers]
    # Imported answers may lack the low-temperature one. A sample at temperature 1 is not used instead, since it
    # measures something else; then the question is neither right nor wrong.
    low = [answers[question.id].get(0) for question in questions]
    correct = [
        is_correct(row["text"], question.answers, config.measure.correct) if row and question.answers else None
        for question, row in zip(questions, low, strict=True)
    ]
    return Answered(
        questions,
        [[row for number, row in answers[question.id].items() if number] for question in questions],
        low,
        assign_split([question.group for question in questions], config.measure.split, config.seed),
        correct,
    )


def log_probabilities(row: Row | None) -> list[float] | None:
    """The answer's token log-probabilities, in nats; None if there is no answer or it has none."""
    if row is None or (row["text"] and not row["token_logprobs"]):
        return None
    return list(row["token_logprobs"])
