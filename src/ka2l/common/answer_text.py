"""Text normalisation, and the two answer metrics that need nothing else: exact match and token F1.

The normalisation is that of SQuAD (Rajpurkar et al., arXiv 1606.05250), with Unicode folding first, so that
"São Paulo" and "Sao Paulo" are the same answer.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
# Punctuation that separates words and becomes a space. All other punctuation is removed.
_SPACING = frozenset("-–—/⁄")


def normalize_answer(text: str) -> str:
    """Lower case, Latin accents folded, punctuation and the articles a/an/the removed, white space collapsed.

    A text that consists only of articles and punctuation keeps them: "The The" is an answer, the empty text is not.
    """
    # Compatibility forms can contain capitals (№ → No), so case is folded both before and after decomposing.
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.casefold()).casefold())
    # Only Latin accents are removed: the marks of kana or Devanagari distinguish words.
    folded = unicodedata.normalize("NFC", "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f"))
    plain = "".join(" " if c in _SPACING else c for c in folded if c in _SPACING or not _is_punctuation(c))
    return " ".join(_ARTICLES.sub(" ", plain).split()) or " ".join(folded.split())


def normalize_question(text: str) -> str:
    """Key that is equal for duplicate questions: case, white space and outer punctuation do not matter."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(" ?!.\"'“”")


def exact_match(prediction: str, answers: Iterable[str]) -> bool:
    """Whether the normalised prediction equals one of the normalised answers."""
    predicted = normalize_answer(prediction)
    return any(predicted == normalize_answer(answer) for answer in answers)


def token_f1(prediction: str, answers: Iterable[str]) -> float:
    """Highest token F1 over the accepted answers, 0 to 1; two empty texts score 1, and no answers 0."""
    return max((_f1(normalize_answer(prediction).split(), normalize_answer(a).split()) for a in answers), default=0.0)


def is_correct(prediction: str, answers: Iterable[str], rule: str) -> bool:
    """Whether a prediction is right under `rule`: `exact_match`, or `f1` (token F1 of at least 0.5).

    Raises:
        ValueError: another rule.
    """
    if rule == "exact_match":
        return exact_match(prediction, answers)
    if rule == "f1":
        return token_f1(prediction, answers) >= 0.5
    raise ValueError(f"unknown rule {rule!r}")


def _is_punctuation(char: str) -> bool:
    return char in "$+<=>^`|~´′″" or unicodedata.category(char).startswith("P")


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold))
