"""One question, and questions as an Arrow table."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ka2l.common.answer_text import normalize_question

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("id", "question", "answers", "role", "group", "meta")


# The role of a question that was decoded from a hidden state.
DECODED = "decoded"


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `answers` are all accepted gold answers, empty where nobody knows yet."""

    id: str
    question: str
    answers: tuple[str, ...] = ()
    role: str = ""
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rewordings(self) -> tuple[str, ...]:
        """Other wordings of the same question, never asked before teaching."""
        return tuple(self.meta.get("rewordings", ()))


def to_table(questions: Sequence[Question]) -> "pa.Table":
    """Columns id, question, answers (list of text), role, group, meta (JSON text): `questions.parquet`."""
    import pyarrow as pa

    texts = pa.list_(pa.string())
    kinds = [(name, texts if name == "answers" else pa.string()) for name in _COLUMNS]
    rows = [{name: getattr(q, name) for name in _COLUMNS} | {"meta": _meta_text(q)} for q in questions]
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))


def from_table(table: "pa.Table") -> list[Question]:
    """The questions that `to_table` wrote."""
    return [
        Question(**{**row, "answers": tuple(row["answers"]), "meta": json.loads(row["meta"])})
        for row in table.to_pylist()
    ]


def _group(question: Question) -> str:
    return question.group or normalize_question(question.question)


def rank(seed: int, purpose: str, name: str) -> bytes:
    """Place of a name in an order that depends on the seed and on what it is for, and not on the order of rows."""
    return hashlib.sha256(f"{seed}\n{purpose}\n{name}".encode()).digest()


def _meta_text(question: Question) -> str:
    return json.dumps(dict(question.meta), ensure_ascii=False, sort_keys=True)
