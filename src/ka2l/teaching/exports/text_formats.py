"""What a run teaches as JSON lines, chat messages and CSV."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Messages = Callable[[str], tuple[dict[str, str], ...]]


class Taught(NamedTuple):
    """A question that is taught; answers[0] is what the model learns to say."""

    id: str
    question: str
    answers: tuple[str, ...]
    source: str  # bought, decoded, or replayed: known, with the model's own answer


def _as_jsonl(taught: Sequence[Taught], _messages: Messages) -> str:
    return _lines(each._asdict() for each in taught)


def _as_chat(taught: Sequence[Taught], messages: Messages) -> str:
    return _lines(
        {"messages": [*messages(each.question), {"role": "assistant", "content": each.answers[0]}]}
        for each in taught
    )


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _as_csv(taught: Sequence[Taught], _messages: Messages) -> str:
    """As KA2L reads questions: several answers with | between them, or as a JSON list where one of them has a |."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(Taught._fields)
    for each in taught:
        plain = not any("|" in answer or answer.lstrip().startswith("[") for answer in each.answers)
        answers = "|".join(each.answers) if plain else json.dumps(each.answers, ensure_ascii=False)
        writer.writerow([each.id, each.question, answers, each.source])
    return buffer.getvalue()


_WRITERS: dict[str, tuple[str, Callable[[Sequence[Taught], Messages], str]]] = {
    "jsonl": (".jsonl", _as_jsonl),
    "csv": (".csv", _as_csv),
    "chat": (".chat.jsonl", _as_chat),
}
