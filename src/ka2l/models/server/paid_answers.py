"""Paid answers of servers in one SQLite file, so that no answer is paid for twice.

An answer is written before it is used. With the write-ahead log every committed answer survives `kill -9`. A power cut
can lose the last answers, but not the file.

    sqlite3 paid.sqlite "SELECT server, model, count(*) FROM answers GROUP BY 1, 2"

The server's address is part of the primary key: TGI calls every model `tgi` and llama.cpp ignores the name, so two
addresses with the same model name can serve two models, and mixing their answers would make the measurement wrong
without notice. If a server moves, change the column: `UPDATE answers SET server = 'http://new:8000/v1'`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from ka2l.common.sqlite_file import SqliteFile, Table
from ka2l.models.interface import Answer, Prompt
from ka2l.models.settings import Endpoint

_TABLE = Table(
    name="answers",
    columns=("server", "model", "key", "text", "logprobs", "finish_reason"),
    create="""
CREATE TABLE IF NOT EXISTS answers (
    server TEXT NOT NULL, model TEXT NOT NULL, key TEXT NOT NULL,
    text TEXT NOT NULL, logprobs TEXT, finish_reason TEXT NOT NULL,
    PRIMARY KEY (server, model, key)
) WITHOUT ROWID
""",
    layout=1,
    kept="paid answers",
    rows="answers",
    elsewhere="server answers",
    rescue="Save what can be saved with `sqlite3 {file} .recover | sqlite3 saved.sqlite` and put that in its place, or "
    "move the file away: its answers are then asked and paid for again.",
)


def answer_key(
    endpoint: Endpoint, prompt: Prompt, sample: int, *, temperature: float, max_new_tokens: int, seed: int
) -> str:
    """SHA-256 (hex) of everything that determines an answer, except the server and the model."""
    asked = prompt.text if endpoint == "completions" else list(prompt.messages)
    parts = [endpoint, asked, prompt.question_id, sample, float(temperature), max_new_tokens, seed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class PaidAnswers:
    """The paid answers of one model on one server; a context manager.

    Several processes may share the file. One instance may be used from another thread than the one that made it.

    Args:
        path: the SQLite file, created if it is missing.
        server: base URL.
        model: the model's name on the server.

    Raises:
        DataError: the file is damaged, is not such a file, or cannot be written.
    """

    def __init__(self, path: Path, server: str, model: str):
        self.path = path
        self._who = (server, model)
        self._file = SqliteFile(path, _TABLE, any_thread=True)
        self._base = self._file.base

    def __enter__(self) -> "PaidAnswers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()

    def get(self, keys: Sequence[str], *, logprobs: bool) -> dict[str, Answer]:
        """The stored answers among `keys`; with `logprobs` only those that were requested with log-probabilities."""
        found = {}
        with self._file.plainly():
            for key in keys:
                row = self._base.execute(
                    "SELECT text, logprobs, finish_reason FROM answers WHERE server = ? AND model = ? AND key = ?",
                    (*self._who, key),
                ).fetchone()
                if row is not None and (row[1] is not None or not logprobs):
                    # Without `logprobs` they are left out even if they are stored: a run must not depend on earlier
                    # runs.
                    found[key] = Answer(row[0], json.loads(row[1]) if logprobs else [], row[2])
        return found

    def put(self, answers: Mapping[str, Answer], *, logprobs: bool) -> None:
        """Store these answers; they are committed when this returns.

        Args:
            answers: by key; see `answer_key`.
            logprobs: whether log-probabilities were requested.
        """
        rows = [
            (*self._who, key, a.text, json.dumps(a.token_logprobs) if logprobs else None, a.finish_reason)
            for key, a in answers.items()
        ]
        self._file.put(rows)
