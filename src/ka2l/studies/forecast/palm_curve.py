"""The PALM learning curve (arXiv 2507.15381), fitted to a few noisy points, and the band around it.

    A(B) = A_max · (1 − (1 − δ)^((B/b + α)^β))

A_max is the score that is reached in the end, δ the share of what is missing that one round of b labels covers, α the
rounds that the model is ahead before the first label, β how the yield of a round changes (below 1: it falls faster).
b is only the unit of δ and α; the curve does not depend on it.

Four parameters through three or five points are hardly ever all identified. So the fit has mild assumptions about the
shape (`solver.PRIOR`), they give way where the points speak, and the result says where they did not. The curve always
rises and stays below 1.

The band is a parametric bootstrap: the points are drawn anew from their noise, the assumptions from their own spread,
and the curve is fitted again. So what nobody measured is as wide in the band as it is in the assumptions.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ka2l.errors import DegenerateError
from ka2l.studies.forecast.curve_points import (
    ASSUMED_SPREAD,
    LEAST_FREEDOM,
    Array,
    Points,
    Trend,
    blended,
    trend,
)
from ka2l.studies.forecast.curve_solver import PRIOR, Problem

_SHAPE = {1: "α", 2: "A_max", 3: "β"}  # which parameter a coordinate of the shape decides
_LEARNED = 0.25  # of a coordinate's assumed variance; what the points leave less of, they have determined


class Band(NamedTuple):
    """Low, middle (median) and high, alike in shape; infinite where a target is not reached."""

    low: Array
    middle: Array
    high: Array


@dataclass(frozen=True)
class Curve:
    """PALM curves: one (numbers), or many (arrays [curves])."""

    a_max: Array | float
    rate: Array | float  # −ln(1 − δ): stays exact where δ is next to 1
    alpha: Array | float
    beta: Array | float
    batch: float  # b, labels

    @property
    def delta(self) -> Array:
        """Coverage of one round, 0 to 1."""
        return np.asarray(-np.expm1(-np.asarray(self.rate)))

    def __call__(self, labels: Array | float) -> Array:
        """Scores, [labels], of many curves [curves, labels]."""
        a_max, rate, alpha, beta = (
            np.asarray(part)[..., None] for part in (self.a_max, self.rate, self.alpha, self.beta)
        )
        rounds = np.atleast_1d(np.asarray(labels, dtype=np.float64)) / self.batch + alpha
        return np.asarray(-a_max * np.expm1(-rate * rounds**beta))

    def labels_for(self, score: float) -> Array:
        """Labels at which a curve reaches the score: 0 where it does so without any, infinite where never."""
        a_max = np.asarray(self.a_max)
        with np.errstate(invalid="ignore", divide="ignore"):
            depth = -np.log1p(-np.minimum(score / a_max, 1.0))
            labels = self.batch * ((depth / self.rate) ** (1 / np.asarray(self.beta)) - self.alpha)
        return np.asarray(np.where(score < a_max, np.maximum(labels, 0.0), np.inf))


@dataclass(frozen=True)
class Fit:
    """A curve through points, and as many others as the points could have been fitted by."""

    curve: Curve
    draws: Curve
    points: Points  # with the spread that was used
    trend: Trend  # of the points: a curve through scores that fall is none
    identified: bool  # whether the points alone decide all four parameters
    note: str  # what does not come from the points
    widened: (
        float  # by how much the noise was multiplied, because the points lie further off than it explains
    )

    def band(self, labels: Array | float, level: float = 0.95) -> Band:
        """The scores at these labels, [labels]."""
        return percentiles(self.draws(labels), level)

    def gain(self, start: float, labels: Array | float, level: float = 0.95) -> Band:
        """What the labels after `start` add to the score, [labels]."""
        after = np.asarray(labels, dtype=np.float64) + start
        return percentiles(self.draws(after) - self.draws(start), level)

    def labels_for(self, score: float, level: float = 0.95) -> Band:
        """Labels in all that reach a score, [1]: infinite where it is not reached."""
        return percentiles(self.draws.labels_for(score)[:, None], level)


def percentiles(values: Array, level: float) -> Band:
    """The band that holds the middle `level` of the draws. Values may be infinite.

    Args:
        values: [draws, columns].
        level: 0 to 1.
    """
    shares = (0.5 - level / 2, 0.5, 0.5 + level / 2)
    # no interpolation: between a number and infinity there is nothing to take
    return Band(*(np.quantile(values, share, axis=0, method="nearest") for share in shares))


def fit(points: Points, batch: float | None = None, draws: int = 200, seed: int = 0) -> Fit:
    """The most plausible curve and `draws` others.

    Args:
        points: at least two.
        batch: b, the unit of δ and α in labels; none: the first step.
        draws: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DegenerateError: fewer than two points: a curve needs a direction.
    """
    if len(points.budgets) < 2:
        raise DegenerateError(
            "One point is not a curve. Measure a second number of labels; the base model counts as 0 labels."
        )
    batch = float(points.budgets[1] - points.budgets[0]) if batch is None else batch
    problem = Problem.of(points.budgets, points.scores, points.covariance)
    found = problem.best(points.scores[None], PRIOR[None, :, 0], problem.starts())[0]
    way = trend(points)  # before a fall is taken for noise around a curve that cannot fall
    points, widened = _noise(points, problem, found)
    problem = Problem.of(points.budgets, points.scores, widened**2 * points.covariance)
    found = problem.best(points.scores[None], PRIOR[None, :, 0], np.vstack([problem.starts(), found]))[0]
    rng = np.random.default_rng(seed)
    again = problem.best(
        scores_anew(points, draws, widened, rng),
        PRIOR[:, 0] + PRIOR[:, 1] * rng.standard_normal((draws, 4)),
        np.vstack([found, problem.starts()[[1, 7]]]),
    )
    assumed = [name for axis, name in _SHAPE.items() if problem.left_open(found)[axis] > _LEARNED]
    return Fit(
        curve=_curve(problem, found, batch),
        draws=_curve(problem, again, batch),
        points=points,
        trend=way if way == "falling" else trend(points),
        identified=not assumed and len(points.budgets) >= 4,
        note=_note(points, assumed, widened),
        widened=widened,
    )


def _curve(problem: Problem, found: Array, batch: float) -> Curve:
    """One curve from coordinates [4], many from [fits, 4]."""
    a_max, rate, alpha, beta = problem.parameters(np.atleast_2d(found), batch)
    if found.ndim == 1:
        return Curve(a_max[0], rate[0], alpha[0], beta[0], batch)
    return Curve(a_max, rate, alpha, beta, batch)


def scores_anew(points: Points, draws: int, widened: float, rng: np.random.Generator) -> Array:
    """The points as they could have come out as well, [draws, points].

    How large the spread is was itself estimated, from few trainings: each draw has its own (Student's t).
    """
    freedom = max(points.spread.freedom, LEAST_FREEDOM)
    factor = np.sqrt(freedom / rng.chisquare(freedom, draws))[:, None]
    values, vectors = np.linalg.eigh(points.shared)
    shared = rng.standard_normal((draws, len(values))) * np.sqrt(np.maximum(values, 0)) @ vectors.T
    own = np.sqrt(points.own(0.0) + factor**2 * (points.own(points.spread.value) - points.own(0.0)))
    noise = shared + own * rng.standard_normal((draws, len(values)))
    return np.asarray(points.scores + widened * noise)


def _noise(points: Points, problem: Problem, found: Array) -> tuple[Points, float]:
    """The spread between trainings, once the distances from a first curve are known, and a factor for the rest."""
    distance = points.scores - problem.scores(found[None])[0]
    freedom = len(points.budgets) - problem.determined(found)
    spread, trained = points.spread, bool(points.repeats.any())
    more = max(0, round(freedom))
    if spread.freedom < LEAST_FREEDOM and more and trained and not points.shared.any():
        # Nothing else says how noisy the scores are, so how smoothly they lie has a say.
        assumed = (LEAST_FREEDOM - spread.freedom) * ASSUMED_SPREAD**2
        squares = max(0.0, LEAST_FREEDOM * spread.value**2 - assumed)
        squares += float((points.repeats * distance**2).sum())
        points = replace(
            points, spread=blended(squares, spread.freedom + more)._replace(freedom=spread.freedom)
        )
    if freedom < 0.5:
        return points, 1.0
    excess = float(distance @ np.linalg.solve(points.covariance, distance)) / freedom
    return points, float(np.sqrt(max(1.0, excess)))


def _note(points: Points, assumed: list[str], widened: float) -> str:
    """What a reader has to know about where the curve comes from."""
    parts = []
    if assumed:
        budgets = len(points.budgets)
        verb = "come" if len(assumed) > 1 else "comes"
        parts.append(
            f"These {budgets} points do not determine the whole curve: {', '.join(assumed)} {verb} largely from an "
            "assumption about how such curves look, and the band is as wide as that leaves it."
        )
    if points.spread.freedom < LEAST_FREEDOM and points.repeats.any():
        source = "Too few" if points.spread.freedom else "No"
        parts.append(
            f"{source} repeated trainings show how much a score varies with the seed: a standard deviation of "
            f"{points.spread.value:.3f} is taken, in part an assumption."
        )
    if widened > 1.5:
        parts.append(
            f"The points lie {widened:.1f} times as far from the curve as their noise explains; the band is widened by that."
        )
    return " ".join(parts)
