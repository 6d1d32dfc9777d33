"""The answers people have given to a run, in labels.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ka2l.common import atomic_files
from ka2l.common.answer_text import normalize_question
from ka2l.questions.question import Question
from ka2l.teaching.annotators.annotation import Label


def read_labels(path: Path, questions: Sequence[Question]) -> dict[str, Label]:
    """Answers people have given to these questions, by question id; an empty list of answers is a refusal."""
    if not path.exists():
        return {}
    kept = atomic_files.read_json(path)
    found = ((question.id, kept.get(normalize_question(question.question))) for question in questions)
    return {
        i: Label(tuple(row["answers"]), row["confidence"], row["annotator"])
        for i, row in found
        if row is not None
    }


def write_labels(path: Path, labels: Mapping[str, Label], questions: Sequence[Question]) -> None:
    """Add the answers people have given, by question id, to those kept; this file outlives every change of the config.

    It is keyed by the question's normalised text: ids such as 1, 2, 3 mean something else in another file.
    """
    kept: dict[str, Any] = atomic_files.read_json(path) if path.exists() else {}
    for question in questions:
        if question.id in labels:
            label = labels[question.id]
            kept[normalize_question(question.question)] = {**label._asdict(), "answers": list(label.answers)}
    atomic_files.write_json(path, kept)
