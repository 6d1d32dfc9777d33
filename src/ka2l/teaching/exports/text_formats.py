"""The training data of a run as JSON lines, CSV and chat messages.

    ka2l export runs/mine --to FOLDER --format jsonl

`FORMATS` lists the formats by the value of --format.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Messages = Callable[[str], tuple[dict[str, str], ...]]
"""The teaching prompt of a question as chat messages."""


class TrainingQuestion(NamedTuple):
    """A question that the model is trained on; answers[0] is the answer it is trained to give."""

    id: str
    question: str
    answers: tuple[str, ...]
    source: str
    """bought, decoded, or replayed (a known question with the model's own answer)."""


class TextFormat(NamedTuple):
    """A format of training data in one text file."""

    suffix: str
    """Of the file's name."""
    write: Callable[[Sequence[TrainingQuestion], Messages], str]
    """The content of the file."""


def as_jsonl(questions: Sequence[TrainingQuestion], _messages: Messages) -> str:
    """One JSON object a line, with the fields of `TrainingQuestion`."""
    return _json_lines(each._asdict() for each in questions)


def as_csv(questions: Sequence[TrainingQuestion], _messages: Messages) -> str:
    """CSV that KA2L can load as questions: several answers separated by |, or a JSON list if an answer has a |."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(TrainingQuestion._fields)
    for each in questions:
        plain = not any("|" in answer or answer.lstrip().startswith("[") for answer in each.answers)
        answers = "|".join(each.answers) if plain else json.dumps(each.answers, ensure_ascii=False)
        writer.writerow([each.id, each.question, answers, each.source])
    return buffer.getvalue()


def as_chat(questions: Sequence[TrainingQuestion], messages: Messages) -> str:
    """One conversation a line, in the format of fine-tuning services: the teaching prompt, then the first answer."""
    return _json_lines(
        {"messages": [*messages(each.question), {"role": "assistant", "content": each.answers[0]}]}
        for each in questions
    )


FORMATS = {
    "jsonl": TextFormat(".jsonl", as_jsonl),
    "csv": TextFormat(".csv", as_csv),
    "chat": TextFormat(".chat.jsonl", as_chat),
}


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
