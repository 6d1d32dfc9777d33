"""Paired differences between the arms of a comparison, resampled by question group and by seed, corrected by Holm.

The statistics are in `ka2l.common.curve_statistics`; here they are applied to the cells of a grid.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ka2l.common.curve_statistics import Resampled, holm, paired_test, resample_ratios
from ka2l.common.intervals import Interval
from ka2l.studies.comparison.cell_results import CellResult
from ka2l.studies.comparison.measures import MEASURES, groups_of, sums
from ka2l.studies.comparison.summary import BETTER, LEVEL, UNCLEAR, WORSE, ArmKey, Difference, Verdict


def resample(cells: Sequence[CellResult], measure: str, resamples: int, seed: int) -> Resampled:
    """Resample the question groups of a measure, with the same draws for all cells: a column per cell.

    A group without rows in a cell (a question it did not select) counts 0 in both sums of that cell.
    """
    names = sorted({group for cell in cells for group in groups_of(cell, measure)})
    code = {name: at for at, name in enumerate(names)}
    numerators, denominators = np.zeros((len(names), len(cells))), np.zeros((len(names), len(cells)))
    for column, cell in enumerate(cells):
        rows = [code[group] for group in groups_of(cell, measure)]
        by_row = sums(cell, measure)
        np.add.at(numerators[:, column], rows, by_row.numerator)
        np.add.at(denominators[:, column], rows, by_row.denominator)
    return resample_ratios(numerators, denominators, resamples, seed)


def differences_of_arms(
    cells: Sequence[CellResult],
    columns: Mapping[ArmKey, Sequence[int]],
    measure: str,
    resampled: Resampled,
    other_arm: Callable[[ArmKey], ArmKey | None],
    seed: int,
) -> dict[ArmKey, Difference]:
    """Test every arm against its `other_arm` on one measure; all these tests are one family for Holm's correction.

    Args:
        cells: all cells.
        columns: the places of each arm's cells in `cells`.
        measure: name in MEASURES.
        resampled: of this measure and these cells.
        other_arm: the arm to compare with; None: this arm is not tested.
        seed: of the resampled seeds.

    Returns:
        The arms that share at least two seeds with their other arm.
    """
    tests = {}
    for arm, places in columns.items():
        other = other_arm(arm)
        other_places = {} if other is None else {cells[at].seed: at for at in columns.get(other, ())}
        paired = [at for at in places if cells[at].seed in other_places]
        test = paired_test(resampled, paired, [other_places[cells[at].seed] for at in paired], seed)
        if test is not None:
            tests[arm] = (test, len(paired))
    corrected = holm({arm: test.p for arm, (test, _) in tests.items()})
    return {
        arm: Difference(*arm, measure, seeds, *test, corrected[arm], _verdict(test.interval, corrected[arm], measure))
        for arm, (test, seeds) in tests.items()
    }


def _verdict(interval: Interval, p: float, measure: str) -> Verdict:
    """Clear only if the interval excludes 0 and the corrected p is below 5 %."""
    if p >= LEVEL or interval.low <= 0 <= interval.high:
        return UNCLEAR
    return BETTER if (interval.value > 0) == MEASURES[measure].higher else WORSE
