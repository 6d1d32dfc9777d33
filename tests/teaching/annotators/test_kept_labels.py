"""What people answered is kept by what was asked, not by its id."""

from pathlib import Path

import pytest

from ka2l.errors import ConfigError
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.questions.question import Question
from ka2l.teaching.annotators.annotation import Label
from ka2l.teaching.annotators.kept_labels import read_labels, write_labels


def test_an_answer_does_not_follow_its_id_to_another_question(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    france, emma = Question("1", "What is the capital of France?"), Question("1", "Who wrote Emma?")
    write_labels(file, {"1": Label(("Paris",))}, [france])
    assert read_labels(file, [emma]) == {}
    moved = Question("q-77", "what is the capital of  France")
    assert read_labels(file, [moved])["q-77"].answers == ("Paris",)


def test_later_answers_are_added_to_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    first, second = Question("1", "Who wrote Emma?"), Question("1", "Who wrote Persuasion, and when?")
    write_labels(file, {"1": Label(("Jane Austen",), 0.9, "ada")}, [first])
    write_labels(file, {"1": Label(())}, [second])
    assert read_labels(file, [first]) == {"1": Label(("Jane Austen",), 0.9, "ada")}
    assert read_labels(file, [second])["1"].answers == ()  # refused, and remembered


def test_a_preset_on_a_run_that_spells_everything_out_is_refused(finished: RunDirectory) -> None:
    with pytest.raises(ConfigError, match="preset"):
        RunDirectory.open(finished.path, ["preset=paper"])
