"""The user's own points: a CSV, JSON or JSON Lines file with labels and score; optional: strategy, seed, questions."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ka2l.errors import DataError, bad_rows
from ka2l.questions.columns import shortened

COLUMNS = ("labels", "score", "strategy", "seed", "questions")


class Row(NamedTuple):
    """One measured score.

    `labels` is the total so far, 0 for the base model; `score` is 0 to 1; `questions` is the number of questions it was
    measured on.
    """

    labels: float
    score: float
    strategy: str
    seed: str
    questions: int | None


def read_points(file: Path) -> list[Row]:
    """The points in a file.

    Raises:
        DataError: the file cannot be read, lacks a column, or has bad rows (the message lists the first 20 and the
            count).
    """
    rows: list[Row] = []
    problems: list[str] = []
    seen: dict[tuple[str, float, str], str] = {}
    for place, values in _records(file):
        try:
            row = _row(values)
        except ValueError as error:
            problems.append(f"{file.name}:{place}: {error}")
            continue
        key = (row.strategy, row.labels, row.seed)
        if key in seen:
            problems.append(
                f"{file.name}:{place}: the same labels{', strategy' if row.strategy else ''} and seed as {seen[key]}; "
                "repeated trainings need a column `seed`"
            )
        seen.setdefault(key, place)
        rows.append(row)
    if problems:
        raise bad_rows(
            str(file),
            problems,
            "labels is a number from 0 (the base model), score a share from 0 to 1; strategy, seed and questions are "
            "optional.",
        )
    if not rows:
        raise DataError(f"{file}: no points. Add a row for each measured number of labels: labels, score.")
    return rows


def _records(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of the file, each with its place (a line, or the number of a point)."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}).") from None
    suffix = file.suffix.lower()
    if suffix == ".csv":
        reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
        missing = [name for name in COLUMNS[:2] if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"{file}: no column {' and no column '.join(missing)} in the first line, which is "
                f"{shortened(text.splitlines()[0] if text else '')}. Fix: labels,score and optionally "
                f"strategy,seed,questions."
            )
        for record in reader:
            if any(record.values()):
                yield f"line {reader.line_num}", record
    elif suffix in (".json", ".jsonl"):
        yield from _json_records(file, text, lines=suffix == ".jsonl")
    else:
        raise DataError(f"{file}: points can be read from .csv, .json and .jsonl, not from {suffix or 'no suffix'!r}.")


def _json_records(file: Path, text: str, *, lines: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    parts = [(f"line {i}", line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        if lines:
            found = [(place, json.loads(line)) for place, line in parts]
        else:
            content = json.loads(text)
            content = content.get("points") if isinstance(content, dict) else content
            if not isinstance(content, list):
                raise DataError(f"{file}: not a list of points, and not an object with `points`.")
            found = [(f"point {i}", point) for i, point in enumerate(content, 1)]
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not valid JSON ({error}).") from None
    for place, point in found:
        if not isinstance(point, dict):
            raise DataError(f'{file}: {place} is not an object such as {{"labels": 100, "score": 0.4}}.')
        yield place, point


def _row(values: Mapping[str, Any]) -> Row:
    labels, score = _number(values, "labels"), _number(values, "score")
    if labels < 0:
        raise ValueError(f"labels is {labels:g}, below 0")
    if not 0 <= score <= 1:
        hint = f"; if it is per cent, write {score / 100:g}" if 1 < score <= 100 else ""
        raise ValueError(f"score is {score:g}, not between 0 and 1{hint}")
    questions = None
    if values.get("questions") not in (None, ""):
        questions = int(_number(values, "questions"))
        if questions < 1:
            raise ValueError(f"questions is {questions}, below 1")
    strategy, seed = (str("" if values.get(name) is None else values[name]) for name in ("strategy", "seed"))
    return Row(labels, score, strategy.strip(), seed.strip(), questions)


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    if value is None or value == "":
        raise ValueError(f"no {name}")
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is not a number: {shortened(value)}")
    return number
