"""Whether a decoded text reads as a question of this source, learned from the source's questions, in any language.

    style = QuestionStyle.learn(["What is the capital of France?", …])
    style.reads_as_question("What is the capital of")   # False: the others end with a question mark

Only the form is checked, not whether the question can be answered.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ka2l.errors import DataError

# The Greek question mark looks like a semicolon, and is one after NFC normalisation.
_MARKS = frozenset("?？؟;\N{GREEK QUESTION MARK}")
_CLOSING = " \"'”’»)"
# Share of the questions from which a habit is required of all.
_HABIT = 0.95
_PROMPT = re.compile(r"\b(question|answer)\s*[:：]", re.IGNORECASE)
# Letters repeated four times in a row; also in languages without spaces between words.
_STUTTER = re.compile(r"([^\W\d_]{2,9}?)\1{3}")
# Unicode categories of control characters, line ends and code points that are no characters.
_NEVER_TEXT = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})


class QuestionStyle(NamedTuple):
    """What the questions of a source have in common."""

    marks: frozenset[str]
    """The question marks they end with; empty if fewer than 95 % end with one."""
    first_words: frozenset[str]
    """Their first words; empty (any first word is accepted) if fewer than 95 % share theirs with another question."""
    scripts: frozenset[str]
    """Scripts of their letters, the first word of the letters' Unicode names: LATIN, CYRILLIC, CJK."""
    shortest: float
    """In characters: half the 0.5th percentile of their lengths."""
    longest: float
    """In characters: one and a half times the 99.5th percentile of their lengths."""

    @classmethod
    def learn(cls, questions: Iterable[str]) -> "QuestionStyle":
        """The style of `questions`.

        Raises:
            DataError: there are no questions.
        """
        texts = list(questions)
        if not texts:
            raise DataError("There are no questions to learn the style of questions from.")
        marks = Counter(mark for text in texts if (mark := _last_mark(text)))
        first = Counter(_first_word(text) for text in texts)
        shared = sum(times for times in first.values() if times > 1)
        low, high = np.percentile([len(text) for text in texts], [0.5, 99.5])
        return cls(
            marks=frozenset(marks) if marks.total() >= _HABIT * len(texts) else frozenset(),
            first_words=frozenset(first) if shared >= _HABIT * len(texts) else frozenset(),
            scripts=frozenset(script for text in texts for script in _scripts(text)),
            shortest=float(low) / 2,
            longest=float(high) * 1.5,
        )

    def reads_as_question(self, text: str) -> bool:
        """Whether `text` is one line of this style: known question mark, first word, length and scripts; no loops."""
        if not any(map(str.isalpha, text)) or not self.shortest <= len(text) <= self.longest:
            return False
        if "\ufffd" in text or any(unicodedata.category(char) in _NEVER_TEXT for char in text):
            return False
        if self.marks and _last_mark(text) not in self.marks:
            return False
        if self.first_words and _first_word(text) not in self.first_words:
            return False
        return self.scripts.issuperset(_scripts(text)) and not _PROMPT.search(text) and not loops(text)


def loops(text: str) -> bool:
    """Whether a word, or letters in a word, occur four times in a row, or a run of three words occurs three times."""
    # Words with a letter or digit: not the dashes of a gap.
    words = [word for word in text.casefold().split() if any(map(str.isalnum, word))]
    in_a_row = any(len(set(words[i : i + 4])) == 1 for i in range(len(words) - 3))
    runs = Counter(zip(words, words[1:], words[2:], strict=False))
    return in_a_row or max(runs.values(), default=0) >= 3 or bool(_STUTTER.search(text.casefold()))


def _last_mark(text: str) -> str:
    """The question mark at the end, before closing quotes; empty if there is none."""
    last = text.rstrip(_CLOSING)[-1:]
    return last if last in _MARKS else ""


def _first_word(text: str) -> str:
    words = re.findall(r"[^\W_]+", text.casefold())
    return words[0] if words else ""


def _scripts(text: str) -> Iterator[str]:
    """The script of each letter; a modifier letter (ʻ) has none."""
    for char in text:
        if unicodedata.category(char) in ("Lu", "Ll", "Lt", "Lo"):
            yield unicodedata.name(char, "?").split()[0]
