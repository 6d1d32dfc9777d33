"""The PALM learning curve (arXiv 2507.15381), fitted to a few noisy points, and the band around it.

    A(B) = A_max · (1 − (1 − δ)^((B/b + α)^β))

A_max is the asymptotic score, δ the share of the missing score that one round of b labels covers, α the number of
rounds that the model is ahead before the first label, β how the yield of a round changes (below 1: it falls faster). b
is only the unit of δ and α; the curve does not depend on it.

Three to five points hardly ever identify all four parameters. So the fit has weak priors on the shape
(`curve_solver.PRIOR`), which the points override where they are informative; the result says where they are not. The
curve always rises and stays below 1.

The band is a parametric bootstrap: the points are resampled from their noise, the priors' means from the priors, and
the curve is fitted again. What the points do not determine is as wide in the band as in the priors.
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

# the parameter that each coordinate of the shape mainly determines
_SHAPE = {1: "α", 2: "A_max", 3: "β"}
# share of a coordinate's prior variance; a coordinate that has less left is determined by the points
_DETERMINED = 0.25


class Band(NamedTuple):
    """Low, middle (median) and high, of the same shape; infinite if a target is not reached."""

    low: Array
    middle: Array
    high: Array


@dataclass(frozen=True)
class Curve:
    """PALM curves: one (numbers), or many (arrays [curves]).

    `rate` is −ln(1 − δ), which stays exact for δ close to 1; `batch` is b, in labels.
    """

    a_max: Array | float
    rate: Array | float
    alpha: Array | float
    beta: Array | float
    batch: float

    @property
    def delta(self) -> Array:
        """Coverage of one round, 0 to 1."""
        return np.asarray(-np.expm1(-np.asarray(self.rate)))

    def __call__(self, labels: Array | float) -> Array:
        """Scores at these labels: [labels] of one curve, [curves, labels] of many."""
        a_max, rate, alpha, beta = (
            np.asarray(part)[..., None] for part in (self.a_max, self.rate, self.alpha, self.beta)
        )
        rounds = np.atleast_1d(np.asarray(labels, dtype=np.float64)) / self.batch + alpha
        return np.asarray(-a_max * np.expm1(-rate * rounds**beta))

    def labels_for(self, score: float) -> Array:
        """Labels at which a curve reaches the score: 0 if it starts above it, infinite if it never does."""
        a_max = np.asarray(self.a_max)
        with np.errstate(invalid="ignore", divide="ignore"):
            depth = -np.log1p(-np.minimum(score / a_max, 1.0))
            labels = self.batch * ((depth / self.rate) ** (1 / np.asarray(self.beta)) - self.alpha)
        return np.asarray(np.where(score < a_max, np.maximum(labels, 0.0), np.inf))


@dataclass(frozen=True)
class Fit:
    """A curve fitted to points, and the curves fitted to resampled points.

    Attributes:
        curve: the most plausible curve.
        draws: the curves of the bootstrap.
        points: with the spread that was used.
        trend: of the points; the curve of falling scores has no meaning.
        identified: whether the points alone determine all four parameters.
        note: what is not determined by the points, as text.
        widened: factor on the noise, above 1 if the points are further from the curve than their noise explains.
    """

    curve: Curve
    draws: Curve
    points: Points
    trend: Trend
    identified: bool
    note: str
    widened: float

    def band(self, labels: Array | float, level: float = 0.95) -> Band:
        """Band of the scores at these labels, [labels]."""
        return percentiles(self.draws(labels), level)

    def gain(self, start: float, labels: Array | float, level: float = 0.95) -> Band:
        """Band of what so many labels after `start` add to the score, [labels]."""
        after = np.asarray(labels, dtype=np.float64) + start
        return percentiles(self.draws(after) - self.draws(start), level)

    def labels_for(self, score: float, level: float = 0.95) -> Band:
        """Band of the total labels that reach a score, [1]; infinite if it is not reached."""
        return percentiles(self.draws.labels_for(score)[:, None], level)


def percentiles(values: Array, level: float) -> Band:
    """The band that contains the middle `level` of the draws, [columns]. Values may be infinite.

    Args:
        values: [draws, columns].
        level: 0 to 1.
    """
    shares = (0.5 - level / 2, 0.5, 0.5 + level / 2)
    # no interpolation, which is undefined between a number and infinity
    return Band(*(np.quantile(values, share, axis=0, method="nearest") for share in shares))


def fit(points: Points, batch: float | None = None, draws: int = 200, seed: int = 0) -> Fit:
    """The most plausible curve, and the curves of `draws` bootstrap resamples.

    Args:
        points: at least two.
        batch: b, the unit of δ and α in labels; None: the first step between budgets.
        draws: number of resamples.
        seed: of the bootstrap.

    Raises:
        DegenerateError: fewer than two points.
    """
    if len(points.budgets) < 2:
        raise DegenerateError(
            "One point is not a curve. Measure a second number of labels; the base model counts as 0 labels."
        )
    batch = float(points.budgets[1] - points.budgets[0]) if batch is None else batch
    problem = Problem.of(points.budgets, points.scores, points.covariance)
    found = problem.best(points.scores[None], PRIOR[None, :, 0], problem.starts())[0]
    # before `_noise`, which would take a fall for noise around a curve that cannot fall
    first_trend = trend(points)
    points, widened = _noise(points, problem, found)
    problem = Problem.of(points.budgets, points.scores, widened**2 * points.covariance)
    found = problem.best(points.scores[None], PRIOR[None, :, 0], np.vstack([problem.starts(), found]))[0]
    rng = np.random.default_rng(seed)
    resampled = problem.best(
        resampled_scores(points, draws, widened, rng),
        PRIOR[:, 0] + PRIOR[:, 1] * rng.standard_normal((draws, 4)),
        np.vstack([found, problem.starts()[[1, 7]]]),
    )
    assumed = [name for axis, name in _SHAPE.items() if problem.left_open(found)[axis] > _DETERMINED]
    return Fit(
        curve=_curve(problem, found, batch),
        draws=_curve(problem, resampled, batch),
        points=points,
        trend=first_trend if first_trend == "falling" else trend(points),
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


def resampled_scores(points: Points, draws: int, widened: float, rng: np.random.Generator) -> Array:
    """Scores resampled from their noise, [draws, points].

    The spread was itself estimated from few trainings, so each draw has its own (Student's t).
    """
    freedom = max(points.spread.freedom, LEAST_FREEDOM)
    factor = np.sqrt(freedom / rng.chisquare(freedom, draws))[:, None]
    values, vectors = np.linalg.eigh(points.shared)
    shared = rng.standard_normal((draws, len(values))) * np.sqrt(np.maximum(values, 0)) @ vectors.T
    own = np.sqrt(points.own(0.0) + factor**2 * (points.own(points.spread.value) - points.own(0.0)))
    noise = shared + own * rng.standard_normal((draws, len(values)))
    return np.asarray(points.scores + widened * noise)


def _noise(points: Points, problem: Problem, found: Array) -> tuple[Points, float]:
    """The points with a spread updated by their distances from a first curve, and a factor for unexplained noise."""
    distance = points.scores - problem.scores(found[None])[0]
    freedom = len(points.budgets) - problem.determined(found)
    spread, trained = points.spread, bool(points.repeats.any())
    more = max(0, round(freedom))
    if spread.freedom < LEAST_FREEDOM and more and trained and not points.shared.any():
        # Nothing else measures the noise of the scores, so their distances from the curve are used.
        assumed = (LEAST_FREEDOM - spread.freedom) * ASSUMED_SPREAD**2
        squares = max(0.0, LEAST_FREEDOM * spread.value**2 - assumed)
        squares += float((points.repeats * distance**2).sum())
        points = replace(points, spread=blended(squares, spread.freedom + more)._replace(freedom=spread.freedom))
    if freedom < 0.5:
        return points, 1.0
    excess = float(distance @ np.linalg.solve(points.covariance, distance)) / freedom
    return points, float(np.sqrt(max(1.0, excess)))


def _note(points: Points, assumed: list[str], widened: float) -> str:
    """What of the curve and its band is assumed rather than measured."""
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
            f"The points lie {widened:.1f} times as far from the curve as their noise explains; the band is widened by "
            f"that."
        )
    return " ".join(parts)
