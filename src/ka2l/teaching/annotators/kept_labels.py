"""The answers that people have given in a run, in its labels.json.

Usage:

    ka2l annotate runs/mine --import todo.csv     # adds to it
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ka2l.common import atomic_files
from ka2l.common.answer_text import normalize_question
from ka2l.questions.question import Question
from ka2l.teaching.annotators.annotation import Label


def read_labels(path: Path, questions: Sequence[Question]) -> dict[str, Label]:
    """The answers people have given to these questions, by question id; a refusal has no answers."""
    if not path.exists():
        return {}
    kept = atomic_files.read_json(path)
    rows = ((question.id, kept.get(normalize_question(question.question))) for question in questions)
    return {
        id_: Label(tuple(row["answers"]), row["confidence"], row["annotator"]) for id_, row in rows if row is not None
    }


def write_labels(path: Path, labels: Mapping[str, Label], questions: Sequence[Question]) -> None:
    """Add answers, by question id, to those in the file, which is kept whatever changes in the configuration.

    The file's keys are the normalised texts of the questions: ids such as 1, 2, 3 mean other questions in another
    source.
    """
    kept: dict[str, Any] = atomic_files.read_json(path) if path.exists() else {}
    for question in questions:
        if question.id in labels:
            label = labels[question.id]
            kept[normalize_question(question.question)] = {**label._asdict(), "answers": list(label.answers)}
    atomic_files.write_json(path, kept)
