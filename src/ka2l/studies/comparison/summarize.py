"""A grid of cells, finished or not, as statistics: means over seeds, tests against random, labels to a target, who wins.

    summary = summarize(cells)
    summary.arm("unknown", 120).measures["held_out"].mean

Pure, and the order of the cells does not matter. What cannot be said (one seed, no random arm) is said in `notes`.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from ka2l.common.intervals import Interval
from ka2l.errors import RunError
from ka2l.studies.comparison import learning_curves
from ka2l.studies.comparison.cell_results import CellResult
from ka2l.studies.comparison.measures import MEASURES, TESTED, before, estimate, mean, values
from ka2l.studies.comparison.paired_resampling import Resampled, arm_draws, holm, paired_test, resample
from ka2l.studies.comparison.summary import (
    BETTER,
    CRITERIA,
    LEVEL,
    REFERENCE,
    UNCLEAR,
    WHOLE,
    WORSE,
    Arm,
    Difference,
    Standing,
    Summary,
)


def summarize(
    cells: Sequence[CellResult],
    *,
    reference: str = REFERENCE,
    target: float | None = None,
    order: Sequence[str] = (),
    resamples: int = 4000,
    seed: int = 0,
) -> Summary:
    """All statistics of the cells there are; an unfinished or empty grid gives what it can.

    Args:
        cells: any order; one cell at most per policy, budget and seed.
        reference: the policy that all others are tested against.
        target: held-out share to reach; None: the mean of the whole pool's arm, else the best of the reference.
        order: policies in the order of the tables; those not named follow by name.
        resamples: of the bootstrap. p cannot be below 2 / (resamples + 1).
        seed: of the bootstrap.

    Raises:
        ValueError: a cell is there twice.
        RunError: cells were evaluated on different held-out or pool questions.
    """
    cells = _ordered(cells, reference, order)
    _check(cells)
    columns: dict[tuple[str, int], list[int]] = {}
    for at, cell in enumerate(cells):
        columns.setdefault((cell.policy, cell.budget), []).append(at)
    each = [values(cell) for cell in cells]
    arms = tuple(
        Arm(
            policy,
            cells[places[0]].strategy,
            budget,
            tuple(cells[at].seed for at in places),
            {name: estimate([each[at][name] for at in places]) for name in each[places[0]]},
        )
        for (policy, budget), places in columns.items()
    )
    drawn = {name: resample(cells, name, resamples, seed) for name in TESTED} if cells else {}

    def rival(policy: str, budget: int) -> tuple[str, int] | None:
        return None if policy in (reference, WHOLE) else (reference, budget)

    def whole(policy: str, _budget: int) -> tuple[str, int] | None:
        return None if policy == WHOLE else next((arm for arm in columns if arm[0] == WHOLE), None)

    differences = {
        (*key, name): found
        for name in drawn
        for key, found in _tests(cells, columns, name, drawn[name], rival, seed).items()
    }
    from_whole = _tests(cells, columns, "held_out", drawn["held_out"], whole, seed) if cells else {}
    base = {name: mean([before(cell.sets.get(name)) for cell in cells]) for name in ("held_out", "pool")}
    target, target_of = _target(arms, reference, target)
    learning = {
        policy: [places for (name, _), places in columns.items() if name == policy]
        for policy in dict.fromkeys(cell.policy for cell in cells)
        if policy != WHOLE
    }
    points = {
        policy: [
            learning_curves.Point(
                mean([float(cells[at].labels) for at in places]),
                mean([each[at]["held_out"] for at in places]),
                arm_draws(drawn["held_out"], places, seed),
            )
            for places in budgets
        ]
        for policy, budgets in learning.items()
    }
    return Summary(
        reference=reference,
        base=base,
        arms=arms,
        differences=differences,
        from_whole=from_whole,
        target=target,
        target_of=target_of,
        reach=tuple(
            learning_curves.reach(policy, points[policy], base["held_out"], target) for policy in points
        ),
        areas=learning_curves.areas([cell for cell in cells if cell.policy != WHOLE]),
        standings=_standings(arms, differences),
        notes=_notes(arms, differences, reference),
    )


def _ordered(cells: Sequence[CellResult], reference: str, order: Sequence[str]) -> list[CellResult]:
    named = {policy: at for at, policy in enumerate(order)}

    def rank(cell: CellResult) -> tuple[bool, bool, int, str, int, int]:
        place = named.get(cell.policy, len(named))
        return cell.policy == WHOLE, cell.policy != reference, place, cell.policy, cell.budget, cell.seed

    return sorted(cells, key=rank)


def _check(cells: Sequence[CellResult]) -> None:
    """One cell per place, and the same questions in all: else the differences are between questions, not policies."""
    places = [(cell.policy, cell.budget, cell.seed) for cell in cells]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ValueError(f"policy {twice[0]!r}, budget {twice[1]}, seed {twice[2]} is there twice")
    for name in ("held_out", "pool"):
        first: tuple[CellResult, list[tuple[str, bool]]] | None = None
        for cell in cells:
            rows = cell.sets.get(name)
            if rows is None or not len(rows.ids):
                continue
            asked = sorted(zip(rows.ids, rows.before.tolist(), strict=True))
            if first is not None and asked != first[1]:
                what = (
                    "questions"
                    if [id_ for id_, _ in asked] != [id_ for id_, _ in first[1]]
                    else "base answers"
                )
                raise RunError(
                    f"{name}: the cell {cell.policy} / {cell.budget} / {cell.seed} has other {what} than "
                    f"{first[0].policy} / {first[0].budget} / {first[0].seed}. They were evaluated with different "
                    "settings: compare in a new directory, or delete the older cells."
                )
            first = first or (cell, asked)


def _tests(
    cells: Sequence[CellResult],
    columns: Mapping[tuple[str, int], Sequence[int]],
    measure: str,
    drawn: Resampled,
    other: Callable[[str, int], tuple[str, int] | None],
    seed: int,
) -> dict[tuple[str, int], Difference]:
    """The tests of one measure, every arm against its `other` (None: not tested), as one family."""
    found = {}
    for (policy, budget), places in columns.items():
        against = other(policy, budget)
        theirs = {} if against is None else {cells[at].seed: at for at in columns.get(against, ())}
        one = [at for at in places if cells[at].seed in theirs]
        test = paired_test(drawn, one, [theirs[cells[at].seed] for at in one], seed)
        if test is not None:
            found[policy, budget] = (test, len(one))
    corrected = holm({key: test.p for key, (test, _) in found.items()})
    return {
        key: Difference(
            *key, measure, seeds, *test, corrected[key], _verdict(test.interval, corrected[key], measure)
        )
        for key, (test, seeds) in found.items()
    }


def _verdict(interval: Interval, p: float, measure: str) -> str:
    """Clear only if the interval leaves 0 out and the corrected p is below 5 %."""
    if p >= LEVEL or interval.low <= 0 <= interval.high:
        return UNCLEAR
    return BETTER if (interval.value > 0) == MEASURES[measure].higher else WORSE


def _target(arms: Sequence[Arm], reference: str, given: float | None) -> tuple[float, str]:
    if given is not None:
        return given, "as given"
    for policy, words in ((WHOLE, "the whole pool's"), (reference, f"the best of {reference}")):
        means = [arm.measures["held_out"].mean for arm in arms if arm.policy == policy]
        finite = [mean for mean in means if math.isfinite(mean)]
        if finite:
            return max(finite), words
    return math.nan, ""


def _standings(
    arms: Sequence[Arm], differences: Mapping[tuple[str, int, str], Difference]
) -> tuple[Standing, ...]:
    found = []
    for arm in arms:
        tests = [differences.get((arm.policy, arm.budget, name)) for name in CRITERIA]
        there = [test for test in tests if test is not None]
        if there:
            sides = {
                side: tuple(test.measure for test in there if test.verdict == side)
                for side in (BETTER, WORSE, UNCLEAR)
            }
            found.append(Standing(arm.policy, arm.budget, sides[BETTER], sides[WORSE], sides[UNCLEAR]))
    return tuple(found)


def _notes(
    arms: Sequence[Arm], differences: Mapping[tuple[str, int, str], Difference], reference: str
) -> tuple[str, ...]:
    """What cannot be said, and why."""
    notes = []
    others = [arm for arm in arms if arm.policy not in (reference, WHOLE)]
    theirs = {arm.budget: set(arm.seeds) for arm in arms if arm.policy == reference}
    if others and not theirs:
        notes.append(f"No cell of {reference} is finished, so nothing is tested.")
    elif others and not differences:
        notes.append(
            f"Nothing is tested: a test needs two seeds at least that a policy and {reference} both have at a budget."
        )
    else:
        few = [
            f"{arm.policy} at {arm.budget}"
            for arm in others
            if len(theirs.get(arm.budget, set()) & set(arm.seeds)) < 2
        ]
        if few:
            notes.append(f"Not tested, with fewer than two seeds beside {reference}: {', '.join(few)}.")
    return tuple(notes)
