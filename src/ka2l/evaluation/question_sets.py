"""Which questions are asked after teaching: the sets of the evaluation protocol, and the draw from the unlabelled pool.

    # one pass over the questions, which need not fit in memory
    ids = asked_ids(rows, labelled, config.unbought, seed)
    sets = evaluation_sets(questions, arm.bought, config, seed, answers, bought_elsewhere)

`asked_ids` says which questions have to be in memory for `evaluation_sets`: with these questions alone it returns the
same items, in the same order, as with all questions of a run.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ka2l.evaluation.settings import EvaluateConfig
from ka2l.questions.question import DECODED, Question

Item = tuple[str, int, str]
"""Question id, wording (0: as in the pool, 1…: rewordings), text."""
Questions = Mapping[str, Question]
"""By id."""
Answers = Mapping[str, Sequence[str]]
"""Accepted answers by question id, gold and annotated together."""


class QuestionRow(NamedTuple):
    """What a draw needs of a question, without its text."""

    id: str
    role: str
    fact: str
    """See `Question.fact`."""
    answered: bool
    """Whether it has an answer, gold or annotated."""


def asked_ids(rows: Iterable[QuestionRow], labelled: Questions, unbought: int, seed: int) -> set[str]:
    """Ids of the questions that `evaluation_sets` needs: held out, labelled, and drawn from the rest of the pool.

    Args:
        rows: all questions of the run, in any order; read once, and never held in memory.
        labelled: by id, the questions that any arm has bought or taught.
        unbought: how many of the others are drawn (`evaluate.unbought`).
        seed: of the draw.
    """
    held_out: list[str] = []

    def noting_held_out() -> Iterator[QuestionRow]:
        for row in rows:
            if row.role == "eval":
                held_out.append(row.id)
            yield row

    stream = noting_held_out()
    drawn = draw_unbought(stream, {question.fact for question in labelled.values()}, unbought, seed)
    # A draw of size 0 reads nothing.
    for _ in stream:
        pass
    return {*held_out, *labelled, *drawn}


def draw_unbought(rows: Iterable[QuestionRow], taught_facts: Collection[str], size: int, seed: int) -> list[str]:
    """Ids of pool questions with an answer whose fact is not taught, in the order of the draw; memory grows with
    `size`.

    The order is that of a hash of (seed, id). So it does not depend on the order of the rows, and a smaller draw is the
    beginning of a larger one.

    Args:
        rows: of any role.
        taught_facts: the facts of the labelled questions.
        size: how many are drawn, or all if there are fewer.
        seed: of the draw.
    """
    candidates = (row.id for row in rows if row.role == "pool" and row.answered and row.fact not in taught_facts)
    return heapq.nsmallest(size, candidates, key=lambda id_: hashlib.sha256(f"{seed}:{id_}".encode()).digest())


def evaluation_sets(
    questions: Questions,
    bought: Sequence[str],
    config: EvaluateConfig,
    seed: int,
    answers: Answers | None = None,
    bought_elsewhere: Collection[str] = (),
) -> dict[str, list[Item]]:
    """The questions to ask, by set: held_out, bought, bought_reworded, unbought (a set may be empty).

    Decoded questions that were taught are the set `decoded`, before `unbought`; it is left out if it is empty.
    Questions without any answer are left out. `unbought` leaves out questions that share a group with a bought or
    decoded one, because that fact was taught; it is drawn by `draw_unbought`.

    Args:
        questions: all questions of the run, or those of `asked_ids`.
        bought: unique ids of the questions whose answers were bought, of role pool or decoded.
        config: `unbought` and `rewordings` say how many of each are asked.
        seed: of the draw.
        answers: questions that are not in it have their gold answers.
        bought_elsewhere: ids that other arms have bought; `unbought` leaves them out too, so that all arms are asked
            the same questions there.

    Raises:
        ValueError: a bought id is unknown, repeated, or held out, or shares its group with a held-out question.
    """
    _check_bought(questions, bought)
    taught_facts = {questions[id_].fact for id_ in (*bought, *bought_elsewhere)}
    taught = [questions[id_] for id_ in bought if answers_of(questions[id_], answers)]
    from_pool = [question for question in taught if question.role != DECODED]
    decoded = [question for question in taught if question.role == DECODED]
    held_out = [q for q in questions.values() if q.role == "eval" and answers_of(q, answers)]
    rows = (QuestionRow(q.id, q.role, q.fact, bool(answers_of(q, answers))) for q in questions.values())
    unbought = [questions[id_] for id_ in draw_unbought(rows, taught_facts, config.unbought, seed)]
    return {
        "held_out": _as_written(held_out),
        "bought": _as_written(from_pool),
        "bought_reworded": [
            (question.id, wording, text)
            for question in from_pool
            for wording, text in enumerate(question.rewordings[: config.rewordings], start=1)
        ],
        **({DECODED: _as_written(decoded)} if decoded else {}),
        "unbought": _as_written(unbought),
    }


def answers_of(question: Question, answers: Answers | None) -> Sequence[str]:
    """The accepted answers to a question: those in `answers`, else its gold answers; may be empty."""
    return (answers or {}).get(question.id) or question.answers


def _as_written(questions: Iterable[Question]) -> list[Item]:
    return [(question.id, 0, question.question) for question in questions]


def _check_bought(questions: Questions, bought: Sequence[str]) -> None:
    for id_, times in Counter(bought).items():
        if id_ not in questions:
            raise ValueError(f"bought question {id_!r} is not among the {len(questions)} questions")
        if times > 1 or questions[id_].role == "eval":
            raise ValueError(f"{id_!r} was bought {times} times and has role {questions[id_].role!r}")
    held_out = {question.fact: question.id for question in questions.values() if question.role == "eval"}
    for id_ in bought:
        if (group := questions[id_].fact) in held_out:
            raise ValueError(
                f"bought question {id_!r} has group {group!r}, and so has the held-out question {held_out[group]!r}"
            )
