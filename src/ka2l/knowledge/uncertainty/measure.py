"""What a model knows, from its answers alone: clusters, semantic entropy, baseline scores, known or unknown.

>>> questions = ["Capital of France?", "Capital of Peru?", "Capital of Chad?"]
>>> answers = [["Paris", "paris."], ["Lima", "Lima"], ["Abéché", "Moundou"]]
>>> found = measure(questions, answers)
>>> found.scores["semantic_entropy"].round(3).tolist(), found.unknown.tolist()
([0.0, 0.0, 0.693], [False, False, True])

No files and no model: the answers may come from any source.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.knowledge.uncertainty import baseline_scores
from ka2l.knowledge.uncertainty.semantic_clusters import (
    Clusters,
    Equivalence,
    Judge,
    Rule,
    cluster_by_meaning,
    cluster_lexical,
)
from ka2l.knowledge.uncertainty.semantic_entropy import likelihood_semantic_entropy, semantic_entropy
from ka2l.knowledge.uncertainty.threshold import Threshold, fit_threshold

Logprobs = Sequence[float] | None  # of one answer's tokens; None or empty if not available


class Measurement(NamedTuple):
    """Clusters, scores and labels, in the order of the questions."""

    clusters: list[list[int]]  # the cluster of each answer, numbered by first appearance
    scores: dict[str, NDArray[np.float64]]  # name → [questions]; higher = more uncertain; NaN where undefined
    threshold: Threshold | None  # None if not requested
    unknown: NDArray[np.bool_] | None  # [questions], semantic entropy >= threshold
    pairs: int  # pairs of answers that were judged


def measure(
    questions: Sequence[str],
    answers: Sequence[Sequence[str]],
    *,
    judge: Judge | None = None,
    equivalence: Equivalence = "strict",
    rule: Rule = "first_match",
    token_logprobs: Sequence[Sequence[Logprobs]] | None = None,
    low_token_logprobs: Sequence[Logprobs] | None = None,
    threshold: str | float | None = "two_means",
    quantile: float = 0.5,
    train: Sequence[int] | NDArray[np.integer] | NDArray[np.bool_] | None = None,
) -> Measurement:
    """Measure what a model knows about each question, from its answers (paper, Section 3.2.2).

    The scores: `semantic_entropy` (Eq. 2), `semantic_entropy_rao` and `semantic_entropy_length_normalized`
    (weighted by likelihood), `predictive_entropy`, `normalized_entropy`, `negative_log_likelihood`,
    `lexical_dissimilarity`, `n_clusters`, `answer_length`. All are always present; those that need log-probabilities
    are NaN for a question if one of its answers has no log-probabilities or no tokens.

    Args:
        questions: one text per question.
        answers: its sampled answers (the paper: 10 at temperature 1), at least one per question.
        judge: gives the relation of two answers to one question; None: the same if equal after normalisation.
        equivalence, rule: with a judge, as for `cluster_by_meaning`.
        token_logprobs: natural logs of each sampled answer's tokens' probabilities, shaped like `answers`.
        low_token_logprobs: those of one more answer per question, at low temperature, for
            `negative_log_likelihood`.
        threshold: as for `fit_threshold`; None: only the scores.
        quantile: for threshold `quantile`, the share of questions to call known.
        train: rows (or a mask) that the threshold is fitted on; None: all.

    Raises:
        DegenerateError: no threshold separates known from unknown; threshold=None still gives the scores.
        ValueError: lengths that differ, or a question without answers.
    """
    _validate(questions, answers, token_logprobs, low_token_logprobs)
    clusters, pairs = clustered(questions, answers, judge, equivalence, rule)
    scores = _scores(answers, clusters, token_logprobs, low_token_logprobs)
    if threshold is None:
        return Measurement(clusters, scores, None, None, pairs)
    entropies = scores["semantic_entropy"]
    training = entropies if train is None else entropies[_rows(train, len(questions))]
    whose = f"{training.size} training questions of {len(questions)}" if train is not None else ""
    fitted = fit_threshold(training, threshold, quantile=quantile, whose=whose)
    return Measurement(clusters, scores, fitted, entropies >= fitted.value, pairs)


def clustered(
    questions: Sequence[str],
    answers: Sequence[Sequence[str]],
    judge: Judge | None,
    equivalence: Equivalence = "strict",
    rule: Rule = "first_match",
) -> Clusters:
    """The semantic cluster of each answer, and the number of pairs that were judged; arguments as for `measure`."""
    if judge is None:
        return Clusters([cluster_lexical(group) for group in answers], 0)
    return cluster_by_meaning(questions, answers, judge, equivalence=equivalence, rule=rule)


def _scores(
    answers: Sequence[Sequence[str]],
    clusters: Sequence[Sequence[int]],
    token_logprobs: Sequence[Sequence[Logprobs]] | None,
    low_token_logprobs: Sequence[Logprobs] | None,
) -> dict[str, NDArray[np.float64]]:
    # Sum and mean of an answer without log-probabilities are NaN, and so is every score computed from them.
    tokens = [[_tokens(None)] * len(group) for group in answers]
    if token_logprobs is not None:
        tokens = [[_tokens(given) for given in group] for group in token_logprobs]
    low = [None] * len(answers) if low_token_logprobs is None else low_token_logprobs
    sums = [[math.fsum(of_one) if len(of_one) else math.nan for of_one in group] for group in tokens]
    means = [[-baseline_scores.negative_log_likelihood(of_one) for of_one in group] for group in tokens]
    columns = {
        "semantic_entropy": map(semantic_entropy, clusters),
        "semantic_entropy_rao": map(likelihood_semantic_entropy, clusters, answers, sums),
        "semantic_entropy_length_normalized": map(likelihood_semantic_entropy, clusters, answers, means),
        "predictive_entropy": map(baseline_scores.predictive_entropy, sums),
        "normalized_entropy": map(baseline_scores.normalized_entropy, tokens),
        "negative_log_likelihood": map(baseline_scores.negative_log_likelihood, map(_tokens, low)),
        "lexical_dissimilarity": map(baseline_scores.lexical_dissimilarity, answers),
        "n_clusters": (float(len(set(numbers))) for numbers in clusters),
        "answer_length": map(baseline_scores.answer_length, answers),
    }
    return {name: np.fromiter(values, np.float64, len(answers)) for name, values in columns.items()}


def _tokens(logprobs: Logprobs) -> Sequence[float]:
    return () if logprobs is None else logprobs


def _validate(
    questions: Sequence[str],
    answers: Sequence[Sequence[str]],
    token_logprobs: Sequence[Sequence[Logprobs]] | None,
    low_token_logprobs: Sequence[Logprobs] | None,
) -> None:
    for name, given in (
        ("lists of answers", answers),
        ("items in token_logprobs", token_logprobs),
        ("items in low_token_logprobs", low_token_logprobs),
    ):
        if given is not None and len(given) != len(questions):
            raise ValueError(f"{len(questions)} questions, but {len(given)} {name}")
    for number, (question, group) in enumerate(zip(questions, answers, strict=True)):
        whose = f"question {number} ({question!r})"
        if isinstance(group, str):
            raise ValueError(f"{whose} has one text for its answers; give a list of texts")
        if len(group) == 0:
            raise ValueError(f"{whose} has no answers; leave it out, or sample some")
        if token_logprobs is not None and len(token_logprobs[number]) != len(group):
            raise ValueError(
                f"{whose} has {len(group)} answers, but log-probabilities of {len(token_logprobs[number])}"
            )


def _rows(
    train: Sequence[int] | NDArray[np.integer] | NDArray[np.bool_], questions: int
) -> NDArray[np.integer] | NDArray[np.bool_]:
    rows = np.asarray(train)
    if rows.size == 0:
        rows = rows.astype(np.intp)
    if rows.dtype == bool:
        if rows.shape != (questions,):
            raise ValueError(f"train is a mask of {rows.size} questions, but there are {questions}")
    elif not np.issubdtype(rows.dtype, np.integer) or ((rows < 0) | (rows >= questions)).any():
        raise ValueError(f"train must hold row numbers from 0 to {questions - 1}, or one bool per question")
    return rows
