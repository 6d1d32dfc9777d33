"""Text normalisation and the two answer metrics that need nothing else: exact match and token F1.

The normalisation is SQuAD's (Rajpurkar et al., arXiv 1606.05250), with Unicode folding first so that
"São Paulo" and "Sao Paulo", typed by different people, are the same answer.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = set(string.punctuation) | set("‘’“”´–—…·«»¿¡")


def normalize_answer(text: str) -> str:
    """Lower case, accents folded, punctuation and the articles a/an/the dropped, white space collapsed."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    folded = "".join(char for char in decomposed if not unicodedata.combining(char))
    kept = "".join(" " if char in "-–—/" else char for char in folded if char in "-–—/" or char not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def normalize_question(text: str) -> str:
    """Key under which two questions are duplicates: case, white space and outer punctuation do not matter."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(" ?!.\"'“”")


def exact_match(prediction: str, answers: Iterable[str]) -> bool:
    """Whether the normalised prediction equals any normalised alias."""
    predicted = normalize_answer(prediction)
    return any(predicted == normalize_answer(answer) for answer in answers)


def token_f1(prediction: str, answers: Iterable[str]) -> float:
    """Best token F1 over the aliases, 0 to 1; two empty texts score 1."""
    return max((_f1(normalize_answer(prediction).split(), normalize_answer(a).split()) for a in answers), default=0.0)


def is_correct(prediction: str, answers: Iterable[str], rule: str) -> bool:
    """Right or wrong under `rule`: `exact_match`, or `f1` (token F1 of at least 0.5)."""
    if rule == "exact_match":
        return exact_match(prediction, answers)
    if rule == "f1":
        return token_f1(prediction, answers) >= 0.5
    raise ValueError(f"unknown rule {rule!r}")


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold))
