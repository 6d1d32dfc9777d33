"""The defaults of a comparison, the same for the command and the Python API."""

import pytest

from ka2l.config.recipes import load_config
from ka2l.studies.comparison.default_grid import REPETITIONS, STRATEGIES, default_budgets, default_grid
from ka2l.studies.comparison.run_grid import Grid


def test_the_default_is_unknown_against_random_at_half_the_budget_and_all_of_it() -> None:
    config = load_config(None, ["select.budget=100"])
    grid = Grid(*default_grid(config))
    assert tuple(policy.name for policy in grid.policies) == STRATEGIES == ("unknown", "random")
    assert list(grid.budgets) == [50, 100]
    assert list(grid.seeds) == [0, 1, 2]
    assert len(grid.seeds) == REPETITIONS


@pytest.mark.parametrize(("budget", "budgets"), [(1, [1]), (2, [1, 2]), (3, [1, 3]), (101, [50, 101])])
def test_half_a_budget_is_at_least_one_label(budget: int, budgets: list[int]) -> None:
    assert default_budgets(load_config(None, [f"select.budget={budget}"])) == budgets
