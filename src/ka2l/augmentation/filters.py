"""Which decoded questions are new: in the wording of no known question, and not in the test.

    verdicts = copies(candidates, wordings(sources), wordings(held_out), wordings(pool), wordings(probe))
    funnel(verdicts)   # {"source_again": 12, "in_pool": 55, "twice": 31, "kept": 702}

Pure functions over texts; paraphrases are found in `near_copies`. The caller passes on the candidates kept so far.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ka2l.augmentation.question_style import QuestionStyle
from ka2l.common.answer_text import normalize_question
from ka2l.errors import DataError
from ka2l.questions.question import Question

REASONS = (
    "not_a_question",
    "unfinished",
    "source_again",
    "in_eval",
    "in_pool",
    "elsewhere",
    "twice",
    "no_answer",
    "near_source",
    "near_eval",
    "near_pool",
    "near_kept",
    "known",
    "over_budget",
)
"""Why a candidate is dropped, in the order of the checks."""


class Candidate(NamedTuple):
    """A decoded question."""

    id: str
    source_id: str
    """Id of the question whose state it was decoded from."""
    question: str
    finished: bool
    """The decoder ended it before the token limit."""


class Verdict(NamedTuple):
    """The result of the checks of one candidate."""

    reason: str = ""
    """One of REASONS; empty: not dropped so far."""
    similarity: float | None = None
    """Cosine with the nearest question it was compared with; if dropped, the nearest of those that the reason names."""
    nearest: str | None = None
    """Id of that question, or of the question it equals."""


def wordings(questions: Iterable[Question]) -> dict[str, tuple[str, ...]]:
    """All wordings of each question, by id."""
    return {question.id: (question.question, *question.rewordings) for question in questions}


def in_style(candidates: Sequence[Candidate], style: QuestionStyle) -> list[Verdict]:
    """Drop what does not read as a question of this style (`not_a_question`), and what was cut off (`unfinished`)."""
    return [
        Verdict("not_a_question")
        if not style.reads_as_question(candidate.question)
        else Verdict("" if candidate.finished else "unfinished")
        for candidate in candidates
    ]


def copies(
    candidates: Sequence[Candidate],
    sources: Mapping[str, Sequence[str]],
    held_out: Mapping[str, Sequence[str]],
    pool: Mapping[str, Sequence[str]],
    elsewhere: Mapping[str, Sequence[str]],
) -> list[Verdict]:
    """Drop candidates equal to a known wording or an earlier candidate, up to case, white space and outer punctuation.

    Args:
        candidates: the decoded questions; of equal ones the first is kept.
        sources: wordings by id of the questions that were decoded from, at least those of all candidates. Equal to its
            own source: `source_again`; to another one: `in_pool`.
        held_out: wordings by id of the questions of role eval.
        pool: those of role pool.
        elsewhere: those of the other roles that the model or the probe has seen: probe, shot.
    """
    by_reason = {
        "in_eval": _by_text(held_out),
        "in_pool": {**_by_text(sources), **_by_text(pool)},
        "elsewhere": _by_text(elsewhere),
    }
    wordings_of_source = {id_: {normalize_question(text) for text in texts} for id_, texts in sources.items()}
    first_with_text: dict[str, str] = {}

    def verdict(candidate: Candidate) -> Verdict:
        text = normalize_question(candidate.question)
        if text in wordings_of_source[candidate.source_id]:
            return Verdict("source_again", None, candidate.source_id)
        for reason, known in by_reason.items():
            if text in known:
                return Verdict(reason, None, known[text])
        earlier = first_with_text.setdefault(text, candidate.id)
        return Verdict() if earlier == candidate.id else Verdict("twice", None, earlier)

    return [verdict(candidate) for candidate in candidates]


def check_no_leak(kept: Sequence[Question], held_out: Sequence[Question]) -> None:
    """Check once more, before questions are paid for and taught, that none of them is in the test.

    Raises:
        DataError: a kept question has the group of a question of role eval, or a wording in common with one.
    """
    groups = {question.group: question.id for question in held_out if question.group}
    texts = _by_text(wordings(held_out))
    problems = []
    for question in kept:
        shared = [texts[t] for t in map(normalize_question, (question.question, *question.rewordings)) if t in texts]
        if shared or question.group in groups:
            twin = shared[0] if shared else groups[question.group]
            problems.append(f"{question.id} ({question.question!r}) asks the same as eval question {twin}")
    if problems:
        raise DataError(
            f"{len(problems)} decoded question(s) are in the test; teaching them would invalidate it:\n  "
            + "\n  ".join(problems[:20])
            + "\nThis is a bug in the filters, please report it. Until it is fixed: augment.per_question=0."
        )


def funnel(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Number of candidates dropped for each reason, in the order of REASONS, and `kept`; reasons with 0 are left
    out.
    """
    counts = dict.fromkeys((*REASONS, ""), 0)
    for verdict in verdicts:
        counts[verdict.reason] += 1
    kept = counts.pop("")
    return {**{reason: count for reason, count in counts.items() if count}, "kept": kept}


def _by_text(known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Id by normalised wording; the first id if several have the same wording."""
    by_text: dict[str, str] = {}
    for id_, texts in known.items():
        for text in texts:
            by_text.setdefault(normalize_question(text), id_)
    return by_text
