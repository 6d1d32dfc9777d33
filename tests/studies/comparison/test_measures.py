"""The measures of a cell, by hand."""

import math

import pytest

from ka2l.studies.comparison.measures import MEASURES, values
from made_cells import made, outcomes


def test_measures_by_hand() -> None:
    found = values(
        made(
            budget=5,  # five labels, of which four could be asked again
            held_out=outcomes([1, 1, 1, 0, 0], [1, 0, 1, 1, 1]),
            pool=outcomes([0, 0, 1, 1], [0, 1, 1, 1]),
            bought=outcomes([0, 0, 1, 0], [1, 1, 1, 0]),
            bought_reworded=outcomes([0, 0], [1, 0]),
        )
    )
    assert found["held_out"] == pytest.approx(4 / 5)
    assert found["gain_held_out"] == pytest.approx(1 / 5)
    assert found["pool"] == pytest.approx(3 / 4)
    assert found["gain_pool"] == pytest.approx(1 / 4)
    assert found["learned"] == 2
    assert found["per_label"] == pytest.approx(2 / 5)
    assert found["forgotten"] == pytest.approx(1 / 3)
    assert found["reworded"] == pytest.approx(1 / 2)
    assert found["f1"] == found["rouge_l"] == found["meteor"] == pytest.approx(0.2)
    assert found["bleu"] == 0.25
    assert (found["labels"], found["cost"], found["select_seconds"], found["finetune_seconds"]) == (
        5,
        1.5,
        0.1,
        2.0,
    )
    assert set(found) == set(MEASURES)


def test_what_is_not_there_is_nan_not_zero() -> None:
    found = values(made(held_out=outcomes([0, 0], [1, 0]), bought=outcomes([], [])))
    assert math.isnan(found["forgotten"])  # nothing was right before, so nothing could be forgotten
    assert math.isnan(found["per_label"])
    assert math.isnan(found["pool"])
    assert math.isnan(found["gain_pool"])
    assert found["learned"] == 0
    assert math.isnan(values(made())["held_out"])
