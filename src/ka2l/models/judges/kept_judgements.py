"""Judgements of equivalence in one SQLite file, so that no pair of answers is ever judged twice by one judge.

    with CachedJudge(EntailmentModel(name), run / "judgements.sqlite") as judge:
        cluster_by_meaning(questions, answers, judge)

A judgement is written when its batch is done. The write-ahead log makes every committed batch survive `kill -9`.

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
    """One batch of relations and where in the queue its pairs stand."""

    places: Sequence[int]
    relations: Sequence[Relation]


class BatchJudge(Protocol):
    """A judge whose judgements come batch by batch."""

    symmetric: bool

    @property
    def key(self) -> str:
        """All that determines a judgement, apart from the pair."""
        ...

    def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
        """Every pair judged once, in any order."""
        ...


def gathered(batches: Iterator[Judged], count: int) -> list[Relation]:
    """The relations of all batches, in the order of the pairs."""
    found = {i: said for batch in batches for i, said in zip(batch.places, batch.relations, strict=True)}
    return [found[i] for i in range(count)]


def model_key(found: ResolvedModel) -> str:
    """What pins a model's judgements: of a folder its content, wherever it lies; on the Hub name and commit."""
    return found.revision if Path(found.path).is_dir() else f"{found.name}@{found.revision}"


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
    rescue="Move it away, or give measure.cache another file: its pairs are then judged again.",
)


class Counts(NamedTuple):
    """What judging took."""

    pairs: int = 0  # asked for
    hits: int = 0  # those of them that the file knew
    judged: int = 0  # those that the judge was asked about
    calls: int = 0  # batches, or requests, that took

    def __add__(self, other: object) -> "Counts":
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def _unseen(_pairs: int) -> Iterator[Callable[[int], None]]:
    yield lambda _more: None


class CachedJudge:
    """Implements `ka2l.knowledge.uncertainty.semantic_clusters.Judge`: asks a judge what it has not said before; a context manager.

    Several processes may share the file.

    Args:
        judge: who is asked.
        path: the SQLite file; made where it is missing.
        progress: given a number of pairs, a context in which to tell how many more of them are judged.

    Attributes:
        counts: of all calls so far.
        key: all that determines a judgement, apart from the pair.

    Raises:
        DataError: the file is damaged, is something else, or cannot be written.
    """

    def __init__(self, judge: BatchJudge, path: Path, *, progress: Progress = _unseen):
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
        """The relation of each pair; every batch is kept before the next one is computed."""
        keys = [_pair_key(pair) for pair in pairs]
        known = self._get(keys)
        missing = [i for i, key in enumerate(keys) if key not in known]
        self.counts += Counts(pairs=len(pairs), hits=len(pairs) - len(missing))
        if missing:
            with self._progress(len(missing)) as advance:
                for batch in self._judge.batches([pairs[i] for i in missing]):
                    told = zip(batch.places, batch.relations, strict=True)
                    new = {keys[missing[place]]: said for place, said in told}
                    self._put(new)
                    known |= new
                    self.counts += Counts(judged=len(batch.places), calls=1)
                    advance(len(batch.places))
        return [known[key] for key in keys]

    def _get(self, keys: Sequence[bytes]) -> dict[bytes, Relation]:
        found: dict[bytes, Relation] = {}
        ask = "SELECT relation FROM judgements WHERE judge = ? AND pair = ?"
        with self._file.plainly():
            for key in keys:
                row = self._base.execute(ask, (self.key, key)).fetchone()
                if row is not None:
                    if row[0] not in get_args(Relation):
                        raise sqlite3.DatabaseError(f"no such relation: {row[0]}")
                    found[key] = row[0]
        return found

    def _put(self, new: Mapping[bytes, Relation]) -> None:
        self._file.put([(self.key, key, said) for key, said in new.items()])


def _pair_key(pair: Pair) -> bytes:
    return hashlib.sha256(json.dumps(pair).encode()).digest()
