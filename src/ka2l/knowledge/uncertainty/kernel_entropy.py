"""Kernel language entropy: semantic entropy from graded similarities instead of clusters (arXiv 2405.20003).

    similarity = similarity_from_relations(answers, relations)   # from a judge's pairwise relations
    kernel_language_entropy(similarity)                          # nats, 0 to ln N; higher = more uncertain

The answers are the nodes of a graph whose edges are weighted by similarity. The heat kernel of this graph has a von
Neumann entropy, which replaces the entropy of the clusters. For a kernel of blocks of ones, one block per cluster, it
equals the semantic entropy of Eq. 2.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_WEIGHTS = {"entailment": 1.0, "neutral": 0.5, "contradiction": 0.0}
_ROUNDING = 1e-9

HEAT_TIME = 0.6
"""The paper's 0.3, doubled: its edges are the sum of the two directions (0 to 2), here they are the mean (0 to 1)."""


def kernel_language_entropy(similarity: NDArray[np.floating], time: float = HEAT_TIME) -> float:
    """Von Neumann entropy of the heat kernel over the answers, in nats (Nikitin et al., KLE-heat without clusters).

    Compare values at the same N only. A neutral relation has half the weight of an entailment, and more edges merge
    answers faster: of answers that are all neutral to each other, 5 have 1.35 nats, 10 have 1.30 and 20 have 0.32.

    Args:
        similarity: weights between the N answers, [N, N], symmetric, not negative; the diagonal is ignored.
        time: of the diffusion: at 0 all answers are distinct (ln N), at infinity all linked answers are one.

    Raises:
        ValueError: as `heat_kernel`.
    """
    return von_neumann_entropy(heat_kernel(similarity, time))


def heat_kernel(similarity: NDArray[np.floating], time: float = HEAT_TIME) -> NDArray[np.float64]:
    """exp(−time · L), [N, N], of the graph Laplacian L = D − W, whose weights W are the similarities.

    Raises:
        ValueError: weights that are not a symmetric matrix of finite numbers from 0 up, or a negative time.
    """
    weights = np.array(similarity, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or weights.size == 0:
        raise ValueError(f"similarity must be [answers, answers], not {list(weights.shape)}")
    if not np.isfinite(weights).all() or (weights < 0).any() or not np.allclose(weights, weights.T):
        raise ValueError("similarities must be finite, not negative, and symmetric")
    if not time >= 0:
        raise ValueError(f"time must be 0 or more, not {time}")
    laplacian = np.diag(weights.sum(axis=1)) - weights
    levels, modes = np.linalg.eigh(laplacian)
    kernel: NDArray[np.float64] = (modes * np.exp(-time * np.maximum(levels, 0.0))) @ modes.T
    return kernel


def von_neumann_entropy(kernel: NDArray[np.floating]) -> float:
    """−Σ λ ln λ over the eigenvalues of a kernel scaled to unit diagonal and trace 1, in nats, 0 to ln N.

    Args:
        kernel: symmetric, positive semi-definite, with a positive diagonal, [N, N].

    Raises:
        ValueError: the kernel is not positive semi-definite, or its diagonal is not positive.
    """
    matrix = np.asarray(kernel, dtype=np.float64)
    if not (np.diag(matrix) > 0).all():
        raise ValueError("the kernel's diagonal is not positive, so it cannot be scaled to 1")
    scale = np.sqrt(np.diag(matrix))
    levels = np.linalg.eigvalsh(matrix / np.outer(scale, scale)) / len(matrix)
    if levels[0] < -_ROUNDING:
        raise ValueError(f"the kernel is not positive semi-definite: an eigenvalue is {levels[0]:g}")
    # 0 ln 0 = 0, and values below zero are rounding.
    levels = levels[levels > 0]
    entropy = -float((levels * np.log(levels)).sum())
    return min(max(0.0, entropy), math.log(len(matrix)))


def similarity_from_relations(answers: Sequence[str], relations: Mapping[tuple[str, str], str]) -> NDArray[np.float64]:
    """Edge weights between answers: entailment 1, neutral 0.5, contradiction 0, the mean of both directions.

    Args:
        answers: the N answers to one question; those that differ in surrounding white space only have similarity 1.
        relations: the relation of each ordered pair (premise, hypothesis) of distinct answers.

    Returns:
        [N, N], symmetric, 0 to 1.

    Raises:
        ValueError: a pair is missing, or its relation is none of the three.
    """
    distinct = {text: number for number, text in enumerate(dict.fromkeys(a.strip() for a in answers))}
    forward = np.eye(len(distinct))
    for premise, row in distinct.items():
        for hypothesis, column in distinct.items():
            if row != column:
                forward[row, column] = _weight(relations, premise, hypothesis)
    rows = np.array([distinct[answer.strip()] for answer in answers], dtype=np.intp)
    return ((forward + forward.T) / 2)[np.ix_(rows, rows)]


def _weight(relations: Mapping[tuple[str, str], str], premise: str, hypothesis: str) -> float:
    relation = relations.get((premise, hypothesis))
    if relation not in _WEIGHTS:
        raise ValueError(
            f"the relation of {premise!r} to {hypothesis!r} is {relation!r}, not one of {', '.join(_WEIGHTS)}"
        )
    return _WEIGHTS[relation]
