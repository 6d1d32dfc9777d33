"""Baseline scores of uncertainty, from the answers to one question. Higher = more uncertain for all of them.

    negative_log_likelihood([-0.1, -0.3])                     # 0.2, of one answer's tokens
    predictive_entropy([-0.5, -0.5, -3.0])                    # 1.333, of the sampled answers
    lexical_dissimilarity(["in Rome", "in Oslo", "in Rome"])  # 0.333
    eigenscore(states)                                        # [K, width], one row per sampled answer

Logarithms are natural. A score is NaN where it is undefined: an answer without log-probabilities has no likelihood.
The score that needs relations between answers is in `kernel_entropy`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ka2l.common.answer_text import normalize_answer


def negative_log_likelihood(token_logprobs: Sequence[float]) -> float:
    """−(1/L) Σ ln p(token), nats per token: the log of the answer's perplexity. NaN for an answer without tokens."""
    return (0.0 - math.fsum(token_logprobs)) / len(token_logprobs) if len(token_logprobs) else math.nan


def predictive_entropy(log_likelihoods: Sequence[float]) -> float:
    """Regular entropy of the answer, in nats, by Monte Carlo: −(1/N) Σ ln p(s) over N samples s (Kuhn et al., 2023).

    Repeated samples count, since they estimate the expectation; −ln p(s) does not weight s again.

    Args:
        log_likelihoods: the sum of each sampled answer's token log-probabilities, at least one.
    """
    _check_any(log_likelihoods)
    return (0.0 - math.fsum(log_likelihoods)) / len(log_likelihoods)


def normalized_entropy(token_logprobs: Sequence[Sequence[float]]) -> float:
    """Length-normalised entropy, nats per token: −(1/N) Σ_s (1/L_s) ln p(s) (Malinin & Gales, arXiv 2002.07650).

    Args:
        token_logprobs: the log-probabilities of each sampled answer's tokens, at least one answer.
    """
    _check_any(token_logprobs)
    return math.fsum(map(negative_log_likelihood, token_logprobs)) / len(token_logprobs)


def lexical_dissimilarity(answers: Sequence[str]) -> float:
    """1 − mean ROUGE-L F over all pairs of sampled answers, 0 to 1 (lexical similarity of Kuhn et al., 2302.09664).

    0 for one answer, like its semantic entropy.
    """
    _check_any(answers)
    counts = Counter(map(normalize_answer, answers))
    pairs = math.comb(len(answers), 2)
    if pairs == 0 or len(counts) == 1:
        return 0.0
    # Each pair of different wordings is compared once and counts as often as it occurs; equal ones count as 1.
    weights = np.array(list(counts.values()), dtype=np.float64)
    total = (weights @ _rouge(tuple(counts)) @ weights - len(answers)) / 2
    return min(max(0.0, 1 - float(total) / pairs), 1.0)


def rouge_matrix(answers: Sequence[str]) -> NDArray[np.float64]:
    """ROUGE-L F of each pair of answers (Lin, 2004), [N, N], symmetric, 0 to 1.

    Answers are compared word by word after `normalize_answer`, in any script. Answers that are equal after
    normalisation have 1, also two empty ones.
    """
    keys = [normalize_answer(answer) for answer in answers]
    distinct = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    rows = np.array([distinct[key] for key in keys], dtype=np.intp)
    return _rouge(tuple(distinct))[np.ix_(rows, rows)]


def eigenscore(embeddings: NDArray[np.floating], alpha: float = 1e-3) -> float:
    """EigenScore of INSIDE (Chen et al., arXiv 2402.03744): (1/K) ln det(Σ + αI), the spread of K answers' states.

    Σ is the K × K covariance between answers: each row is centred over its own `width` numbers, as in the paper, not
    over the answers. As in the authors' code, it is divided by width − 1, which the printed formula leaves out: α then
    has the same meaning at any width and is above the rounding of 16-bit states. The printed variant differs by a
    constant from this one with α / (width − 1). Repeated answers give Σ eigenvalues of 0, each of which adds ln α.

    Args:
        embeddings: a state of the model per sampled answer (the paper's: middle layer, last token), [K, width], any
            float type. Compare scores at the same K only.
        alpha: regularisation, above 0.

    Raises:
        ValueError: not a matrix with at least one row, numbers that are not finite, alpha not above 0.
    """
    states = np.asarray(embeddings, dtype=np.float64)
    if states.ndim != 2 or 0 in states.shape:
        raise ValueError(f"embeddings must be [answers, width], at least 1 × 1, not {list(states.shape)}")
    if not np.isfinite(states).all():
        raise ValueError("the embeddings contain numbers that are not finite")
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, not {alpha}: otherwise two equal answers have no finite score")
    centred = states - states.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T / max(states.shape[1] - 1, 1)
    # Rounding may give eigenvalues below zero.
    spread = np.maximum(np.linalg.eigvalsh(covariance), 0.0)
    return float(np.log(spread + alpha).mean())


def answer_length(answers: Sequence[str]) -> float:
    """Mean number of words (separated by white space): the simplest baseline."""
    _check_any(answers)
    return sum(len(answer.split()) for answer in answers) / len(answers)


def _check_any(answers: Sequence[object]) -> None:
    if len(answers) == 0:
        raise ValueError("a score needs at least one answer")


def _rouge(distinct: tuple[str, ...]) -> NDArray[np.float64]:
    """ROUGE-L F of distinct, normalised texts, [texts, texts]."""
    scorer, matrix = _rouge_scorer(), np.eye(len(distinct))
    for i, one in enumerate(distinct):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = scorer.score(distinct[j], one)["rougeL"].fmeasure
    return matrix


class _Tokenizer:
    """Splits at white space; rouge-score's own tokenizer keeps a-z and 0-9 only, so other scripts would be empty."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_Tokenizer())
