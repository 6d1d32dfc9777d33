"""Ambiguity or ignorance? A question looks unknown because the model is ignorant, or because several answers are right.

Semantic entropy is high in both cases: it counts meanings and does not ask whether they are true. Here the model is
asked, with P(True), about one answer of each cluster. An ignorant model doubts most of what it says; to a question with
several right answers it finds different meanings plausible.

    leads = cluster_representatives(cluster_ids, answers)
    p_true = …                                            # 1 − p_false of each lead's text
    ambiguity(p_true, [lead.size for lead in leads])      # Ambiguity(score=0.64, flag=True)

A first answer to what the paper leaves open, and only as good as the model's P(True): one that finds everything true
calls everything ambiguous. Higher = more ambiguous, which is not more uncertain.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PLAUSIBLE = 0.5  # P(True) from which the model rather believes an answer
MOST_CLUSTERS = 5  # the clusters after that have one sample in ten or fewer


class Representative(NamedTuple):
    """One cluster's most frequent wording."""

    cluster: Hashable
    text: str
    size: int  # answers in the cluster


class Ambiguity(NamedTuple):
    """Whether a question seems to have several right answers."""

    score: float  # 0 to 1; NaN where unknown
    flag: bool  # at least two clusters, and each is plausible


def cluster_representatives(
    cluster_ids: Sequence[Hashable], texts: Sequence[str], most: int = MOST_CLUSTERS
) -> list[Representative]:
    """The most frequent wording of each cluster, the largest cluster first.

    Of clusters as large, and of wordings as frequent, the one that appeared first is taken first.

    Args:
        cluster_ids: the semantic cluster of each answer.
        texts: the answers.
        most: largest clusters to look at.
    """
    wordings: dict[Hashable, Counter[str]] = {}
    for cluster, text in zip(cluster_ids, texts, strict=True):
        wordings.setdefault(cluster, Counter())[text] += 1
    # Counters and sorting both keep first come, first served among equals.
    leads = [
        Representative(cluster, found.most_common(1)[0][0], found.total())
        for cluster, found in wordings.items()
    ]
    return sorted(leads, key=lambda lead: -lead.size)[:most]


def ambiguity(p_true: Sequence[float] | NDArray[np.floating], sizes: Sequence[int]) -> Ambiguity:
    """How likely two answers that differ in meaning are both right, going by P(True).

    The score is the mean of p_c · p_d over pairs of answers from different clusters c ≠ d, so each pair of clusters
    weighs |c| · |d|. Being a mean it does not drift with the number of clusters, which is what separates it from
    semantic entropy: the smallest P(True) falls as stray clusters are added, and the second largest rises,
    for an ignorant model as well. A stray answer weighs little.

    Args:
        p_true: P(True) of one answer of each cluster, [clusters].
        sizes: answers in each cluster, at least 1.

    Returns:
        with one cluster, score 0; with none, or a P(True) that is NaN, score NaN. Neither is flagged. Where all
        are plausible (P(True) ≥ 0.5), the score is at least 0.25.
    """
    p, weights = np.asarray(p_true, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if p.shape != weights.shape or p.ndim != 1:
        raise ValueError(f"{p.size} values of P(True), but {weights.size} sizes of clusters")
    if (weights < 1).any():
        raise ValueError("a cluster holds at least one answer")
    if p.size == 0 or np.isnan(p).any():
        return Ambiguity(math.nan, False)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"P(True) lies between 0 and 1, not between {p.min():g} and {p.max():g}")
    if p.size == 1:
        return Ambiguity(0.0, False)
    apart = np.outer(weights, weights)
    np.fill_diagonal(apart, 0.0)
    return Ambiguity(float(p @ apart @ p / apart.sum()), bool((p >= PLAUSIBLE).all()))
