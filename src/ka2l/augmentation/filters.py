"""Which decoded questions are new: not asked before, in no wording that means the same, and not in the test.

    verdicts = copies(candidates, wordings(sources), wordings(held_out), wordings(pool), wordings(probe))
    funnel(verdicts)   # {"source_again": 12, "in_pool": 55, "twice": 31, "kept": 702}

Pure functions over texts; what says the same in other words is found in `near_copies`. Whoever calls them passes on
what was kept so far.
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
"""Why a candidate is dropped, in the order in which it is asked."""


class Candidate(NamedTuple):
    """A decoded question."""

    id: str
    source_id: str  # of the question whose state it was decoded from
    question: str
    finished: bool  # the decoder ended it by itself


class Verdict(NamedTuple):
    """What became of a candidate."""

    reason: str = ""
    """One of REASONS; empty: kept so far."""
    similarity: float | None = None
    """Cosine with the nearest question it was compared with (of those that count for the reason, if dropped)."""
    nearest: str | None = None
    """Id of that question, or of the one it equals."""


def wordings(questions: Iterable[Question]) -> dict[str, tuple[str, ...]]:
    """All wordings of each question, by id."""
    return {question.id: (question.question, *question.rewordings) for question in questions}


def in_style(candidates: Sequence[Candidate], style: QuestionStyle) -> list[Verdict]:
    """`not_a_question` and `unfinished`."""
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
    """Candidates that equal a known wording, up to case, white space and outer punctuation, or an earlier candidate.

    Args:
        candidates: what was decoded; of equal ones the first is kept.
        sources: wordings by id of the questions decoded from, of every candidate's; equal to another's: `in_pool`.
        held_out: of role eval.
        pool: of role pool.
        elsewhere: of the other roles the model or the probe has seen: probe, shot.
    """
    by_reason = {
        "in_eval": _by_text(held_out),
        "in_pool": {**_by_text(sources), **_by_text(pool)},
        "elsewhere": _by_text(elsewhere),
    }
    own = {id_: {normalize_question(text) for text in texts} for id_, texts in sources.items()}
    first: dict[str, str] = {}

    def verdict(candidate: Candidate) -> Verdict:
        text = normalize_question(candidate.question)
        if text in own[candidate.source_id]:
            return Verdict("source_again", None, candidate.source_id)
        for reason, known in by_reason.items():
            if text in known:
                return Verdict(reason, None, known[text])
        earlier = first.setdefault(text, candidate.id)
        return Verdict() if earlier == candidate.id else Verdict("twice", None, earlier)

    return [verdict(candidate) for candidate in candidates]


def check_no_leak(kept: Sequence[Question], held_out: Sequence[Question]) -> None:
    """The last look before questions are paid for and taught.

    Raises:
        DataError: a kept question has the group of a question of role eval, or a wording in common with one.
    """
    groups = {question.group: question.id for question in held_out if question.group}
    texts = _by_text(wordings(held_out))
    problems = []
    for question in kept:
        shared = [
            texts[t] for t in map(normalize_question, (question.question, *question.rewordings)) if t in texts
        ]
        if shared or question.group in groups:
            twin = shared[0] if shared else groups[question.group]
            problems.append(f"{question.id} ({question.question!r}) asks what eval question {twin} asks")
    if problems:
        raise DataError(
            f"{len(problems)} decoded question(s) stand in the test; teaching them would falsify it:\n  "
            + "\n  ".join(problems[:20])
            + "\nThis is a fault of the filters, please report it. Until then: augment.per_question=0."
        )


def funnel(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many were dropped for each reason, in the order of REASONS, and `kept`; reasons of no candidate are left out."""
    counts = dict.fromkeys((*REASONS, ""), 0)
    for verdict in verdicts:
        counts[verdict.reason] += 1
    kept = counts.pop("")
    return {**{reason: count for reason, count in counts.items() if count}, "kept": kept}


def _by_text(known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Id by normalised wording; of several with one wording the first."""
    by_text: dict[str, str] = {}
    for id_, texts in known.items():
        for text in texts:
            by_text.setdefault(normalize_question(text), id_)
    return by_text
