"""The closing screen of a run that has decoded new questions; the numbers come from the records, nothing is run."""

from pathlib import Path
from typing import Any

import pytest

from ka2l.cli.run_summary import summary
from ka2l.cli.summary_screen import decoded_lines, print_summary
from ka2l.common import atomic_files
from ka2l.config.recipes import load_config
from ka2l.evaluation.evaluation_json import to_json
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import RunDirectory
from page_data import evaluation, with_decoded

COUNTS = {"sources": 100, "candidates": 800, "kept": 93}
DROPPED = {
    "dropped_source_again": 130,
    "dropped_in_pool": 166,
    "dropped_no_answer": 200,
    "dropped_known": 211,
}


def directory(
    path: Path, per_question: int, evaluated: dict[str, Any] | None, **counts: dict[str, int]
) -> RunDirectory:
    """A run whose stages have these counts, and whose evaluation says this."""
    config = load_config(None, ["questions.source=geonames", f"augment.per_question={per_question}"])
    stages = {name: StageRecord("done", "key", counts=numbers, seconds=1.0) for name, numbers in counts.items()}
    if evaluated is not None:
        stages["evaluate"] = StageRecord("done", "key")
        atomic_files.write_json(path / "evaluation.json", evaluated)
    return RunDirectory(path, config, stages)


def whole(path: Path) -> RunDirectory:
    return directory(
        path,
        8,
        to_json(with_decoded()),
        augment=COUNTS | DROPPED,
        annotate={"labels": 191, "decoded_labels": 91, "decoded_refused": 2},
    )


def printed(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_summary(run)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_the_counts_are_in_the_summary(tmp_path: Path) -> None:
    found = summary(whole(tmp_path))
    assert found.augment == {**COUNTS, **DROPPED, "labels": 91, "refused": 2}
    assert found.evaluation is not None
    assert found.evaluation.arms["unknown"]["learned"]["decoded"]["learned"] == 51


def test_what_an_earlier_config_has_decoded_is_not_part_of_the_run(tmp_path: Path) -> None:
    assert summary(directory(tmp_path, 0, None, augment=COUNTS)).augment is None


def test_a_stage_that_is_not_done_says_nothing(tmp_path: Path) -> None:
    run = directory(tmp_path, 8, None, augment=COUNTS)
    run.stages["augment"].state = "running"
    assert summary(run).augment is None
    assert "augment" not in summary(run).values()


def test_the_closing_screen_says_what_was_decoded_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(whole(tmp_path), capsys)
    assert (
        "From the states of the 100 bought questions the decoder made 800 new ones: 93 are kept "
        "(not asked before, and still unknown, says the probe). 91 of them have got an answer."
    ) in lines
    assert (
        "Dropped, above all: the model knows it, says the probe (211); nobody here can answer it (200); "
        "already in the pool (166)."
    ) in lines
    for row in (
        "labels bought 193 100",
        "of them wrong before 171 87",
        "learned 120 46",
        "new questions taught 93 –",
        "learned 51 –",
        "right, of the new questions 13% → 83% –",
    ):
        assert row in lines
    assert any("Learned: bought and new questions that were wrong before" in line for line in lines)


def test_without_decoded_questions_the_screen_is_what_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(directory(tmp_path, 0, to_json(evaluation()), annotate={"labels": 100}), capsys)
    assert not [line for line in lines if "new question" in line or "decoder" in line]
    assert "learned 69 46" in lines
    assert any("Learned: bought questions that were wrong before" in line for line in lines)


def test_one_kept_question_and_few_reasons_read_well() -> None:
    counts = {"sources": 1, "candidates": 2, "kept": 1, "dropped_twice": 1, "labels": 1, "refused": 0}
    text = decoded_lines(counts)
    assert "1 is kept" in text
    assert "1 of them has got an answer" in text
    assert text.endswith("Dropped: decoded twice (1).[/]")
    assert decoded_lines({"sources": 1, "candidates": 1, "kept": 1}).count("\n") == 0
