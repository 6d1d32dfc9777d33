"""Semantic entropy of a model's answers to one question: the spread over meanings, in nats.

    semantic_entropy([0, 0, 0, 1])                                                       # 0.5623
    likelihood_semantic_entropy([0, 0, 1], ["Rome", "Rome", "Oslo"], [-0.1, -0.1, -2.4])  # 0.3051

Both lie between 0 (one meaning) and ln N (N answers, all different), which is checked.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

_ROUNDING = 1e-9  # far above the rounding of a few hundred terms, far below any difference in counts


def semantic_entropy(cluster_ids: Sequence[Hashable]) -> float:
    """Discrete semantic entropy in nats (Eq. 2; Farquhar et al. 2024): −Σ_c (|c|/N) ln(|c|/N).

    Args:
        cluster_ids: the semantic cluster of each of the N answers, at least one.

    Returns:
        a number between 0 (all the same) and ln N (all different).

    Raises:
        ValueError: no answers.
    """
    n = len(cluster_ids)
    if n == 0:
        raise ValueError("semantic entropy needs at least one answer")
    # Sorted by size: the same clusters in another order must give the same bits, since a threshold that is itself such
    # a value would otherwise separate equal questions.
    shares = np.array([count / n for count in sorted(Counter(cluster_ids).values())])
    return _within_bounds(float(-(shares * np.log(shares)).sum()), n)


def likelihood_semantic_entropy(
    cluster_ids: Sequence[Hashable], texts: Sequence[str], log_likelihoods: Sequence[float]
) -> float:
    """Semantic entropy weighted by likelihood, in nats: H = −Σ_c p(c) ln p(c), p(c) ∝ Σ of p(s) over c's sequences s.

    Kuhn et al. (arXiv 2302.09664), Rao-Blackwellised and normalised over the classes seen as in Farquhar et al.
    (2024): likelihoods replace the counts. Each distinct sequence counts once: likely sequences are sampled repeatedly,
    so summing over samples would square the probabilities. If the samples are the whole support, this is the exact
    entropy of the meaning, however often each of them was sampled.

    Args:
        cluster_ids: the semantic cluster of each of the N answers, at least one.
        texts: the answers. Equal texts are one sequence; the largest of their log-likelihoods, which may differ by
            rounding or tokenisation, is taken.
        log_likelihoods: of each answer, the sum of its token log-probabilities; or their mean, for the
            length-normalised variant (a long answer is then not less likely only because of its length). Only their
            differences matter. −inf is an answer of probability 0.

    Returns:
        a number between 0 and ln N; NaN where a log-likelihood is NaN (unknown), or all are −inf.

    Raises:
        ValueError: no answers, lengths that differ, +inf, or one text in two clusters.
    """
    n = len(cluster_ids)
    if n == 0:
        raise ValueError("semantic entropy needs at least one answer")
    if not n == len(texts) == len(log_likelihoods):
        raise ValueError(f"{n} cluster ids, {len(texts)} texts and {len(log_likelihoods)} log-likelihoods")
    if any(map(math.isnan, log_likelihoods)):
        return math.nan
    cluster_of: dict[str, Hashable] = {}
    best: dict[str, float] = {}
    for cluster, text, value in zip(cluster_ids, texts, log_likelihoods, strict=True):
        if cluster_of.setdefault(text, cluster) != cluster:
            raise ValueError(f"the answer {text!r} is in two clusters, {cluster_of[text]!r} and {cluster!r}")
        best[text] = max(value, best.get(text, -math.inf))
    largest = max(best.values())
    if largest == math.inf:
        raise ValueError("a log-likelihood is +inf; natural logs of probabilities are 0 or less")
    if largest == -math.inf:
        return math.nan
    # Relative to the likeliest answer, nothing overflows and at least one term is 1. fsum rounds once, at the end, so
    # that the result does not depend on the order of the answers.
    terms: dict[Hashable, list[float]] = {}
    for text, value in best.items():
        terms.setdefault(cluster_of[text], []).append(math.exp(value - largest))
    masses = [math.fsum(members) for members in terms.values()]
    total = math.fsum(masses)
    return _within_bounds(-math.fsum(m / total * math.log(m / total) for m in masses if m > 0), n)


def _within_bounds(entropy: float, n: int) -> float:
    """The entropy clamped to [0, ln N], which it may leave by rounding only.

    Raises:
        ArithmeticError: a larger violation, which is a bug.
    """
    if not -_ROUNDING <= entropy <= math.log(n) + _ROUNDING:
        raise ArithmeticError(f"semantic entropy of {n} answers is {entropy}, outside [0, ln {n}]")
    # max(0.0, -0.0) is 0.0.
    return min(max(0.0, entropy), math.log(n))
