"""The learning curve of a policy: the area under it."""

import pytest

from ka2l.studies.comparison.learning_curves import areas
from made_cells import made, outcomes


def test_the_area_under_the_curve_by_hand() -> None:
    half = outcomes([1, 1, 0, 0], [1, 1, 1, 0])  # 0.5 before, 0.75 after
    whole = outcomes([1, 1, 0, 0], [1, 1, 1, 1])
    rows = [made(budget=20, held_out=half), made(budget=40, held_out=whole), made("late", 20, held_out=half)]
    found = {area.policy: area.estimate for area in areas(rows)}
    assert found["random"].mean == pytest.approx((0.625 * 20 + 0.875 * 20) / 40)
    assert found["late"].n == 0  # it has not reached the largest budget, so its curve has another width
