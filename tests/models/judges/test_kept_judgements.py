"""Judgements kept in a file: none is made twice, whatever ends the process and whoever shares the file."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ka2l.errors import DataError, ModelError
from ka2l.knowledge.uncertainty.semantic_clusters import Pair, Relation, cluster_by_meaning
from ka2l.models.judges.kept_judgements import CachedJudge, Counts, Judged, gathered, model_key
from ka2l.models.loading import ResolvedModel

PAIRS = [
    Pair("Q?", "a", "b"),
    Pair("Q?", "b", "a"),
    Pair("R?", "a", "b"),
    Pair("Q?", "a", "c"),
    Pair("Q?", "c", "d"),
]
SAID: list[Relation] = ["contradiction", "neutral", "entailment", "neutral", "entailment"]


class TwoAtATime:
    """Judges two pairs a batch, the last ones first; breaks down after so many batches."""

    symmetric = False

    def __init__(self, key: str = "judge 1", batches: int = 99):
        self.key, self.left = key, batches
        self.asked: list[Pair] = []

    def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
        for end in range(len(pairs), 0, -2):
            if not self.left:
                raise ModelError("broken")
            self.left -= 1
            places = range(max(0, end - 2), end)
            self.asked += [pairs[i] for i in places]
            yield Judged(places, [SAID[PAIRS.index(pairs[i])] for i in places])


def ask(path: Path, judge: TwoAtATime, pairs: Sequence[Pair] = PAIRS) -> tuple[list[Relation], Counts]:
    with CachedJudge(judge, path) as cached:
        return cached.relations(pairs), cached.counts


def test_batches_are_put_in_order() -> None:
    assert gathered(TwoAtATime().batches(PAIRS), len(PAIRS)) == SAID
    assert gathered(iter(()), 0) == []


def test_nothing_is_judged_twice(tmp_path: Path) -> None:
    path = tmp_path / "new" / "judgements.sqlite"
    assert ask(path, TwoAtATime()) == (SAID, Counts(pairs=5, hits=0, judged=5, calls=3))
    again = TwoAtATime()
    assert ask(path, again, PAIRS[::-1]) == (SAID[::-1], Counts(pairs=5, hits=5))
    assert again.asked == []


def test_what_is_new_is_judged_among_what_is_not(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    ask(path, TwoAtATime(), [PAIRS[3], PAIRS[1]])
    judge = TwoAtATime()
    assert ask(path, judge) == (SAID, Counts(pairs=5, hits=2, judged=3, calls=2))
    assert sorted(judge.asked) == sorted([PAIRS[0], PAIRS[2], PAIRS[4]])


def test_another_judge_is_asked_itself(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    ask(path, TwoAtATime("model@1"))
    assert ask(path, TwoAtATime("model@2"))[1].hits == 0
    assert ask(path, TwoAtATime("model@1"))[1].hits == 5


def test_a_folder_counts_by_its_content_and_a_hub_model_by_its_name(tmp_path: Path) -> None:
    assert model_key(ResolvedModel("mine", str(tmp_path), "sha256-1")) == "sha256-1"
    assert model_key(ResolvedModel("owner/name", "owner/name", "abc")) == "owner/name@abc"


def test_counts_add_up_over_calls(tmp_path: Path) -> None:
    with CachedJudge(TwoAtATime(), tmp_path / "judgements.sqlite") as judge:
        judge.relations(PAIRS[:2])
        judge.relations(PAIRS[:3])
        assert judge.counts == Counts(pairs=5, hits=2, judged=3, calls=2)


def test_progress_is_told_of_what_is_judged(tmp_path: Path) -> None:
    told: list[int] = []

    @contextmanager
    def bar(total: int) -> Iterator[object]:
        told.append(total)
        yield told.append
        told.append(-1)

    path = tmp_path / "judgements.sqlite"
    ask(path, TwoAtATime(), PAIRS[:2])
    with CachedJudge(TwoAtATime(), path, progress=bar) as judge:  # type: ignore[arg-type]
        judge.relations(PAIRS)
        judge.relations(PAIRS)
    assert told == [3, 2, 1, -1]


def test_an_error_costs_one_batch(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    with pytest.raises(ModelError, match="broken"):
        ask(path, TwoAtATime(batches=2))
    judge = TwoAtATime()
    assert ask(path, judge) == (SAID, Counts(pairs=5, hits=4, judged=1, calls=1))
    assert judge.asked == PAIRS[:1]


def test_clusters_from_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"

    class Alike(TwoAtATime):
        def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
            self.asked += pairs
            yield Judged(range(len(pairs)), ["entailment"] * len(pairs))

    first, second = Alike(), Alike()
    for judge in (first, second):
        with CachedJudge(judge, path) as cached:
            assert cluster_by_meaning(["Q?"], ["abc"], cached) == ([[0, 0, 0]], 4)
            assert cached.counts.pairs == 4
    assert (len(first.asked), len(second.asked)) == (4, 0)


CHILD = """
import os, signal, sys, time
from pathlib import Path
from ka2l.knowledge.uncertainty.semantic_clusters import Pair
from ka2l.models.judges.kept_judgements import CachedJudge, Judged

