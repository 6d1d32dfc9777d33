"""Answer metrics over strings: exact match, token F1, ROUGE-L and METEOR per answer, BLEU per corpus.

    score("paris", ["Paris", "City of Paris"])  # AnswerScores(exact_match=True, f1=1.0, rouge_l=1.0)

The main metrics are exact match and token F1 (SQuAD, best alias). ROUGE-L, METEOR and BLEU are for comparison with the
paper.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from ka2l.common.answer_text import exact_match, normalize_answer, token_f1


class AnswerScores(NamedTuple):
    """One prediction against its best alias, separately for each metric; f1 and rouge_l are between 0 and 1."""

    exact_match: bool
    f1: float
    rouge_l: float


def score(prediction: str, answers: Sequence[str]) -> AnswerScores:
    """Compare a prediction with all accepted answers; without any answer all scores are 0."""
    return AnswerScores(exact_match(prediction, answers), token_f1(prediction, answers), _rouge_l(prediction, answers))


def meteor_exact_stem(prediction: str, answers: Sequence[str]) -> float:
    """METEOR of the best alias with exact and Porter-stem matches only: no WordNet synonyms, so no data to download.

    Lavie & Agarwal (2007) as in nltk: F = P·R / (0.9·P + 0.1·R) over matched words, times
    1 − 0.5·(chunks / matches)³. Words are those of `normalize_answer`, as for ROUGE-L here. Not comparable with
    METEOR with synonyms. Not a main metric: one matched word is always one chunk, so a right answer of one word
    scores 0.5, and one of two words 0.94.

    Args:
        prediction: may be empty.
        answers: the accepted answers; without any the score is 0.

    Returns:
        0 to below 1.
    """
    from nltk.translate.meteor_score import single_meteor_score

    words = normalize_answer(prediction).split()
    no_synonyms: Any = _NoWordNet()
    return max(
        (
            float(single_meteor_score(normalize_answer(answer).split(), words, wordnet=no_synonyms))
            for answer in answers
        ),
        default=0.0,
    )


def corpus_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU (sacrebleu, score / 100) of predictions against alias lists of any length, 0 to 1.

    Not a main metric: plain corpus BLEU multiplies the precisions of 1- to 4-grams, so it is 0 on one- and
    two-word answers even if every one is right. `effective_order` stops at the longest n-gram any prediction
    has, which helps only if all answers are short: one long answer brings all four orders back, and two models
    that answer at different lengths are scored by different orders. Exact match and token F1 have no such problem.

    Settings: tokenizer `13a`, smoothing `exp`, case kept (sacrebleu's defaults), and `effective_order=True`.

    Args:
        predictions: one text per question, may be empty.
        references: the accepted answers of each question, in the same order.

    Raises:
        ValueError: the lengths differ or a question has no reference.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} lists of references")
    empty = [row for row, aliases in enumerate(references) if not aliases]
    if empty:
        raise ValueError(f"{len(empty)} questions without a reference, the first in row {empty[0]}")
    if not predictions:
        return 0.0
    # sacrebleu needs one list of references per alias number, with None for questions with fewer aliases.
    most = max(len(aliases) for aliases in references)
    streams = [[aliases[i] if i < len(aliases) else None for aliases in references] for i in range(most)]
    result = _bleu().corpus_score(list(predictions), streams)
    # A perfect corpus has 1 + 4e-16.
    return min(float(result.score) / 100, 1.0)


def _rouge_l(prediction: str, answers: Sequence[str]) -> float:
    if not answers:
        return 0.0
    if not normalize_answer(prediction):
        # rouge-score gives 0 for two empty texts; here equal texts have 1, as in token F1.
        return float(exact_match(prediction, answers))
    return float(_rouge_scorer().score_multi(answers, prediction)["rougeL"].fmeasure)


class _Tokenizer:
    """Words of `normalize_answer`: rouge-score's own tokenizer keeps a-z and 0-9 only, so "東京" would never match."""

    def tokenize(self, text: str) -> list[str]:
        return normalize_answer(text).split()


class _NoWordNet:
    """A WordNet without synonyms, in place of the one that nltk would download."""

    def synsets(self, _word: str) -> tuple[()]:
        return ()


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_Tokenizer())


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    # force: no warning about predictions that end in " .".
    return BLEU(tokenize="13a", smooth_method="exp", effective_order=True, force=True)
