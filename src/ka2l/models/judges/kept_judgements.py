"""Judgements of equivalence in one SQLite file, so that a judge never judges a pair of answers twice.

    with CachedJudge(EntailmentModel(name), run / "judgements.sqlite") as judge:
        cluster_by_meaning(questions, answers, judge)

Judgements are written batch by batch. With the write-ahead log every committed batch survives `kill -9`.

    sqlite3 judgements.sqlite "SELECT judge, relation, count(*) FROM judgements GROUP BY 1, 2"
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, get_args

from ka2l.common.sqlite_file import SqliteFile, Table
from ka2l.knowledge.uncertainty.semantic_clusters import Pair, Relation
from ka2l.models.loading import ResolvedModel


class Judged(NamedTuple):
    """One batch of relations, and the places of its pairs among all pairs."""

    places: Sequence[int]
    relations: Sequence[Relation]


class BatchJudge(Protocol):
    """A judge that yields its judgements batch by batch."""

    symmetric: bool

    @property
    def key(self) -> str:
        """Everything that determines a judgement, except the pair."""
        ...

    def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
        """Judge every pair once, in any order."""
        ...


def gathered(batches: Iterator[Judged], count: int) -> list[Relation]:
    """The relations of all batches, in the order of the pairs."""
    relations: dict[int, Relation] = {}
    for batch in batches:
        relations.update(zip(batch.places, batch.relations, strict=True))
    return [relations[place] for place in range(count)]


def model_key(model: ResolvedModel) -> str:
    """The key of a model's judgements: of a folder its content, whatever its path; on the Hub name and commit."""
    return model.revision if Path(model.path).is_dir() else f"{model.name}@{model.revision}"


_TABLE = Table(
    name="judgements",
    columns=("judge", "pair", "relation"),
    create="""
CREATE TABLE IF NOT EXISTS judgements (
    judge TEXT NOT NULL, pair BLOB NOT NULL, relation TEXT NOT NULL, PRIMARY KEY (judge, pair)
) WITHOUT ROWID
""",
    layout=1,
    kept="judgements",
    rows="judgements",
    elsewhere="measure.cache",
    rescue="Move it away, or give measure.cache another file; the pairs are then judged again.",
)


class Counts(NamedTuple):
    """How many judgements were needed, and how many calls they took."""

    pairs: int = 0
    """Pairs to judge."""
    hits: int = 0
    """Pairs whose judgement was in the file."""
    judged: int = 0
    """Pairs that the judge judged."""
    calls: int = 0
    """Batches, or requests, for these."""

    def __add__(self, other: object) -> "Counts":
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def _no_progress(_pairs: int) -> Iterator[Callable[[int], None]]:
    yield lambda _more: None


class CachedJudge:
    """Implements `ka2l.knowledge.uncertainty.semantic_clusters.Judge`: judges only pairs that are not in its file.

    It is a context manager. Several processes may share the file.

    Args:
        judge: judges the pairs that are not in the file.
        path: the SQLite file, created if it is missing.
        progress: takes the number of pairs to judge, and returns a context manager with a function that is called with
            the number of pairs judged since its last call.

    Attributes:
        counts: of all calls so far.
        key: everything that determines a judgement, except the pair.

    Raises:
        DataError: the file is damaged, is not such a file, or cannot be written.
    """

    def __init__(self, judge: BatchJudge, path: Path, *, progress: Progress = _no_progress):
        self._judge, self.path, self._progress = judge, path, progress
        self.key, self.symmetric = judge.key, judge.symmetric
        self.counts = Counts()
        self._file = SqliteFile(path, _TABLE)
        self._base = self._file.base

    def __enter__(self) -> "CachedJudge":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()

    def relations(self, pairs: Sequence[Pair]) -> list[Relation]:
        """The relation of each pair; every batch is stored before the next one is computed."""
        keys = [_pair_key(pair) for pair in pairs]
        known = self._get(keys)
        missing = [i for i, key in enumerate(keys) if key not in known]
        self.counts += Counts(pairs=len(pairs), hits=len(pairs) - len(missing))
        if missing:
            with self._progress(len(missing)) as advance:
                for batch in self._judge.batches([pairs[i] for i in missing]):
                    judged = zip(batch.places, batch.relations, strict=True)
                    new = {keys[missing[place]]: relation for place, relation in judged}
                    self._put(new)
                    known |= new
                    self.counts += Counts(judged=len(batch.places), calls=1)
                    advance(len(batch.places))
        return [known[key] for key in keys]

    def _get(self, keys: Sequence[bytes]) -> dict[bytes, Relation]:
        stored: dict[bytes, Relation] = {}
        query = "SELECT relation FROM judgements WHERE judge = ? AND pair = ?"
        with self._file.plainly():
            for key in keys:
                row = self._base.execute(query, (self.key, key)).fetchone()
                if row is not None:
                    if row[0] not in get_args(Relation):
                        raise sqlite3.DatabaseError(f"no such relation: {row[0]}")
                    stored[key] = row[0]
        return stored

    def _put(self, new: Mapping[bytes, Relation]) -> None:
        self._file.put([(self.key, key, relation) for key, relation in new.items()])


def _pair_key(pair: Pair) -> bytes:
    return hashlib.sha256(json.dumps(pair).encode()).digest()
