"""Measured points of a learning curve, and the uncertainty of each of them.

A score has two sources of noise. The questions it was measured on: this part is shared by all points that were measured
on the same questions, so it matters little for differences. And the training itself (seed, order, selected questions):
this part is independent for each model, and only repeated trainings show it. The base model was not trained and has
none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# standard deviation of a score from one training to the next, if no repeated trainings measure it
ASSUMED_SPREAD = 0.02
# degrees of freedom of the spread; those that are missing are filled with the assumption
LEAST_FREEDOM = 4
# standard deviation of the true scores around the best curve, which is only a model of them
MISFIT = 0.005

Trend = Literal["rising", "flat", "falling"]


class Spread(NamedTuple):
    """Standard deviation of a score between trainings, and the degrees of freedom that measure it (0: assumed)."""

    value: float
    freedom: int


@dataclass(frozen=True)
class Points:
    """Scores by number of labels, of one strategy.

    Attributes:
        budgets: [points], labels, strictly ascending.
        scores: [points], 0 to 1.
        repeats: [points], number of trainings that a score is the mean of; 0 for a model that was not trained.
        shared: [points, points], the covariance that comes from the questions.
        spread: between trainings.
        misfit: standard deviation of the true scores around the curve.

    Raises:
        ValueError: the arrays have different lengths, or budgets do not ascend.
    """

    budgets: Array
    scores: Array
    repeats: NDArray[np.intp]
    shared: Array
    spread: Spread
    misfit: float = MISFIT

    def __post_init__(self) -> None:
        n = len(self.budgets)
        if self.scores.shape != (n,) or self.repeats.shape != (n,) or self.shared.shape != (n, n):
            raise ValueError("budgets, scores, repeats and shared are of different lengths")
        if (np.diff(self.budgets) <= 0).any():
            raise ValueError("budgets must rise")

    @property
    def covariance(self) -> Array:
        """Covariance of the scores around the curve, [points, points]."""
        return np.asarray(self.shared + np.diag(self.own(self.spread.value)), dtype=np.float64)

    def own(self, spread: float) -> Array:
        """Independent variance of each score, from its trainings and from the curve's misfit: [points].

        Args:
            spread: standard deviation between trainings.
        """
        trained = np.where(self.repeats > 0, spread**2 / np.maximum(self.repeats, 1), 0.0)
        return np.asarray(trained + self.misfit**2, dtype=np.float64)


def from_scores(scores: Mapping[float, Sequence[float]], shared: Array | None = None) -> Points:
    """Points from the scores of repeated trainings at each number of labels; those at 0 are the base model's.

    Args:
        scores: by labels, 0 to 1, at least one each.
        shared: [points, points], covariance of the mean scores that comes from the questions, in ascending order of
            labels; None: unknown.
    """
    budgets = sorted(scores)
    repeats = [len(scores[labels]) if labels > 0 else 0 for labels in budgets]
    return Points(
        budgets=np.array(budgets, dtype=np.float64),
        scores=np.array([np.mean(scores[labels]) for labels in budgets]),
        repeats=np.array(repeats, dtype=np.intp),
        shared=np.zeros((len(budgets), len(budgets))) if shared is None else shared,
        spread=pooled_spread([scores[labels] for labels in budgets if labels > 0]),
    )


def from_answers(
    right: Mapping[float, NDArray[np.bool_]], groups: Sequence[str], extra: Sequence[Sequence[float]] = ()
) -> Points:
    """Points from every answer: which of the same questions each training got right.

    Args:
        right: by labels, [trainings, questions]; at 0 labels one row, the base model's.
        groups: [questions], the fact each question asks for; wordings of one fact do not count twice.
        extra: scores of other repeated trainings, which also measure the spread (of the other strategies).
    """
    budgets = sorted(right)
    means = np.array([right[labels].mean(axis=0) for labels in budgets])  # [points, questions]
    scores = {labels: right[labels].mean(axis=1).tolist() for labels in budgets}
    points = from_scores(scores, _covariance_of_means(means, groups))
    repeated = [scores[labels] for labels in budgets if labels > 0]
    return Points(
        points.budgets,
        points.scores,
        points.repeats,
        points.shared,
        pooled_spread([*repeated, *extra]),
    )


def pooled_spread(repeated: Sequence[Sequence[float]]) -> Spread:
    """Standard deviation between trainings of the same budget, pooled over budgets.

    A standard deviation from two or three numbers is very uncertain, so degrees of freedom that are missing to
    `LEAST_FREEDOM` are filled with `ASSUMED_SPREAD`.
    """
    freedom = sum(len(scores) - 1 for scores in repeated if scores)
    squares = sum(float(np.var(scores)) * len(scores) for scores in repeated if scores)
    return blended(squares, freedom)


def blended(squares: float, freedom: int) -> Spread:
    """The spread from a sum of squares and its degrees of freedom; missing degrees are filled with the assumption."""
    missing = max(0, LEAST_FREEDOM - freedom)
    variance = (squares + missing * ASSUMED_SPREAD**2) / max(freedom, LEAST_FREEDOM)
    return Spread(float(np.sqrt(variance)), freedom)


def trend(points: Points) -> Trend:
    """Whether the scores rise beyond their noise, from the first to the last; or fall, from any score to the last.

    Student's t-test at 5 %, two-sided, with the degrees of freedom of the spread. Falls are tested from every score, so
    their level is corrected by Bonferroni's method.
    """
    from scipy.stats import t as student

    freedom = max(points.spread.freedom, LEAST_FREEDOM)
    covariance = points.covariance
    variance = np.diag(covariance)
    change = points.scores[-1] - points.scores[:-1]
    deviation = np.sqrt(variance[-1] + variance[:-1] - 2 * covariance[-1, :-1])
    if (change / deviation < -student.ppf(1 - 0.025 / len(change), freedom)).any():
        return "falling"
    return "rising" if change[0] / deviation[0] > student.ppf(0.975, freedom) else "flat"


def _covariance_of_means(values: Array, groups: Sequence[str]) -> Array:
    """Covariance of row means when the columns are a sample of groups: the limit of a bootstrap by group.

    Args:
        values: [points, questions].
        groups: [questions].
    """
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    n_groups = int(codes.max()) + 1 if len(codes) else 0
    centred = values - values.mean(axis=1, keepdims=True)
    sums = np.zeros((len(values), n_groups))
    np.add.at(sums.T, codes, centred.T)
    correction = n_groups / (n_groups - 1) if n_groups > 1 else 1.0
    return np.asarray(correction * (sums @ sums.T) / max(1, values.shape[1]) ** 2, dtype=np.float64)