class Slow:
    symmetric, key = False, "k"
    def batches(self, pairs):
        for i in range(len(pairs)):
            if sys.argv[2] == "kill" and i == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield Judged([i], ["neutral"])

with CachedJudge(Slow(), Path(sys.argv[1])) as judge:
    first = int(sys.argv[3])
    judge.relations([Pair("Q?", str(i), "x") for i in range(first, first + 40)])
"""


def child(path: Path, how: str, first: int = 0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, str(path), how, str(first)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def count(path: Path) -> int:
    base = sqlite3.connect(path)
    found: int = base.execute("SELECT count(*) FROM judgements").fetchone()[0]
    base.close()
    return found


def test_a_killed_process_keeps_its_batches(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    killed = child(path, "kill")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert count(path) == 3


def test_two_processes_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    children = [child(path, "end", first) for first in (0, 20)]
    errors = [one.communicate(timeout=60)[1] for one in children]
    assert [one.returncode for one in children] == [0, 0], errors
    assert count(path) == 60


@pytest.mark.parametrize("damage", ["garbage", "middle", "future", "relation"])
def test_a_damaged_file_says_so(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    ask(path, TwoAtATime())
    if damage == "garbage":
        path.write_bytes(b"not a database, whatever its name says" * 200)
    elif damage == "middle":
        content = bytearray(path.read_bytes())
        content[4096:] = b"\xff" * (len(content) - 4096)
        path.write_bytes(content)
    else:
        base = sqlite3.connect(path)
        if damage == "future":
            base.execute("PRAGMA user_version = 99")
        else:
            base.execute("UPDATE judgements SET relation = 'perhaps'")
        base.commit()
        base.close()
    judge = TwoAtATime()
    with pytest.raises(DataError, match=r"judgements\.sqlite.*(damaged|layout 99)"):
        ask(path, judge)
    assert judge.asked == []


def test_a_full_disk_says_so_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    ask(path, TwoAtATime(), PAIRS[:2])
    many = [Pair("Q?", str(i), "x" * 50) for i in range(3000)]

    class Neutral(TwoAtATime):
        def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
            yield Judged(range(len(pairs)), ["neutral"] * len(pairs))

    with CachedJudge(Neutral(), path) as judge:
        judge._base.execute("PRAGMA max_page_count = 8")
        with pytest.raises(DataError, match=r"judgements\.sqlite: cannot .*full"):
            judge.relations(many)
    assert count(path) == 2
    assert ask(path, TwoAtATime(), PAIRS[:2])[1].hits == 2


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/judgements\.sqlite: cannot be opened"):
        ask(tmp_path / "file" / "judgements.sqlite", TwoAtATime())
