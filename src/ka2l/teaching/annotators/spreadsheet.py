"""Answers by people in a spreadsheet: writes the sheet with the questions, and reads it filled in.

    ka2l annotate runs/mine --export todo.csv    # people fill in the column `answer`
    ka2l annotate runs/mine --import todo.csv

The sheet is CSV in UTF-8 with a byte-order mark: Excel reads a file without one in the local code page, and Google
Sheets and LibreOffice accept the mark. People write one answer, or several separated by | (the first is taught, all
count as correct), or `?` or `skip` if they do not know. The columns `confidence` (0 to 1) and `note` are optional, and
a column `annotator` may be added.
"""

import csv
import io
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ka2l.errors import DataError, bad_rows
from ka2l.questions.question import Question
from ka2l.teaching.annotators.annotation import Label, clean_answers

COLUMNS = ("question_id", "question", "answer", "confidence", "note")
REFUSALS = frozenset({"?", "skip"})
_REFUSED = ("?",)
# The columns that people write in.
_FILLED_IN = ("answer", "confidence", "note", "annotator")
# A spreadsheet program runs a cell that starts with = + - @ (or a tab or return before it) as a formula, and rewrites
# one that looks like a number or a date: the id 12e5 comes back as 1200000. A leading apostrophe prevents both.
# Apostrophes at the start of a text are part of the pattern, so that removing one is the exact inverse of adding one.
_ACTIVE = r"'*\s*(?:[=+\-@＝＋－＠\t\r\n]|\d[\d.,:/eE+-]*\s*\Z)"
_GUARD, _UNGUARD = re.compile(_ACTIVE), re.compile("'" + _ACTIVE)
_FIX = "correct these rows in the sheet, save it as CSV UTF-8 and import again. Nothing was taken from the file."


class ImportedLabels(NamedTuple):
    """Every expected id is in exactly one of `labels`, `empty` and `refused`."""

    labels: dict[str, Label]
    """By question id."""
    empty: list[str]
    """Ids of the questions that are not answered yet."""
    refused: list[str]
    """Ids of the questions answered with `?` or `skip`."""
    outdated: list[str]
    """Ids of rows whose question is not asked any more."""


