"""The cells of a grid, all or some, as statistics: means over seeds, tests against random, labels to a target.

    summary = summarize(cells)
    summary.arm("unknown", 120).measures["held_out"].mean

Pure; the order of the cells does not matter. What cannot be tested (one seed, no random arm) is said in `notes`.
"""

import math
from collections.abc import Mapping, Sequence

from ka2l.common.curve_statistics import Resampled, arm_draws, estimate, mean
from ka2l.errors import RunError
from ka2l.studies.comparison.cell_results import CellResult
from ka2l.studies.comparison.learning_curves import Point, areas, labels_to_target
from ka2l.studies.comparison.measures import TESTED, before, values
from ka2l.studies.comparison.paired_resampling import differences_of_arms, resample
from ka2l.studies.comparison.summary import (
    BETTER,
    CRITERIA,
    REFERENCE,
    UNCLEAR,
    WHOLE,
    WORSE,
    Arm,
    ArmKey,
    Difference,
    Standing,
    Summary,
)

Columns = Mapping[ArmKey, Sequence[int]]  # the places of each arm's cells


def summarize(
    cells: Sequence[CellResult],
    *,
    reference: str = REFERENCE,
    target: float | None = None,
    order: Sequence[str] = (),
    resamples: int = 4000,
    seed: int = 0,
) -> Summary:
    """All statistics of the finished cells; an unfinished or empty grid gives those that it has values for.

    Args:
        cells: in any order; at most one per policy, budget and seed.
        reference: the policy that all others are tested against.
        target: held-out share to reach; None: the mean of the whole pool's arm, else the best of the reference.
        order: policies in the order of the tables; those not named follow by name.
        resamples: of the bootstrap. p cannot be below 2 / (resamples + 1).
        seed: of the bootstrap.

    Raises:
        ValueError: two cells have the same policy, budget and seed.
        RunError: cells were evaluated on different held-out or pool questions.
    """
    cells = _ordered(cells, reference, order)
    _check_same_questions(cells)
    columns: dict[ArmKey, list[int]] = {}
    for at, cell in enumerate(cells):
        columns.setdefault((cell.policy, cell.budget), []).append(at)
    measured = [values(cell) for cell in cells]
    arms = _arms(cells, columns, measured)
    resampled = {name: resample(cells, name, resamples, seed) for name in TESTED} if cells else {}
    differences = _from_reference(cells, columns, resampled, reference, seed)
    base = {name: mean([before(cell.sets.get(name)) for cell in cells]) for name in ("held_out", "pool")}
    target, target_of = _target(arms, reference, target)
    curves = _curves(cells, columns, measured, resampled, seed)
    return Summary(
        reference=reference,
        base=base,
        arms=arms,
        differences=differences,
        from_whole=_from_whole(cells, columns, resampled, seed),
        target=target,
        target_of=target_of,
        labels_to_target=tuple(
            labels_to_target(policy, points, base["held_out"], target) for policy, points in curves.items()
        ),
        areas=areas([cell for cell in cells if cell.policy != WHOLE]),
        standings=_standings(arms, differences),
        notes=_notes(arms, differences, reference),
    )


def _ordered(cells: Sequence[CellResult], reference: str, order: Sequence[str]) -> list[CellResult]:
    """The reference first, the whole pool last; by policy, budget and seed."""
    named = {policy: at for at, policy in enumerate(order)}

    def rank(cell: CellResult) -> tuple[bool, bool, int, str, int, int]:
        place = named.get(cell.policy, len(named))
        return cell.policy == WHOLE, cell.policy != reference, place, cell.policy, cell.budget, cell.seed

    return sorted(cells, key=rank)


def _check_same_questions(cells: Sequence[CellResult]) -> None:
    """One cell per place, and the same questions in all: else the differences are between questions, not policies."""
    places = [(cell.policy, cell.budget, cell.seed) for cell in cells]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ValueError(f"policy {twice[0]!r}, budget {twice[1]}, seed {twice[2]} is given twice")
    for name in ("held_out", "pool"):
        first: tuple[CellResult, list[tuple[str, bool]]] | None = None
        for cell in cells:
            rows = cell.sets.get(name)
            if rows is None or not len(rows.ids):
                continue
            asked = sorted(zip(rows.ids, rows.before.tolist(), strict=True))
            if first is not None and asked != first[1]:
                same_ids = [id_ for id_, _ in asked] == [id_ for id_, _ in first[1]]
                raise RunError(
                    f"{name}: the cell {cell.policy} / {cell.budget} / {cell.seed} has other "
                    f"{'base answers' if same_ids else 'questions'} than "
                    f"{first[0].policy} / {first[0].budget} / {first[0].seed}. They were evaluated with different "
                    "settings: compare in a new directory, or delete the older cells."
                )
            first = first or (cell, asked)


