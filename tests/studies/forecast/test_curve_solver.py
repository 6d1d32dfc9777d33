"""The least squares of the learning curve against SciPy's."""

import numpy as np
from scipy.optimize import least_squares

from curve_data import BUDGETS, TRUE
from ka2l.studies.forecast.curve_solver import PRIOR, Problem


def test_scipy_finds_no_better_curve() -> None:
    rng = np.random.default_rng(3)
    for size in (2, 3, 5, 6):
        budgets = BUDGETS[:size]
        observed = np.clip(TRUE(budgets) + 0.02 * rng.standard_normal(size), 0.01, 0.99)
        problem = Problem.of(budgets, observed, 0.02**2 * np.eye(size))

        def residuals(t: np.ndarray, problem: Problem = problem, observed: np.ndarray = observed) -> np.ndarray:
            data = (problem.scores(t[None])[0] - observed) / 0.02
            return np.concatenate([data, (t - PRIOR[:, 0]) / PRIOR[:, 1]])

        ours = 0.5 * (residuals(problem.best(observed[None], PRIOR[None, :, 0], problem.starts())[0]) ** 2).sum()
        theirs = min(least_squares(residuals, start).cost for start in problem.starts())
        assert ours <= theirs * (1 + 1e-6)