def export_csv(
    path: Path,
    questions: Sequence[Question],
    ranks: Mapping[str, int] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write the sheet for people to fill in, the question with the lowest rank first.

    Args:
        path: the file; its folder must exist.
        questions: what to ask.
        ranks: rank by id; None: the order of `questions`.
        overwrite: write even if the existing file is filled in.

    Raises:
        DataError: the file exists and has answers, confidences, notes or annotators in it, or is not such a sheet; or
            it cannot be written.
    """
    if not overwrite and path.exists():
        _refuse_if_filled(path)
    if ranks is not None:
        questions = sorted(questions, key=lambda question: ranks[question.id])
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    writer.writerows([_guarded(question.id), _guarded(question.question), "", "", ""] for question in questions)
    _write_atomically(path, buffer.getvalue().encode("utf-8-sig"))


def import_csv(
    path: Path, expected: Mapping[str, str], may_be_outdated: Callable[[str], bool] = lambda _id: False
) -> ImportedLabels:
    """Read a filled-in sheet; rows may be missing, reordered or empty.

    Args:
        path: CSV in UTF-8 with or without byte-order mark, separated by comma, semicolon or tab.
        expected: question text by id, as exported.
        may_be_outdated: whether the question of this id may have been removed or reworded since the sheet was written.
            If it was, its row is skipped and its id is in `outdated`.

    Raises:
        DataError: a row has an unknown id, a changed question, a confidence outside 0 to 1 or too many cells, or two
            rows of one id disagree (all such rows together, with file:line); or the file is empty, not UTF-8, or lacks
            a column. Nothing is taken from such a file.
    """
    by_id: dict[str, Label] = {}
    problems, outdated = [], []
    for line, cells in _read_rows(path):
        id_ = cells["question_id"].strip()
        if may_be_outdated(id_) and _comparable(cells["question"]) != _comparable(expected.get(id_, "")):
            outdated.append(id_)
            continue
        try:
            id_, label = _parse(cells, expected)
            if label is not None and by_id.setdefault(id_, label).answers != label.answers:
                raise ValueError(f"id {id_!r} has another answer in an earlier row")
        except ValueError as problem:
            problems.append(f"{path}:{line}: {problem}")
    if problems:
        raise bad_rows(str(path), problems, _FIX)
    refused = [id_ for id_, label in by_id.items() if label.answers == _REFUSED]
    labels = {id_: label for id_, label in by_id.items() if label.answers != _REFUSED}
    return ImportedLabels(labels, [id_ for id_ in expected if id_ not in by_id], refused, outdated)


def _parse(cells: Mapping[str, str], expected: Mapping[str, str]) -> tuple[str, Label | None]:
    """The id and the label of one row, None if it has no answer; a ValueError says what is wrong with the row."""
    id_ = cells["question_id"] if cells["question_id"] in expected else cells["question_id"].strip()
    if extra := cells.get(""):
        raise ValueError(f"more cells than the header has, from {extra!r} on; put text with a comma in quotes")
    if id_ not in expected:
        raise ValueError(f"unknown question_id {id_!r}")
    if _comparable(cells["question"]) != _comparable(expected[id_]):
        raise ValueError(f"the question of id {id_!r} was changed to {cells['question'][:80]!r}")
    confidence = _confidence(cells.get("confidence", ""))
    answers = clean_answers(cells["answer"].split("|"))
    if not answers:
        return id_, None
    if len(answers) == 1 and answers[0].casefold() in REFUSALS:
        answers = _REFUSED
    return id_, Label(answers, confidence, cells.get("annotator", "").strip() or "file")


def _confidence(cell: str) -> float | None:
    if not cell.strip():
        return None
    try:
        # Spreadsheets of many countries write 0,8.
        value = float(cell.replace(",", "."))
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"confidence {cell!r} is not a number from 0 to 1")
    return value


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column name, without blank rows; cells beyond the header are under ""."""
    text = _read_text(path)
    # Excel separates by semicolon in countries where the comma is the decimal sign.
    delimiter = max(",;\t", key=text.splitlines()[0].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        _check_header(path, header)
        while True:
            # The first line of the row: a cell may have several lines.
            line = rows.line_num + 1
            row = next(rows, None)
            if row is None:
                return
            if any(cell.strip() for cell in row):
                yield line, _by_column(header, row)
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not valid CSV ({error}). Fix: save the sheet as CSV UTF-8 again.") from None


def _by_column(header: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    cells = [cell[1:] if _UNGUARD.match(cell) else cell for cell in row]
    cells += [""] * (len(header) - len(cells))
    return {**dict(zip(header, cells, strict=False)), "": " ".join(cells[len(header) :]).strip()}


def _check_header(path: Path, header: Sequence[str]) -> None:
    missing = [name for name in COLUMNS[:3] if name not in header]
    if missing:
        raise DataError(
            f"{path}:1: no column {', '.join(missing)}; found: {', '.join(header) or 'nothing'}. "
            f"Fix: keep the header of the exported sheet ({','.join(COLUMNS)})."
        )
    if repeated := [name for name, times in Counter(header).items() if name and times > 1]:
        raise DataError(f"{path}:1: column {', '.join(repeated)} occurs twice. Fix: delete one of them.")


def _read_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot read the file ({error.strerror or error}).") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f'{path}:{line}: not UTF-8. Fix: save the sheet as "CSV UTF-8".') from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty. Fix: export the questions again.")
    return text


def _refuse_if_filled(path: Path) -> None:
    """Refuse to overwrite a file that may contain hours of work: anything but a sheet that is not filled in."""
    fix = "Fix: import it first, choose another file name, or allow overwriting."
    try:
        filled = sum(any(cells.get(name, "").strip() for name in _FILLED_IN) for _, cells in _read_rows(path))
    except DataError as error:
        raise DataError(f"{path} exists and cannot be read as a sheet. {fix}\n  {error}") from None
    if filled:
        raise DataError(f"{path} already has {filled} row{'s' if filled != 1 else ''} filled in. {fix}")


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot write the sheet ({error.strerror or error}).") from None


def _guarded(text: str) -> str:
    return f"'{text}" if _GUARD.match(text) else text


def _comparable(text: str) -> str:
    """The text as it is compared: spreadsheet programs change line ends and composed accents, but no words."""
    return " ".join(unicodedata.normalize("NFC", text).split())