def _arms(cells: Sequence[CellResult], columns: Columns, measured: Sequence[Mapping[str, float]]) -> tuple[Arm, ...]:
    """Every arm with the mean and spread of each measure."""
    return tuple(
        Arm(
            policy,
            cells[places[0]].strategy,
            budget,
            tuple(cells[at].seed for at in places),
            {name: estimate([measured[at][name] for at in places]) for name in measured[places[0]]},
        )
        for (policy, budget), places in columns.items()
    )


def _from_reference(
    cells: Sequence[CellResult],
    columns: Columns,
    resampled: Mapping[str, Resampled],
    reference: str,
    seed: int,
) -> dict[tuple[str, int, str], Difference]:
    """Every arm against the reference at the same budget, on every tested measure."""

    def other_arm(arm: ArmKey) -> ArmKey | None:
        policy, budget = arm
        return None if policy in (reference, WHOLE) else (reference, budget)

    return {
        (*arm, name): difference
        for name, draws in resampled.items()
        for arm, difference in differences_of_arms(cells, columns, name, draws, other_arm, seed).items()
    }


def _from_whole(
    cells: Sequence[CellResult], columns: Columns, resampled: Mapping[str, Resampled], seed: int
) -> dict[ArmKey, Difference]:
    """Every arm against the whole pool, on held-out questions."""
    whole = next((arm for arm in columns if arm[0] == WHOLE), None)

    def other_arm(arm: ArmKey) -> ArmKey | None:
        return None if arm[0] == WHOLE else whole

    if not cells:
        return {}
    return differences_of_arms(cells, columns, "held_out", resampled["held_out"], other_arm, seed)


def _curves(
    cells: Sequence[CellResult],
    columns: Columns,
    measured: Sequence[Mapping[str, float]],
    resampled: Mapping[str, Resampled],
    seed: int,
) -> dict[str, list[Point]]:
    """The held-out learning curve of each policy, without the whole pool."""
    curves: dict[str, list[Point]] = {}
    for (policy, _), places in columns.items():
        if policy != WHOLE:
            point = Point(
                mean([float(cells[at].labels) for at in places]),
                mean([measured[at]["held_out"] for at in places]),
                arm_draws(resampled["held_out"], places, seed),
            )
            curves.setdefault(policy, []).append(point)
    return curves


def _target(arms: Sequence[Arm], reference: str, given: float | None) -> tuple[float, str]:
    """The held-out share to reach, and where it comes from: given, the whole pool's, or the reference's best."""
    if given is not None:
        return given, "as given"
    for policy, origin in ((WHOLE, "the whole pool's"), (reference, f"the best of {reference}")):
        means = [arm.measures["held_out"].mean for arm in arms if arm.policy == policy]
        finite = [mean for mean in means if math.isfinite(mean)]
        if finite:
            return max(finite), origin
    return math.nan, ""


def _standings(arms: Sequence[Arm], differences: Mapping[tuple[str, int, str], Difference]) -> tuple[Standing, ...]:
    """Every arm that is tested on at least one of the three criteria."""
    tested = []
    for arm in arms:
        of_criteria = [differences.get((arm.policy, arm.budget, name)) for name in CRITERIA]
        tests = [test for test in of_criteria if test is not None]
        if tests:
            by_verdict = {
                verdict: tuple(test.measure for test in tests if test.verdict == verdict)
                for verdict in (BETTER, WORSE, UNCLEAR)
            }
            tested.append(Standing(arm.policy, arm.budget, by_verdict[BETTER], by_verdict[WORSE], by_verdict[UNCLEAR]))
    return tuple(tested)


def _notes(
    arms: Sequence[Arm], differences: Mapping[tuple[str, int, str], Difference], reference: str
) -> tuple[str, ...]:
    """What cannot be tested, and why."""
    others = [arm for arm in arms if arm.policy not in (reference, WHOLE)]
    reference_seeds = {arm.budget: set(arm.seeds) for arm in arms if arm.policy == reference}
    if others and not reference_seeds:
        return (f"No cell of {reference} is finished, so nothing is tested.",)
    if others and not differences:
        return (
            f"Nothing is tested: a test needs two seeds at least that a policy and {reference} both have at a budget.",
        )
    few = [
        f"{arm.policy} at {arm.budget}"
        for arm in others
        if len(reference_seeds.get(arm.budget, set()) & set(arm.seeds)) < 2
    ]
    if few:
        return (f"Not tested, with fewer than two seeds beside {reference}: {', '.join(few)}.",)
    return ()
