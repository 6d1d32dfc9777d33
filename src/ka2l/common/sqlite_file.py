"""One table in one SQLite file that several processes may share: it is checked when opened, and written in
transactions.

With the write-ahead log every committed row survives `kill -9`. A power cut can lose the last rows, but not the file.
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
    """The table of a file, for SQLite and for messages."""

    name: str
    columns: Sequence[str]
    create: str
    """Its CREATE TABLE IF NOT EXISTS statement."""
    layout: int
    """Version of the table; raised when an older program could misread a newer table."""
    kept: str
    """What its rows are, for messages: "paid answers"."""
    rows: str
    """The same in short: "answers"."""
    elsewhere: str
    """What can be given another file: a setting, or what is stored there."""
    rescue: str
    """What to do about a damaged file, as sentences; {file} is its name."""


class SqliteFile:
    """An open file with one table.

    Args:
        path: the file, created if it is missing.
        table: its table.
        any_thread: whether it may be used from another thread than the one that opened it.

    Attributes:
        base: the connection; use it inside `plainly`.

    Raises:
        DataError: the file is damaged, is not such a file, or cannot be written.
    """

    def __init__(self, path: Path, table: Table, *, any_thread: bool = False):
        self.path, self._table = path, table
        with self.plainly():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=not any_thread)
        try:
            with self.plainly():
                self._prepare()
        except BaseException:
            self.base.close()
            raise

    def put(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write all of these rows or none; they are committed when this returns."""
        places = ", ".join("?" * len(self._table.columns))
        with self.plainly():
            self.base.execute("BEGIN IMMEDIATE")
            try:
                self.base.executemany(f"INSERT OR REPLACE INTO {self._table.name} VALUES ({places})", rows)
                self.base.execute("COMMIT")
            except BaseException:
                # A full disk has already ended the transaction.
                if self.base.in_transaction:
                    self.base.execute("ROLLBACK")
                raise

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """Turn errors of SQLite and of broken contents inside into DataError."""
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
            raise DataError(f"{self.path}: the file of {table.kept} is damaged ({error}). {rescue}") from error
        except OSError as error:
            raise DataError(f"{self.path}: cannot be opened ({error.strerror or error}).") from error

    def _share_log(self) -> None:
        """Switch to the write-ahead log.

        On a file system without shared memory SQLite keeps its older journal, which is as safe but slower. If two
        processes open a new file at the same time, one of them finds it locked; SQLite does not wait in this case, so
        this method does.
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
