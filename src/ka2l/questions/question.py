"""One question, questions as an Arrow table, and the order in which they are drawn."""

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
    """One question. `answers` are all accepted gold answers, empty if none is known yet."""

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

    @property
    def fact(self) -> str:
        """Name of the fact that the question asks for: its group, or its normalised wording if it has no group.

        Every question of a run has a group. Only questions made by hand can lack one.
        """
        return self.group or normalize_question(self.question)


def to_table(questions: Sequence[Question]) -> "pa.Table":
    """Columns id, question, answers (list of text), role, group, meta (JSON text): `questions.parquet`."""
    import pyarrow as pa

    texts = pa.list_(pa.string())
    kinds = [(name, texts if name == "answers" else pa.string()) for name in _COLUMNS]
    rows = [{name: getattr(q, name) for name in _COLUMNS} | {"meta": meta_text(q)} for q in questions]
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))


def from_table(table: "pa.Table") -> list[Question]:
    """The questions that `to_table` wrote."""
    return [
        Question(**{**row, "answers": tuple(row["answers"]), "meta": json.loads(row["meta"])})
        for row in table.to_pylist()
    ]


def meta_text(question: Question) -> str:
    """`meta` as JSON text with sorted keys, the same for equal values."""
    return json.dumps(dict(question.meta), ensure_ascii=False, sort_keys=True)


def rank(seed: int, *names: str) -> bytes:
    """Sort key of a name: an order that depends on the seed and the purpose, and not on the order of rows.

    Args:
        seed: of the run or of one stage.
        names: the purpose of the draw, then what is drawn (a question's id or wording, or a group).

    Returns:
        SHA-256 of the seed and the names, one a line.
    """
    return hashlib.sha256("\n".join((str(seed), *names)).encode()).digest()
