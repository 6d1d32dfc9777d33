"""Map the columns of a row of any source to a question (`questions.columns` of the recipe).

Without a mapping, answers are read from `answers` and `answer` (text, list, or the objects of TriviaQA and SQuAD), from
`options` with `answer_index`, and from MedMCQA's opa–opd with cop. Scalar columns that are not mapped go into `meta`.
"""

import datetime
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ka2l.common.answer_text import normalize_question
from ka2l.errors import DataError
from ka2l.questions.question import Question
from ka2l.questions.settings import QuestionsConfig

ROLES = ("probe", "pool", "eval", "decoder", "shot")
_MEDMCQA = ("opa", "opb", "opc", "opd")
_OWN_COLUMNS = {
    "id",
    "question",
    "answers",
    "answer",
    "options",
    "answer_index",
    "rewordings",
    "cop",
    *_MEDMCQA,
}
_ABSENT: Any = object()


class RowMapper:
    """Turns a row into a question by `config.columns`, and remembers which columns occurred.

    Args:
        config: the section `questions`.
    """

    def __init__(self, config: QuestionsConfig) -> None:
        self.columns = config.columns
        self.lists_are_text = config.source.lower().endswith((".csv", ".tsv"))
        c = self.columns
        single = (c.question, c.id, c.group, c.role, c.rewordings, c.answer_index)
        self._mapped = [name for name in (*single, *(c.answers or ()), *(c.options or ())) if name]
        self._used = _OWN_COLUMNS | {name.partition(".")[0] for name in self._mapped} | set(self._mapped)
        # All columns that occurred, in order, and the mapped ones among them.
        self._met: dict[str, None] = {}
        self._found: set[str] = set()

    def __call__(self, values: Mapping[str, Any]) -> Question:
        """The question in this row.

        Raises:
            ValueError: everything that is wrong in the row.
        """
        self._met.update(dict.fromkeys(values))
        self._found.update(name for name in self._mapped if _lookup(values, name) is not _ABSENT)
        wrong: list[str] = []
        parts: dict[str, Any] = {}
        for name, read in (
            ("question", self._question),
            ("answers", self._answers),
            ("id", self._id),
            ("group", self._group),
            ("role", self._role),
            ("meta", self._meta),
        ):
            try:
                parts[name] = read(values)
            except ValueError as error:
                wrong.append(str(error))
        if wrong:
            raise ValueError("; ".join(wrong))
        key = normalize_question(parts["question"])
        parts["id"] = parts["id"] or "q" + hashlib.sha256(key.encode()).hexdigest()[:16]
        return Question(**{**parts, "group": parts["group"] or key})

    def check_columns(self, source: str) -> None:
        """Raise DataError if a mapped column was in none of the rows, and name the columns that exist."""
        missing = [name for name in self._mapped if name not in self._found]
        if self._met and missing:
            raise DataError(
                f"{source}: no column {', '.join(map(repr, missing))}. Columns that exist: {', '.join(self._met)}. "
                "Fix: questions.columns (dotted names select nested fields)."
            )

    def _question(self, values: Mapping[str, Any]) -> str:
        value = _lookup(values, self.columns.question)
        if value is _ABSENT or value is None:
            raise ValueError(f"no {self.columns.question!r}")
        if not isinstance(value, str):
            raise ValueError(f"{self.columns.question!r} is {kind_of(value)}, not text: {shortened(value)}")
        if not normalize_question(value):
            raise ValueError(f"{self.columns.question!r} is empty: {shortened(value)}")
        return _text(value, self.columns.question)

    def _answers(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        c = self.columns
        if c.answers is not None:
            return tuple(dict.fromkeys(text for name in c.answers for text in self._list(values, name)))
        if c.options or c.answer_index:
            return self._chosen(values, c.options or ["options"], c.answer_index or "answer_index")
        for name in ("answers", "answer"):
            if found := self._list(values, name):
                return tuple(dict.fromkeys(found))
        if "options" in values and "answer_index" in values:
            return self._chosen(values, ["options"], "answer_index")
        return self._chosen(values, _MEDMCQA, "cop") if "cop" in values and "opa" in values else ()

    def _chosen(self, values: Mapping[str, Any], columns: Iterable[str], index_column: str) -> tuple[str, ...]:
        """The right option; without an index, or with −1 (unlabelled rows on the Hub), there is no answer."""
        options = [text for name in columns for text in self._list(values, name, keep_blank=True)]
        index = _lookup(values, index_column)
        if index is _ABSENT or index is None or index == "":
            return ()
        try:
            place = int(index) if not isinstance(index, bool) and float(index) == int(index) else None
        except (TypeError, ValueError, OverflowError):
            place = None
        if place == -1:
            return ()
        if place is None or not 0 <= place < len(options):
            raise ValueError(f"{index_column!r} is not an index from 0 to {len(options) - 1}: {shortened(index)}")
        return (options[place],) if options[place] else ()

    def _id(self, values: Mapping[str, Any]) -> str:
        name = self.columns.id or "id"
        value = _lookup(values, name)
        if self.columns.id and (value is _ABSENT or value is None or value == ""):
            raise ValueError(f"no {name!r}")
        return "" if value is _ABSENT or value is None else _text(value, name)

    def _group(self, values: Mapping[str, Any]) -> str:
        value = _lookup(values, self.columns.group) if self.columns.group else None
        return "" if value is _ABSENT or value is None else _text(value, self.columns.group or "")

    def _role(self, values: Mapping[str, Any]) -> str:
        if self.columns.role is None:
            return ""
        value = _lookup(values, self.columns.role)
        if value not in ROLES:
            got = "nothing" if value is _ABSENT else shortened(value)
            raise ValueError(f"{self.columns.role!r} is {got}, allowed are {', '.join(ROLES)}")
        return str(value)

    def _meta(self, values: Mapping[str, Any]) -> dict[str, Any]:
        meta: dict[str, Any] = {}
        for name, value in values.items():
            if name in self._used:
                continue
            if isinstance(value, datetime.date):
                meta[name] = value.isoformat()
            elif isinstance(value, str) and value.strip():
                meta[name] = _text(value, name)
            elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
                meta[name] = value
        if rewordings := self._list(values, self.columns.rewordings or "rewordings"):
            meta["rewordings"] = rewordings
        return meta

    def _list(self, values: Mapping[str, Any], name: str, keep_blank: bool = False) -> list[str]:
        value = _lookup(values, name)
        if self.lists_are_text and isinstance(value, str):
            value = _split(value, name)
        return [text for text in _texts(value, name) if text or keep_blank]


def _lookup(values: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of a field in nested objects by a dotted name; _ABSENT if there is none."""
    if name in values:
        return values[name]
    head, dot, rest = name.partition(".")
    inner = values.get(head, _ABSENT) if dot else _ABSENT
    return _lookup(inner, rest) if isinstance(inner, Mapping) else None if inner is None else _ABSENT


def _split(value: str, name: str) -> Any:
    """Read a list in one CSV field: `Paris|Paree`, or JSON `["Paris", "Paree"]`."""
    if not value.lstrip().startswith("["):
        return value.split("|")
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(
            f'{name!r} starts with [ but is not a JSON list such as ["a", "b"]: {shortened(value)}'
        ) from None


def _texts(value: Any, name: str) -> list[str]:
    """All texts in a value: a text, a list, or an object of SQuAD or TriviaQA."""
    if value is _ABSENT or value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item, name)]
    # SQuAD: {"text": […]}; TriviaQA: {"value": …, "aliases": […]}.
    if isinstance(value, Mapping):
        if "text" in value:
            return _texts(value["text"], name)
        if "value" in value:
            return _texts(value["value"], name) + _texts(value.get("aliases"), name)
        raise ValueError(f"{name!r} is an object without `text` or `value`: {shortened(value)}")
    return [_text(value, name)]


def _text(value: Any, name: str) -> str:
    """A text, or a number as text (answers and ids are often years or counts)."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name!r} is {kind_of(value)}, not text: {shortened(value)}")
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(f"{name!r} has half a surrogate pair, which cannot be stored as UTF-8: {shortened(value)}")
    return text


def kind_of(value: Any) -> str:
    """The type of a JSON value in words, for messages."""
    names = {
        bool: "true/false",
        dict: "an object",
        list: "a list",
        str: "text",
        type(None): "null",
        bytes: "bytes",
    }
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def shortened(value: Any, length: int = 80) -> str:
    """A value as it is shown in messages, at most `length` characters."""
    shown = str(value) if isinstance(value, Exception) else repr(value)
    # Half a surrogate pair cannot be printed.
    if "\\ud" in ascii(value):
        shown = ascii(value)
    return shown if len(shown) <= length else shown[: length - 1] + "…"
