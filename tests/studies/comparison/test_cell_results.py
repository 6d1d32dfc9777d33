"""A cell on disk: it comes back as it was saved, and an unfinished one is refused."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from ka2l.errors import RunError
from ka2l.studies.comparison.cell_results import load, save
from made_cells import made, outcomes

NAN = math.nan


def test_a_cell_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    first = made(
        "naïve | 🦙\n",
        held_out=dataclasses.replace(outcomes([1, 0, 1], [1, 1, 0]), bleu=NAN),
        pool=outcomes([], []),
        bought=outcomes([0, 1], [1, 1], groups=["g", "g"]),
    )
    save(first, tmp_path / "cell")
    again = load(tmp_path / "cell")
    plain = [field.name for field in dataclasses.fields(first) if field.name != "sets"]
    assert [getattr(again, name) for name in plain] == [getattr(first, name) for name in plain]
    assert list(again.sets) == list(first.sets)
    for name, rows in first.sets.items():
        other = again.sets[name]
        assert list(other.ids) == list(rows.ids)
        assert list(other.groups) == list(rows.groups)
        for column in ("before", "after", "f1", "rouge_l", "meteor"):
            assert np.array_equal(getattr(other, column), getattr(rows, column))
            assert getattr(other, column).dtype == getattr(rows, column).dtype
        assert other.bleu == rows.bleu or (math.isnan(other.bleu) and math.isnan(rows.bleu))


def test_a_cell_without_its_json_is_not_there_and_one_of_two_minds_is_refused(tmp_path: Path) -> None:
    save(made(held_out=outcomes([1, 0], [1, 1])), tmp_path / "a")
    save(made(held_out=outcomes([1], [1])), tmp_path / "b")
    (tmp_path / "a" / "outcomes.parquet").replace(tmp_path / "b" / "outcomes.parquet")
    with pytest.raises(RunError, match="do not belong together"):
        load(tmp_path / "b")
    (tmp_path / "b" / "cell.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        load(tmp_path / "b")


def test_a_cell_killed_while_it_is_saved_again_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(made(held_out=outcomes([1], [1])), tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ka2l.common.atomic_files.write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        save(made(held_out=outcomes([1], [0])), tmp_path)
    with pytest.raises(RunError, match="not finished"):
        load(tmp_path)


def test_outcomes_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        dataclasses.replace(outcomes([1, 0], [1, 1]), ids=["only one"])
