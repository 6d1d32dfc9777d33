"""Ambiguity or ignorance: a question can have high entropy because the model is ignorant, or has several right answers.

Semantic entropy is high in both cases: it counts meanings and does not check whether they are true. Here the model is
asked, with P(True), about one answer of each cluster. For an ignorant model most of its answers get a low P(True); for
a question with several right answers different meanings get a high one.

    leads = cluster_representatives(cluster_ids, answers)
    p_true = …                                            # 1 − p_false of each lead's text
    ambiguity(p_true, [lead.size for lead in leads])      # Ambiguity(score=0.64, flag=True)

This is a first approach to a question the paper leaves open, and only as good as the model's P(True): a model that
calls every answer true makes every question ambiguous. Higher = more ambiguous, which is not more uncertain.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PLAUSIBLE = 0.5  # P(True) from which an answer counts as plausible
MOST_CLUSTERS = 5  # further clusters have at most one sample in ten


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

    Ties between clusters, and between wordings, go to the one that appeared first.

    Args:
        cluster_ids: the semantic cluster of each answer.
        texts: the answers.
        most: number of clusters to return.
    """
    wordings: dict[Hashable, Counter[str]] = {}
    for cluster, text in zip(cluster_ids, texts, strict=True):
        wordings.setdefault(cluster, Counter())[text] += 1
    # Counters and sorting both keep the order of first appearance among equals.
    leads = [
        Representative(cluster, counts.most_common(1)[0][0], counts.total()) for cluster, counts in wordings.items()
    ]
    return sorted(leads, key=lambda lead: -lead.size)[:most]


def ambiguity(p_true: Sequence[float] | NDArray[np.floating], sizes: Sequence[int]) -> Ambiguity:
    """The probability, according to P(True), that two answers of different meaning are both right.

    The score is the mean of p_c · p_d over pairs of answers from different clusters c ≠ d, so each pair of clusters has
    weight |c| · |d|. As a mean it does not depend on the number of clusters, unlike semantic entropy, and unlike the
    smallest P(True), which falls with every rare cluster, or the second largest, which rises, also for an ignorant
    model. A rare answer has little weight.

    Args:
        p_true: P(True) of one answer of each cluster, [clusters].
        sizes: answers in each cluster, at least 1.

    Returns:
        score 0 for one cluster; score NaN for no cluster, or if a P(True) is NaN. None of these is flagged. If all
        clusters are plausible (P(True) ≥ 0.5), the score is at least 0.25.

    Raises:
        ValueError: lengths differ, a size is below 1, or a P(True) lies outside [0, 1].
    """
    p, weights = np.asarray(p_true, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if p.shape != weights.shape or p.ndim != 1:
        raise ValueError(f"{p.size} values of P(True), but {weights.size} sizes of clusters")
    if (weights < 1).any():
        raise ValueError("a cluster holds at least one answer")
    if p.size == 0 or np.isnan(p).any():
        return Ambiguity(math.nan, False)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"P(True) must lie between 0 and 1, but goes from {p.min():g} to {p.max():g}")
    if p.size == 1:
        return Ambiguity(0.0, False)
    pairs = np.outer(weights, weights)
    np.fill_diagonal(pairs, 0.0)
    return Ambiguity(float(p @ pairs @ p / pairs.sum()), bool((p >= PLAUSIBLE).all()))
