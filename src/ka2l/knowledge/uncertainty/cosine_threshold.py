"""The cosine from which two answers mean the same, fitted on pairs of answers whose meaning is known."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ka2l.errors import DegenerateError


class CosineThreshold(NamedTuple):
    """Answers whose cosine is at least `value` count as one."""

    value: float
    # On the fitted pairs: mean of the shares of same and of different pairs that are on their side.
    balanced_accuracy: float
    n_same: int
    n_different: int


def fit_cosine_threshold(cosines: ArrayLike, same: ArrayLike) -> CosineThreshold:
    """The threshold of the highest balanced accuracy, exact: every cut between two neighbouring values is tried.

    It lies midway between the two values; of equally good cuts the one with the widest gap is taken, then the highest.

    Args:
        cosines: of pairs of answers, [pairs].
        same: whether each pair means the same, [pairs].

    Raises:
        DegenerateError: one kind of pairs is missing, a cosine is not finite, or no cut is better than chance.
    """
    values, alike = np.asarray(cosines, dtype=np.float64), np.asarray(same, dtype=bool)
    n_same = int(alike.sum())
    n_different = len(alike) - n_same
    if not n_same or not n_different:
        raise DegenerateError(
            f"measure.embedding_threshold=fit: {n_same} pairs of answers mean the same and {n_different} do not, and "
            "both kinds are needed (questions with several gold answers, and wrong answers). Give a number instead."
        )
    if not np.isfinite(values).all():
        raise DegenerateError("measure.embedding_threshold=fit: a cosine is not finite. Use another embedding model.")
    order = np.argsort(values, kind="stable")
    values, alike = values[order], alike[order]
    below = np.flatnonzero(values[1:] > values[:-1])  # cuts between values[i] and values[i + 1]
    same_below = np.cumsum(alike)[below]
    accuracy = ((n_same - same_below) / n_same + (below + 1 - same_below) / n_different) / 2
    if not len(below) or accuracy.max() <= 0.5:
        raise DegenerateError(
            "measure.embedding_threshold=fit: no cosine separates answers that mean the same from others "
            f"({n_same} and {n_different} pairs). Use another measure.embedding_model, or give a number."
        )
    best = below[accuracy >= accuracy.max() - 1e-12]
    low, high = values[best], values[best + 1]
    pick = np.lexsort((high, high - low))[-1]
    middle = low[pick] + (high[pick] - low[pick]) / 2
    # Between neighbouring floats there is no middle.
    value = middle if middle > low[pick] else high[pick]
    return CosineThreshold(float(value), float(accuracy.max()), n_same, n_different)
