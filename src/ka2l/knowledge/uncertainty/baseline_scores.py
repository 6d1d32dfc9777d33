"""Baseline scores of uncertainty, from the answers of one question. Higher = more uncertain, everywhere.

    negative_log_likelihood([-0.1, -0.3])                     # 0.2, of one answer's tokens
    predictive_entropy([-0.5, -0.5, -3.0])                    # 1.333, of the sampled answers
    lexical_dissimilarity(["in Rome", "in Oslo", "in Rome"])  # 0.333
    eigenscore(states)                                        # [K, width], one row per sampled answer

Logarithms are natural. A score is NaN where it is undefined: an answer without log-probabilities has no likelihood.
`kernel` has the one score that needs relations between answers.
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
    """−(1/L) Σ ln p(token), nats per token: the log of the answer's perplexity. NaN for an answer of no tokens."""
    return (0.0 - math.fsum(token_logprobs)) / len(token_logprobs) if len(token_logprobs) else math.nan


def predictive_entropy(log_likelihoods: Sequence[float]) -> float:
    """Regular entropy of the answer, in nats, by Monte Carlo: −(1/N) Σ ln p(s) over N samples s (Kuhn et al., 2023).

    Here repeated samples do count: that is how the expectation is estimated, and −ln p(s) does not weight s again.

    Args:
        log_likelihoods: the sum of each sampled answer's token log-probabilities, at least one.
    """
    _some(log_likelihoods)
    return (0.0 - math.fsum(log_likelihoods)) / len(log_likelihoods)


def normalized_entropy(token_logprobs: Sequence[Sequence[float]]) -> float:
    """Length-normalised entropy, nats per token: −(1/N) Σ_s (1/L_s) ln p(s) (Malinin & Gales, arXiv 2002.07650).

    Args:
        token_logprobs: the log-probabilities of each sampled answer's tokens, at least one answer.
    """
    _some(token_logprobs)
    return math.fsum(map(negative_log_likelihood, token_logprobs)) / len(token_logprobs)


def lexical_dissimilarity(answers: Sequence[str]) -> float:
    """1 − mean ROUGE-L F over all pairs of sampled answers, 0 to 1 (lexical similarity of Kuhn et al., 2302.09664).

    One answer has no pair that could differ: 0, like its semantic entropy.
    """
    _some(answers)
    counts = Counter(map(normalize_answer, answers))
    pairs = math.comb(len(answers), 2)
    if pairs == 0 or len(counts) == 1:
        return 0.0
    # Each pair of different wordings is compared once and counts as often as it occurs; equal ones are 1.
    weights = np.array(list(counts.values()), dtype=np.float64)
    alike = (weights @ _rouge(tuple(counts)) @ weights - len(answers)) / 2
    return min(max(0.0, 1 - float(alike) / pairs), 1.0)


def rouge_matrix(answers: Sequence[str]) -> NDArray[np.float64]:
    """ROUGE-L F of each pair of answers (Lin, 2004), [N, N], symmetric, 0 to 1.

    Compared word by word after `normalize_answer`, in any script. Equal after normalisation is 1, also for two
    answers without a word.
    """
    keys = [normalize_answer(answer) for answer in answers]
    distinct = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    rows = np.array([distinct[key] for key in keys], dtype=np.intp)
    return _rouge(tuple(distinct))[np.ix_(rows, rows)]


def eigenscore(embeddings: NDArray[np.floating], alpha: float = 1e-3) -> float:
    """EigenScore of INSIDE (Chen et al., arXiv 2402.03744): (1/K) ln det(Σ + αI), the spread of K answers' states.

    Σ is the K × K covariance between answers: each row is centred over its own `width` numbers, as in the paper, not
    over the answers. Like the authors' code we divide by width − 1, which the printed formula leaves out: α then
    means the same at any width, and is above the rounding of 16-bit states. The printed variant differs by a constant
    from ours with α / (width − 1). Answers that repeat leave Σ with zeros among its eigenvalues, each ln α here.

    Args:
        embeddings: a state of the model per sampled answer (the paper's: middle layer, last token), [K, width], any
            float type. Only one K should be compared: the score changes with it.
        alpha: regularisation, above 0.

    Raises:
        ValueError: not a matrix with at least one row, numbers that are not finite, alpha not above 0.
    """
    states = np.asarray(embeddings, dtype=np.float64)
    if states.ndim != 2 or 0 in states.shape:
        raise ValueError(f"embeddings are [answers, width], at least 1 × 1, not {list(states.shape)}")
    if not np.isfinite(states).all():
        raise ValueError("the embeddings hold numbers that are not finite")
    if not alpha > 0:
        raise ValueError(f"alpha is above 0, not {alpha}: without it, two equal answers have no finite score")
    centred = states - states.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T / max(states.shape[1] - 1, 1)
    spread = np.maximum(np.linalg.eigvalsh(covariance), 0.0)  # rounding may go below zero
    return float(np.log(spread + alpha).mean())


def answer_length(answers: Sequence[str]) -> float:
    """Mean number of words (parted by white space): the plainest baseline, which any other should beat."""
    _some(answers)
    return sum(len(answer.split()) for answer in answers) / len(answers)


def _some(answers: Sequence[object]) -> None:
    if len(answers) == 0:
        raise ValueError("a score needs at least one answer")


def _rouge(distinct: tuple[str, ...]) -> NDArray[np.float64]:
    """ROUGE-L F of texts that are normalised and differ, [texts, texts]."""
    scorer, matrix = _rouge_scorer(), np.eye(len(distinct))
    for i, one in enumerate(distinct):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = scorer.score(distinct[j], one)["rougeL"].fmeasure
    return matrix


class _Words:
    """rouge-score's own tokenizer keeps a-z and 0-9 only: all other scripts would be empty."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_Words())
