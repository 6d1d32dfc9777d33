"""What a comparison compares when nothing else is asked for: the defaults of `ka2l compare` and of the Python API.

Usage:

    ka2l.compare(config, Path("runs/geo"), ka2l.Grid(*default_grid(config)))
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ka2l.config.run_config import RunConfig
    from ka2l.studies.comparison.policies import Policy

STRATEGIES = ("unknown", "random")
REPETITIONS = 3


class DefaultGrid(NamedTuple):
    """The fields of a `Grid`, in its order."""

    policies: Sequence["Policy"]
    budgets: Sequence[int]
    seeds: Sequence[int]


def default_grid(config: "RunConfig") -> DefaultGrid:
    """The strategies `unknown` and `random`, half of `select.budget` and all of it, and the seeds 0, 1 and 2."""
    from ka2l.studies.comparison.policies import parse_policies

    return DefaultGrid(parse_policies(config, STRATEGIES, []), default_budgets(config), range(REPETITIONS))


def default_budgets(config: "RunConfig") -> list[int]:
    """Half of `select.budget` (at least 1) and all of it."""
    return sorted({max(1, config.select.budget // 2), config.select.budget})
