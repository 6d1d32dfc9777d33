"""Conclusions from the tests of a comparison: each arm on the three criteria, the target, and what cannot be tested."""

import math
from collections.abc import Mapping, Sequence

from ka2l.studies.comparison.summary import (
    BETTER,
    CRITERIA,
    UNCLEAR,
    WHOLE,
    WORSE,
    Arm,
    Difference,
    Standing,
)


def target_of_arms(arms: Sequence[Arm], reference: str, given: float | None) -> tuple[float, str]:
    """The held-out share to reach, and where it comes from: given, the whole pool's, or the reference's best."""
    if given is not None:
        return given, "as given"
    for policy, origin in ((WHOLE, "the whole pool's"), (reference, f"the best of {reference}")):
        means = [arm.measures["held_out"].mean for arm in arms if arm.policy == policy]
        finite = [mean for mean in means if math.isfinite(mean)]
        if finite:
            return max(finite), origin
    return math.nan, ""


def standings(
    arms: Sequence[Arm], differences: Mapping[tuple[str, int, str], Difference]
) -> tuple[Standing, ...]:
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
            tested.append(
                Standing(arm.policy, arm.budget, by_verdict[BETTER], by_verdict[WORSE], by_verdict[UNCLEAR])
            )
    return tuple(tested)


def notes(
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
