"""Read and check a file of answers made elsewhere, with one JSON object per line, for `ka2l import`.

    {"question": "Who wrote The Leopard?", "answers": ["Lampedusa", "Verga"], "gold": ["Tomasi di Lampedusa"]}

`id` or `question` identifies the question; `answers` are the samples at temperature 1, as text or as
{"text": …, "token_logprobs": […], "finish_reason": …}; `low_temperature_answer`, in the same forms, is the answer that
is judged right or wrong. `gold` (text or list) and `group` are used if the questions come from this file too. A number
as id, gold or group is read as text. Other keys are ignored.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ka2l.common.answer_text import normalize_question
from ka2l.errors import DataError, bad_rows
from ka2l.models.interface import Answer

FIX = "correct or remove these lines; nothing was imported."
# A log-probability higher than this is not 0 with a rounding error. In nats.
_HIGHEST_LOGPROB = 1e-3


class AnsweredRow(NamedTuple):
    """One line of the file."""

    # file:line
    where: str
    id: str | None
    question: str | None
    answers: tuple[Answer, ...]
    low: Answer | None
    gold: tuple[str, ...]
    group: str


def read_answers_file(path: Path, problems: list[str]) -> list[AnsweredRow]:
    """The valid rows. For each of the others, one line that says what is wrong is added to `problems`.

    Raises:
        DataError: the file cannot be read, or has no rows.
    """
    _check_lines(path)
    rows: list[AnsweredRow] = []
    first: dict[tuple[str, str], str] = {}
    for where, text in _lines(path):
        try:
            row = _row(where, text)
        except (ValueError, OverflowError) as error:
            # OverflowError: an integer that is too large for a float.
            problems.append(f"{where}: {error}")
            continue
        names = [("id", row.id)] if row.id is not None else []
        names += [("question", normalize_question(row.question))] if row.question is not None else []
        earlier = next((first[kind, name] for kind, name in names if name and (kind, name) in first), None)
        if earlier is not None:
            problems.append(f"{where}: this question is already in {earlier}")
            continue
        first.update(((kind, name), where) for kind, name in names if name)
        rows.append(row)
    if not rows and not problems:
        raise DataError(f"{path}: the file has no answers.")
    return rows


def number_of_samples(rows: list[AnsweredRow], wanted: int | None, problems: list[str]) -> int:
    """How many samples each question has: `wanted`, or the number that most rows have. Rows without that many are
    problems.

    Entropies of different numbers of answers cannot be compared: the entropy of N answers is at most ln N.
    """
    counts = Counter(len(row.answers) for row in rows)
    usual = max(counts, key=lambda count: (counts[count], count), default=0)
    n = wanted or usual
    for row in rows:
        count = len(row.answers)
        if wanted is not None and count < wanted:
            problems.append(f"{row.where}: {count} answers, but sample.n={wanted} asks for {wanted}")
        elif wanted is None and count != usual:
            problems.append(
                f"{row.where}: {count} answers, but most rows have {usual}; "
                f"sample.n={min(counts)} takes the first {min(counts)} of every row"
            )
    return n


def refuse(path: Path, problems: list[str]) -> None:
    """Raise one error for all problems, if there are any."""
    if problems:
        # Each problem begins with its file:line. They were found in several passes; the message is in the order of
        # lines.
        start = len(path.name) + 1
        in_order = sorted(problems, key=lambda problem: int(problem[start:].partition(":")[0]))
        raise bad_rows(str(path), in_order, FIX)


def _check_lines(path: Path) -> None:
    """Refuse a file that is one JSON document, or several spread over many lines: every line would be a bad row."""
    _, first = next(_lines(path), ("", ""))
    text = first.strip()
    unfinished = False
    try:
        json.loads(text or "null")
    except json.JSONDecodeError as error:
        # Valid JSON up to the end of the line, where it is not complete.
        unfinished = error.pos >= len(text)
    except (ValueError, RecursionError):
        # Reported as a bad row later.
        pass
    if text.startswith("[") or unfinished:
        filter_ = "'.[]'" if text.startswith("[") else "."
        raise DataError(
            f"{path}: this is one JSON document, not one object per line. "
            f"Fix: jq -c {filter_} {path.name} > lines.jsonl; nothing was imported."
        )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its file:line."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path.name}:{number}", line
    except OSError as error:
        raise DataError(f"{path}: cannot read the answers ({error.strerror or error}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}).") from None


def _row(where: str, text: str) -> AnsweredRow:
    """One line as a row.

    Raises:
        ValueError, OverflowError: the line is not valid; the message says why.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError("not a JSON object {…}")
    if "\\ud" in text.lower() and any("\ud800" <= char <= "\udfff" for char in json.dumps(values, ensure_ascii=False)):
        raise ValueError("half a surrogate pair, which no file can store")
    identifier = _name("id", _plain(values.get("id")))
    question = _name("question", values.get("question"))
    if identifier is None and question is None:
        raise ValueError("neither `id` nor `question`: these answers belong to no question")
    low = values.get("low_temperature_answer")
    return AnsweredRow(
        where,
        identifier,
        question,
        _answers(values.get("answers")),
        None if low is None else _answer(low, "low_temperature_answer"),
        _gold(values.get("gold")),
        _group(values.get("group")),
    )


