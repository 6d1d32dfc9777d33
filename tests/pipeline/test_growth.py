"""More samples later: only the new ones are asked for, and the answers are those of asking for all at once."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ka2l.common.atomic_files import parts, read_table, read_tensors_metadata
from ka2l.errors import RunError
from ka2l.pipeline.run import run_verb
from ka2l.pipeline.run_directory import RunDirectory
from runs import RecordingReporter, assert_same, content, questions_file, times, tiny_config
from tiny import TinyWorld

Rows = dict[tuple[str, int], dict[str, Any]]


class Interrupter(RecordingReporter):
    """Ctrl-C at the Nth question of a stage."""

    def __init__(self, left: int):
        super().__init__()
        self.left = left

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        def advance(_count: int) -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

        yield advance


@pytest.fixture
def begun(tiny_world: TinyWorld, tmp_path: Path) -> Callable[..., RunDirectory]:
    """A run whose questions are sampled, in a folder of that name, by default 4 times."""

    def begin(name: str, n: int = 4) -> RunDirectory:
        config = tiny_config(tiny_world, questions_file(tiny_world, tmp_path), f"sample.n={n}")
        directory = RunDirectory.create(tmp_path / name, config)
        run_verb("load", directory, RecordingReporter())
        run_verb("sample", directory, RecordingReporter())
        return directory

    return begin


def grown(directory: RunDirectory, n: int, verb: str = "sample") -> RunDirectory:
    again = RunDirectory.open(directory.path, [f"sample.n={n}"])
    run_verb(verb, again, RecordingReporter())
    return again


def rows(directory: RunDirectory) -> Rows:
    found: Rows = {}
    for part in parts(directory.file("answers"), ".parquet"):
        for row in read_table(part).to_pylist():
            key = (row["question_id"], row["sample"])
            assert key not in found
            found[key] = row
    return found


def assert_same_answers(one: Rows, other: Rows) -> None:
    assert one.keys() == other.keys()
    for key, row in one.items():
        assert (row["text"], row["finish_reason"]) == (other[key]["text"], other[key]["finish_reason"])
        assert row["token_logprobs"] == pytest.approx(other[key]["token_logprobs"], abs=1e-3)


def test_growing_in_steps_gives_the_answers_of_asking_at_once(begun: Callable[..., RunDirectory]) -> None:
    steps, once = begun("steps"), begun("once", 9)
    before, first = times(steps.path / "answers"), rows(steps)
    decoded = steps.stages["sample"].tokens["decoded"]
    grown(steps, 6)
    steps = grown(steps, 9)
    assert_same_answers(rows(steps), rows(once))
    kept = times(steps.path / "answers")
    assert {name: kept[name] for name in before} == before
    assert {key: row for key, row in rows(steps).items() if key[1] <= 4} == first
    assert steps.stages["sample"].tokens["decoded"] > decoded
    assert steps.stages["sample"].facts["samples"] == 9
    assert steps.stages["sample"].counts == once.stages["sample"].counts == {"questions": 37, "answers": 370}
    for new, old in zip(parts(steps.file("states"), ""), parts(once.file("states"), ""), strict=True):
        assert read_tensors_metadata(new) == read_tensors_metadata(old)


def test_parts_of_a_growth_hold_the_new_numbers_and_no_states(begun: Callable[..., RunDirectory]) -> None:
    directory = begun("run")
    grown(directory, 7)
    numbers = [set(read_table(p)["sample"].to_pylist()) for p in parts(directory.file("answers"), ".parquet")]
    assert numbers == [{0, 1, 2, 3, 4}] * 4 + [{5, 6, 7}] * 4
    assert len(parts(directory.file("states"), ".safetensors")) == 4


def test_fewer_samples_redo_nothing_and_measure_reads_the_first(begun: Callable[..., RunDirectory]) -> None:
    directory, few = begun("run", 7), begun("few", 4)
    before = times(directory.path / "answers")
    run_verb("measure", directory, RecordingReporter())
    said = RecordingReporter()
    fewer = RunDirectory.open(directory.path, ["sample.n=4"])
    run_verb("sample", fewer, said)
    assert said.messages[-1].endswith("(done before)")
    run_verb("measure", fewer, RecordingReporter())
    run_verb("measure", few, RecordingReporter())
    assert times(directory.path / "answers") == before
    tables = [read_table(run.file("entropy.parquet")).to_pydict() for run in (fewer, few)]
    assert {len(clusters) for clusters in tables[0]["cluster_ids"]} == {4}
    for name in ("question_id", "semantic_entropy", "cluster_ids", "low_temperature_answer", "correct"):
        assert tables[0][name] == tables[1][name]
    more = grown(fewer, 7, "measure")  # nothing to sample: they are still there
    assert {len(c) for c in read_table(more.file("entropy.parquet"))["cluster_ids"].to_pylist()} == {7}


def test_too_few_samples_count_as_not_done(begun: Callable[..., RunDirectory]) -> None:
    directory = begun("run")
    with pytest.raises(RunError, match="`measure` reads what `sample` writes, and that is out of date"):
        grown(directory, 5, "measure")


@pytest.mark.parametrize("at", [1, 13, 30])
def test_an_interrupted_growth_goes_on(begun: Callable[..., RunDirectory], at: int) -> None:
    whole, broken = begun("whole"), begun("broken")
    grown(whole, 7)
    with pytest.raises(KeyboardInterrupt):
        run_verb("sample", RunDirectory.open(broken.path, ["sample.n=7"]), Interrupter(at))
    # Half grown: what all questions have can be measured, and what is missing still comes.
    half = grown(broken, 4)
    assert half.stages["sample"].facts["samples"] == 4
    grown(broken, 7)
    assert_same(content(broken.path), content(whole.path))


def test_more_samples_before_the_first_are_all_there(begun: Callable[..., RunDirectory], tmp_path: Path) -> None:
    once = begun("once", 6)
    broken = RunDirectory.create(tmp_path / "broken", RunDirectory.open(once.path, ["sample.n=4"]).config)
    run_verb("load", broken, RecordingReporter())
    with pytest.raises(KeyboardInterrupt):
        run_verb("sample", broken, Interrupter(20))
    assert len(parts(broken.file("answers"), ".parquet")) == 1
    broken = grown(broken, 6)
    assert_same_answers(rows(broken), rows(once))
    assert broken.stages["sample"].facts == {"samples": 6, "parts": {"answers": 5, "states": 4}}


def test_a_deleted_part_of_states_is_noticed_after_growth(begun: Callable[..., RunDirectory]) -> None:
    directory = begun("run")
    directory = grown(directory, 6)
    before = rows(directory)
    lost = directory.file("states") / "part-00001.safetensors"
    ids = json.loads(read_tensors_metadata(lost)["ids"])
    lost.unlink()
    grown(directory, 6)
    assert_same_answers(rows(directory), before)
    kept = [json.loads(read_tensors_metadata(part)["ids"]) for part in parts(directory.file("states"), "")]
    assert ids in kept
    assert len(kept) == 4
