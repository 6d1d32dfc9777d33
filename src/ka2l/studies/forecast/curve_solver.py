"""Least squares for PALM curves: thousands of small fits at once, from several starts, with priors on the shape.

PALM's own parameters are strongly correlated, so the search uses coordinates that the points determine almost
independently: the score at the largest budget, the share of it that the model had before the first label, the ratio of
the score still to be gained to the score gained so far, and β. Any coordinates give a curve that rises and stays below
1.

All fits, of all starts and all bootstrap draws, are one batch of Levenberg–Marquardt steps (Marquardt 1963). SciPy's
`least_squares` finds the same curve (tests/studies/forecast/test_curve_solver.py) in some milliseconds per fit; here
two hundred fits take as long.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.studies.forecast.curve_points import Array

# Coordinates: logit of the score at the largest budget; logit of the share of it that the model had without a label;
# log of (score still to be gained) / (score gained so far); log β. Mean and standard deviation of their priors.
PRIOR = np.array([[0.0, 3.0], [0.0, 1.8], [0.0, 1.5], [0.0, 0.6]])
_LIMITS = np.array([[-12.0, 12.0], [-12.0, 12.0], [-8.0, 8.0], [-2.3, 2.3]])
_STEPS = 100
_TOLERANCE = 1e-8  # relative decrease of the cost at which a fit has converged
_EPSILON = 1e-5  # step of the numerical derivative


class Problem(NamedTuple):
    """Weighted least squares of the curve in its coordinates t, [fits, 4].

    Attributes:
        u: [points], budgets divided by the largest one.
        scale: the largest budget, in labels.
        white: [points, points], inverse Cholesky factor of the covariance.
        observed: [points], scores.
    """

    u: Array
    scale: float
    white: Array
    observed: Array

    @classmethod
    def of(cls, budgets: Array, scores: Array, covariance: Array) -> "Problem":
        """The problem for labels [points], scores [points] and the covariance of the scores [points, points]."""
        scale = float(budgets[-1])
        return cls(budgets / scale, scale, np.linalg.inv(np.linalg.cholesky(covariance)), scores)

    def starts(self) -> Array:
        """Starting points of the search, [9, 4]: the measured first and last score, three slopes and three ceilings."""
        first, last = np.clip(self.observed[[0, -1]], 0.005, 0.995)
        ends = (_logit(last), _logit(np.clip(first / last, 0.01, 0.95)))
        return np.array([[*ends, q, beta] for beta in (-0.7, 0.0, 0.5) for q in (-1.5, 0.0, 1.5)])

    def scores(self, t: Array) -> Array:
        """Scores of the curves at the budgets, [fits, points]."""
        a_max, depth, start, beta = _shape(t)
        reached = start[:, None] + self.u * (1 - start[:, None])
        with np.errstate(divide="ignore"):
            power = np.log(depth)[:, None] + beta[:, None] * np.log(reached)
        return np.asarray(-a_max[:, None] * np.expm1(-np.exp(power)))

    def parameters(self, t: Array, batch: float) -> tuple[Array, Array, Array, Array]:
        """A_max, −ln(1 − δ), α and β for rounds of `batch` labels, [fits] each."""
        a_max, depth, start, beta = _shape(t)
        start = np.minimum(start, 1 - 1e-9)
        alpha = self.scale / batch * start / (1 - start)
        return a_max, depth * ((1 - start) * batch / self.scale) ** beta, alpha, beta

    def best(self, observed: Array, prior: Array, starts: Array) -> Array:
        """The best fit from any of the starts, [fits, 4].

        Args:
            observed: [fits, points], scores.
            prior: [fits, 4], means of the priors.
            starts: [starts, 4], tried for every fit.
        """
        fits, tries = len(observed), len(starts)
        t, cost = self._descend(
            np.repeat(observed, tries, axis=0), np.repeat(prior, tries, axis=0), np.tile(starts, (fits, 1))
        )
        chosen = cost.reshape(fits, tries).argmin(axis=1)
        return np.asarray(t.reshape(fits, tries, 4)[np.arange(fits), chosen])

    def _residuals(self, t: Array, observed: Array, prior: Array) -> Array:
        """Whitened residuals of the scores and of the priors, [fits, points + 4]."""
        data = (self.scores(t) - observed) @ self.white.T
        return np.concatenate([data, (t - prior) / PRIOR[:, 1]], axis=1)

    def _jacobian(self, t: Array) -> Array:
        """Derivative of the residuals, [fits, points + 4, 4]."""
        steps = _EPSILON * np.eye(4)
        data = [(self.scores(t + step) - self.scores(t - step)) @ self.white.T / (2 * _EPSILON) for step in steps]
        prior = np.broadcast_to(np.diag(1 / PRIOR[:, 1]), (len(t), 4, 4))
        return np.concatenate([np.stack(data, axis=2), prior], axis=1)

    def _descend(self, observed: Array, prior: Array, t: Array) -> tuple[Array, Array]:
        """Levenberg–Marquardt on all rows at once: coordinates [fits, 4] and costs [fits], half the sum of squares."""
        t = np.clip(t, *_LIMITS.T)
        residuals = self._residuals(t, observed, prior)
        cost = 0.5 * (residuals**2).sum(axis=1)
        damping = np.full(len(t), 1e-2)
        active = np.arange(len(t))
        for _ in range(_STEPS):
            # one damped step of every fit that has not converged
            jacobian = self._jacobian(t[active])
            normal = jacobian.transpose(0, 2, 1) @ jacobian
            slope = jacobian.transpose(0, 2, 1) @ residuals[active][..., None]
            damped = normal + damping[active, None, None] * normal * np.eye(4)
            tried = np.clip(t[active] - np.linalg.solve(damped, slope)[..., 0], *_LIMITS.T)
            tried_residuals = self._residuals(tried, observed[active], prior[active])
            tried_cost = 0.5 * (tried_residuals**2).sum(axis=1)
            # steps that lower the cost are taken; the others are tried again with more damping
            better = tried_cost < cost[active]
            small_decrease = cost[active] - tried_cost <= _TOLERANCE * cost[active]
            converged = np.where(better, small_decrease, damping[active] > 1e8)
            rows = active[better]
            t[rows], residuals[rows], cost[rows] = tried[better], tried_residuals[better], tried_cost[better]
            damping[active] = np.clip(damping[active] * np.where(better, 0.2, 5.0), 1e-12, None)
            active = active[~converged]
            if not len(active):
                break
        return t, cost

    def _information(self, t: Array) -> Array:
        """Fisher information of the points about the coordinates, without the priors: [4, 4]."""
        data = self._jacobian(t[None])[0, :-4]
        return np.asarray(data.T @ data)

    def left_open(self, t: Array) -> Array:
        """The share of each coordinate's prior variance that remains once the points are known, [4]."""
        covariance = np.linalg.inv(self._information(t) + np.diag(PRIOR[:, 1] ** -2))
        return np.asarray(np.diag(covariance) / PRIOR[:, 1] ** 2)

    def determined(self, t: Array) -> float:
        """How many coordinates the points determine, as a sum of shares."""
        information = self._information(t)
        return float(np.trace(np.linalg.solve(information + np.diag(PRIOR[:, 1] ** -2), information)))


def _shape(t: Array) -> tuple[Array, Array, Array, Array]:
    """From coordinates [fits, 4]: A_max, −ln(1 − A/A_max) at the largest budget, α/(α + largest budget), β."""
    last, share = _sigmoid(t[:, 0]), _sigmoid(t[:, 1])
    beta = np.exp(t[:, 3])
    # last − first, exact where they are close
    gained = last * _sigmoid(-t[:, 1])
    ratio, room = np.exp(t[:, 2]), _sigmoid(-t[:, 0])
    # still to be gained: never more than what is missing to 1
    left = ratio * gained * room / (room + ratio * gained)
    a_max = last + left
    depth = np.log(a_max) - np.log(left)
    first = -np.log1p(-last * share / a_max)
    start = np.exp((np.log(first) - np.log(depth)) / beta)
    return a_max, depth, start, beta


def _sigmoid(x: NDArray[np.float64]) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _logit(x: float) -> float:
    return float(np.log(x / (1 - x)))
