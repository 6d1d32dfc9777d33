"""How well questions are reconstructed from their hidden states, judged by the generated text and not by a loss."""

from collections.abc import Sequence
from typing import NamedTuple

from ka2l.common.answer_text import normalize_question, token_f1
from ka2l.evaluation.answer_metrics import corpus_bleu


class Reconstruction(NamedTuple):
    """Generated questions against the questions of their states; all but `n` are between 0 and 1."""

    exact: float
    """Share that is the same question up to case, white space and outer punctuation."""
    f1: float
    """Mean token F1."""
    bleu: float
    """Corpus BLEU / 100."""
    n: int
    """Number of questions."""


def reconstruction(texts: Sequence[str], references: Sequence[str]) -> Reconstruction:
    """Compare generated texts with the original questions.

    Args:
        texts: [n], may be empty strings.
        references: [n], in the same order.

    Raises:
        ValueError: the lengths differ or are 0.
    """
    if not texts or len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts and {len(references)} references")
    pairs = list(zip(texts, references, strict=True))
    return Reconstruction(
        exact=sum(normalize_question(text) == normalize_question(wanted) for text, wanted in pairs) / len(pairs),
        f1=sum(token_f1(text, [wanted]) for text, wanted in pairs) / len(pairs),
        bleu=corpus_bleu(texts, [[wanted] for wanted in references]),
        n=len(pairs),
    )
