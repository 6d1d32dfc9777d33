"""One table in one SQLite file that several processes may share: opened, checked, written whole, and its errors in words.

The write-ahead log makes every committed row survive `kill -9`; a power cut can cost the last few, never the file.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ka2l.errors import DataError

_WAIT = 30.0  # seconds, for another process


class Table(NamedTuple):
    """What a file holds, for SQLite and for messages."""

    name: str
    columns: Sequence[str]
    create: str  # its CREATE TABLE IF NOT EXISTS
    layout: int  # raised when an older program could misread a newer one
    kept: str  # what its rows are: "paid answers"
    rows: str  # the same in short: "answers"
    elsewhere: str  # what else may be given another file
    rescue: str  # what to do about a damaged file, a sentence; {file} is its name


class SqliteFile:
    """An open file with one table.

    Args:
        path: made where it is missing.
        table: what it holds.
        any_thread: whether it may be handed from thread to thread.

    Attributes:
        base: the connection; use it inside `plainly`.

    Raises:
        DataError: the file is damaged, is something else, or cannot be written.
    """

    def __init__(self, path: Path, table: Table, *, any_thread: bool = False):
        self.path, self._table = path, table
        with self.plainly():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(
                path, timeout=_WAIT, isolation_level=None, check_same_thread=not any_thread
            )
        try:
            with self.plainly():
                self._prepare()
        except BaseException:
            self.base.close()
            raise

    def put(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Keep all of these rows or none; they are safe when this returns."""
        places = ", ".join("?" * len(self._table.columns))
        with self.plainly():
            self.base.execute("BEGIN IMMEDIATE")
            try:
                self.base.executemany(f"INSERT OR REPLACE INTO {self._table.name} VALUES ({places})", rows)
                self.base.execute("COMMIT")
            except BaseException:
                if self.base.in_transaction:  # a full disk has ended it already
                    self.base.execute("ROLLBACK")
                raise

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """SQLite's errors, and those of broken contents, as ours."""
        table = self._table
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DataError(
                f"{self.path}: cannot read or write the {table.kept} ({error}). Is the disk full, the folder "
                f"read-only, or the file another program's? The {table.rows} in it are untouched."
            ) from error
        except (sqlite3.DatabaseError, ValueError) as error:
            rescue = table.rescue.format(file=self.path.name)
            raise DataError(
                f"{self.path}: the file of {table.kept} is damaged ({error}). {rescue}"
            ) from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot be opened ({error.strerror or error}).") from error

    def _share_log(self) -> None:
        """Where a file system cannot share memory SQLite keeps its older journal, which is as safe and slower.

        Of two processes that open a new file at once one finds it locked, and for this SQLite does not wait by itself.
        """
        last = time.monotonic() + _WAIT
        while True:
            try:
                self.base.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > last:
                    raise
                time.sleep(0.02)

    def _prepare(self) -> None:
        table = self._table
        self._share_log()
        self.base.execute("PRAGMA synchronous = NORMAL")
        found = self.base.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, table.layout):
            raise DataError(
                f"{self.path}: {table.kept} in layout {found}, but this version of KA2L reads {table.layout}. "
                f"Use the version that wrote them, or give {table.elsewhere} another file."
            )
        if found == 0:
            self.base.execute(table.create)
            self.base.execute(f"PRAGMA user_version = {table.layout}")
        self.base.execute(f"SELECT {', '.join(table.columns)} FROM {table.name} LIMIT 1")
