"""The statistics of a comparison as values: arms, differences from random, standings, and what cannot be said."""

from collections.abc import Mapping
from dataclasses import dataclass

from ka2l.common.intervals import Interval
from ka2l.studies.comparison.learning_curves import Area, Reach
from ka2l.studies.comparison.measures import Estimate

REFERENCE, WHOLE = "random", "full"
CRITERIA = ("per_label", "held_out", "forgotten")  # whoever wins on all three wins
LEVEL = 0.05
BETTER, WORSE, UNCLEAR = "better", "worse", "no clear difference"


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
    """A policy minus another (random at the same budget, or the whole pool), over the seeds both have."""

    policy: str
    budget: int
    measure: str
    seeds: int
    interval: Interval  # its n: question groups
    p: float
    p_holm: float  # corrected over all policies and budgets that are tested so
    verdict: str  # better | worse | no clear difference


@dataclass(frozen=True, slots=True)
class Standing:
    """A policy at a budget against random on the three criteria (measure names); those not tested are in none."""

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
    """All that the tables, figures and the page say."""

    reference: str
    base: Mapping[str, float]  # held_out, pool: share that the model has right before teaching
    arms: tuple[Arm, ...]  # the reference first, the whole pool last
    differences: Mapping[tuple[str, int, str], Difference]  # by policy, budget, measure
    from_whole: Mapping[tuple[str, int], Difference]  # held-out, every arm minus the whole pool's
    target: float  # held-out share to reach; NaN where there is none
    target_of: str  # in words
    reach: tuple[Reach, ...]
    areas: tuple[Area, ...]
    standings: tuple[Standing, ...]
    notes: tuple[str, ...]

    def arm(self, policy: str, budget: int) -> Arm | None:
        """The arm, None where no cell of it is finished."""
        return next((arm for arm in self.arms if (arm.policy, arm.budget) == (policy, budget)), None)

    @property
    def policies(self) -> tuple[str, ...]:
        """All policies in the order of the tables."""
        return tuple(dict.fromkeys(arm.policy for arm in self.arms))

    @property
    def budgets(self) -> tuple[int, ...]:
        """The budgets in rising order, without that of the whole pool."""
        return tuple(sorted({arm.budget for arm in self.arms if arm.policy != WHOLE}))

    @property
    def winners(self) -> tuple[Standing, ...]:
        """Policies that are clearly better than random on all three criteria at a budget."""
        return tuple(standing for standing in self.standings if standing.wins)
