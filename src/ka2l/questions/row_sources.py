"""Read rows from files, dataset folders and the Hub; `columns.py` turns them into questions.

Try it on a file of your own:

    ka2l run --questions my.csv questions.columns.question=stem --dry-run

A broken row does not stop the reading. It is added to a list, and the caller reports all broken rows together.
"""

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ka2l.errors import DataError
from ka2l.questions.columns import kind_of, shortened
from ka2l.questions.settings import QuestionsConfig

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Row(NamedTuple):
    """A row and its place: `line 3` (JSONL, from 1) or `row 3` (from 1; in CSV files the header is row 1)."""

    where: str
    values: dict[str, Any]


def read_rows(config: QuestionsConfig, problems: list[str]) -> Iterator[Row]:
    """Yield the rows of `config.source`.

    Args:
        config: the section `questions`.
        problems: a description of each row that cannot be read is appended here, in order.

    Raises:
        DataError: nothing can be read: no such file, an unknown kind of file, no network, no such split.
    """
    path = Path(config.source).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        return _dataset_rows(config, path)
    if suffix not in _READERS and not path.exists() and _HUB_NAME.fullmatch(config.source):
        return _dataset_rows(config, None)
    if not path.is_file():
        raise DataError(f"{config.source}: no such file or folder. Fix questions.source (relative to {Path.cwd()}).")
    if suffix not in _READERS:
        raise DataError(f"{path}: unknown kind of file {suffix!r}. Known: {', '.join(_READERS)}, a dataset folder.")
    rows: Iterator[Row] = _READERS[suffix](path, problems)
    return rows


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None


def _lines(path: Path, problems: list[str]) -> Iterator[tuple[int, str, bool]]:
    """Number, text and validity of each line; a line that is not UTF-8 is reported, and its bad bytes are replaced."""
    offset = 0
    with _open(path) as handle:
        for number, raw in enumerate(handle, start=1):
            if number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"{path}: the file is UTF-16. Fix: save it as UTF-8.")
            body = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                yield number, body.decode("utf-8"), True
            except UnicodeDecodeError as error:
                at = offset + len(raw) - len(body) + error.start
                problems.append(f"line {number}: not UTF-8: byte 0x{body[error.start]:02x} at offset {at} of the file")
                yield number, body.decode("utf-8", errors="replace"), False
            offset += len(raw)


def _jsonl_rows(path: Path, problems: list[str]) -> Iterator[Row]:
    for number, text, valid in _lines(path, problems):
        if not valid or not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: not JSON ({error}): {shortened(text.strip())}")
            continue
        if isinstance(values, dict):
            yield Row(f"line {number}", values)
        else:
            problems.append(f"line {number}: not an object {{…}} but {kind_of(values)}: {shortened(text.strip())}")


def _json_rows(path: Path, problems: list[str]) -> Iterator[Row]:
    text = "".join(line for _, line, _ in _lines(path, problems))
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as error:
        # Often a .json file is JSONL, with one object per line. This error is specific to that.
        if error.msg == "Extra data":
            problems.clear()
            yield from _jsonl_rows(path, problems)
        else:
            problems.append(f"line {error.lineno}: not JSON ({error})")
        return
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: this JSON cannot be read ({error}).") from None
    lists = [value for value in loaded.values() if isinstance(value, list)] if isinstance(loaded, dict) else [loaded]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise DataError(f"{path}: expected a list of objects [{{…}}, …], or an object that contains one such list.")
    for number, values in enumerate(lists[0], start=1):
        if isinstance(values, dict):
            yield Row(f"row {number}", values)
        else:
            problems.append(f"row {number}: not an object {{…}} but {kind_of(values)}: {shortened(values)}")


def _csv_rows(path: Path, problems: list[str]) -> Iterator[Row]:
    dialect = "excel-tab" if path.suffix.lower() == ".tsv" else "excel"
    reader = csv.reader((text for _, text, _ in _lines(path, problems)), dialect, strict=True)
    header: list[str] = []
    number = 0
    while True:
        number += 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            problems.append(
                f"row {number}: not {path.suffix[1:].upper()} ({error}, line {reader.line_num} of the file)"
            )
            continue
        if number == 1:
            header = [name.strip() for name in fields]
            if len(set(header)) != len(header):
                raise DataError(f"{path}: row 1: the header names a column twice: {', '.join(header)}.")
        elif fields and len(fields) != len(header):
            problems.append(f"row {number}: {len(fields)} fields, the header has {len(header)}: {shortened(fields)}")
        elif fields:
            yield Row(f"row {number}", dict(zip(header, fields, strict=True)))


def _parquet_rows(path: Path, problems: list[str]) -> Iterator[Row]:  # noqa: ARG001
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(4096):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"row {number}", values)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as Parquet after row {number} ({shortened(error)}).") from None


_READERS = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
}


def _dataset_rows(config: QuestionsConfig, folder: Path | None) -> Iterator[Row]:
    for number, values in enumerate(_load_dataset(config, folder), start=1):
        yield Row(f"row {number}", dict(values))


def _load_dataset(config: QuestionsConfig, folder: Path | None) -> Iterable[Mapping[str, Any]]:
    import datasets

    saved = folder is not None and any((folder / name).exists() for name in ("state.json", "dataset_dict.json"))
    name = str(folder or config.source)
    try:
        loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config.subset)
    # The Hub's client raises errors of many libraries; for the user they mean the same.
    except Exception as error:
        what = "cannot be loaded as a dataset folder"
        fix = "give a folder of .jsonl, .csv or .parquet files, or one written by save_to_disk"
        if folder is None:
            what = "no such file here, and it cannot be loaded as a Hub dataset"
            fix = (
                "check name, questions.subset and network; for private data log in with `hf auth login`; "
                "without a network, copy the files here and give the folder"
            )
        raise DataError(
            f"{config.source}: {what} ({type(error).__name__}: {shortened(error, 300)}). Fix: {fix}."
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    split = config.split or ("train" if "train" in loaded or len(loaded) != 1 else next(iter(loaded)))
    if split not in loaded:
        raise DataError(f"{config.source}: no split {split!r}. Set questions.split to one of: {', '.join(loaded)}.")
    return loaded[split]
