"""The statistics of a comparison as values: arms, differences from random, standings, and what cannot be tested."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ka2l.common.curve_statistics import Estimate
from ka2l.common.intervals import Interval
from ka2l.studies.comparison.learning_curves import Area, LabelsToTarget

REFERENCE, WHOLE = "random", "full"
# A policy that is clearly better than the reference on all three wins.
CRITERIA = ("per_label", "held_out", "forgotten")
LEVEL = 0.05
BETTER: Final = "better"
WORSE: Final = "worse"
UNCLEAR: Final = "no clear difference"
Verdict = Literal["better", "worse", "no clear difference"]
ArmKey = tuple[str, int]  # policy, budget


@dataclass(frozen=True, slots=True)
class Arm:
    """A policy at a budget: every measure over its seeds."""

    policy: str
    strategy: str
    budget: int
    seeds: tuple[int, ...]
    measures: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm minus another (random at the same budget, or the whole pool), over the seeds both have.

    The interval's `n` counts question groups; `p_holm` is corrected over all policies and budgets tested on this
    measure.
    """

    policy: str
    budget: int
    measure: str
    seeds: int
    interval: Interval
    p: float
    p_holm: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Standing:
    """An arm against random on the three criteria (measure names); a criterion that is not tested is in no tuple."""

    policy: str
    budget: int
    better: tuple[str, ...]
    worse: tuple[str, ...]
    unclear: tuple[str, ...]

    @property
    def wins(self) -> bool:
        """Clearly better on all three."""
        return self.better == CRITERIA


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that the tables, the figures and the page show.

    Attributes:
        reference: the policy that the others are tested against.
        base: share of right answers before fine-tuning, by set (held_out, pool).
        arms: the reference first, the whole pool last.
        differences: from the reference, by policy, budget and measure.
        from_whole: on held-out questions, every arm minus the whole pool's.
        target: held-out share to reach; NaN if there is none.
        target_of: where the target comes from, as text.
        labels_to_target: one per policy, without the whole pool.
        areas: likewise.
        standings: of the arms that are tested on a criterion.
        notes: what cannot be tested, and why.
    """

    reference: str
    base: Mapping[str, float]
    arms: tuple[Arm, ...]
    differences: Mapping[tuple[str, int, str], Difference]
    from_whole: Mapping[ArmKey, Difference]
    target: float
    target_of: str
    labels_to_target: tuple[LabelsToTarget, ...]
    areas: tuple[Area, ...]
    standings: tuple[Standing, ...]
    notes: tuple[str, ...]

    def arm(self, policy: str, budget: int) -> Arm | None:
        """The arm; None if none of its cells is finished."""
        return next((arm for arm in self.arms if (arm.policy, arm.budget) == (policy, budget)), None)

    @property
    def policies(self) -> tuple[str, ...]:
        """All policies in the order of the tables."""
        return tuple(dict.fromkeys(arm.policy for arm in self.arms))

    @property
    def budgets(self) -> tuple[int, ...]:
        """The budgets in ascending order, without that of the whole pool."""
        return tuple(sorted({arm.budget for arm in self.arms if arm.policy != WHOLE}))

    @property
    def winners(self) -> tuple[Standing, ...]:
        """The arms that are clearly better than random on all three criteria."""
        return tuple(standing for standing in self.standings if standing.wins)