def _plain(value: Any) -> Any:
    """A number as text, anything else as it is."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if integer or (isinstance(value, float) and math.isfinite(value)) else value


def _group(value: Any) -> str:
    text = "" if value is None else _plain(value)
    if not isinstance(text, str):
        raise ValueError(f"`group` is {_short(value)}, neither a text nor a number")
    return text.strip()


def _name(key: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ValueError(f"`{key}` is {_short(value)}, not a text")
    return None if value is None else value.strip()


def _answers(values: Any) -> tuple[Answer, ...]:
    if values is None:
        raise ValueError("no `answers`")
    if not isinstance(values, list):
        raise ValueError(f"`answers` is {_short(values)}, not a list")
    if len(values) < 2:
        raise ValueError(f"{len(values)} answer{'s' * (len(values) != 1)}; semantic entropy needs at least 2")
    return tuple(_answer(value, f"answer {number}") for number, value in enumerate(values, start=1))


def _answer(value: Any, name: str) -> Answer:
    given = {"text": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or not isinstance(given.get("text"), str):
        raise ValueError(f"{name} is {_short(value)}, neither a text nor an object with `text`")
    text, reason, logprobs = given["text"].strip(), given.get("finish_reason"), given.get("token_logprobs")
    if not text and reason is None:
        # A failed request looks the same as an empty answer of the model; only the latter is an answer.
        raise ValueError(f'{name} is blank; if the model ended at once, give {{"text": "", "finish_reason": "stop"}}')
    if reason is not None and not isinstance(reason, str):
        raise ValueError(f"finish_reason of {name} is {_short(reason)}, not a text")
    if logprobs is not None and not isinstance(logprobs, list):
        raise ValueError(f"token_logprobs of {name} are {_short(logprobs)}, not a list of numbers")
    for logprob in logprobs or ():
        number = isinstance(logprob, int | float) and not isinstance(logprob, bool) and math.isfinite(logprob)
        if not number or logprob > _HIGHEST_LOGPROB:
            raise ValueError(f"token_logprobs of {name} hold {logprob!r}; natural logs of probabilities are 0 or less")
    return Answer(text, [min(float(value), 0.0) for value in logprobs or ()], reason or "unknown")


def _gold(value: Any) -> tuple[str, ...]:
    given = [] if value is None else value if isinstance(value, list) else [value]
    values = [_plain(one) for one in given]
    if not all(isinstance(text, str) and text.strip() for text in values):
        raise ValueError(f"`gold` is {_short(value)}, neither a text nor a list of texts")
    return tuple(dict.fromkeys(text.strip() for text in values))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"
