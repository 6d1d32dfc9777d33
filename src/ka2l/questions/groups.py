"""Groups of questions that ask for the same fact, and the check that no group spans two roles."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ka2l.common.answer_text import normalize_question
from ka2l.errors import DataError
from ka2l.questions.question import Question


def merge_duplicates(questions: Iterable[Question]) -> list[Question]:
    """Keep one question per normalised wording: the first one, with the answers and rewordings of all."""
    merged: dict[str, Question] = {}
    for new in questions:
        key = normalize_question(new.question)
        old = merged.get(key)
        if old is None:
            merged[key] = new
            continue
        meta = {**new.meta, **old.meta}
        if rewordings := list(dict.fromkeys((*old.rewordings, *new.rewordings))):
            meta["rewordings"] = rewordings
        merged[key] = replace(old, answers=tuple(dict.fromkeys((*old.answers, *new.answers))), meta=meta)
    return list(merged.values())


def join_groups(questions: Sequence[Question]) -> list[Question]:
    """Join groups that share a wording, as question or as rewording; otherwise a fact could leak between roles.

    A question without a group gets the group `Question.fact`. A joined group has the smallest of the names.
    """
    # Union-find: `parent` leads from each group to the name of the group it was joined to.
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    grouped = [q if q.group else replace(q, group=q.fact) for q in questions]
    owner: dict[str, str] = {}
    for question in grouped:
        for wording in (question.question, *question.rewordings):
            first = owner.setdefault(normalize_question(wording), question.group)
            low, high = sorted((root(first), root(question.group)))
            parent[high] = low
    return [q if root(q.group) == q.group else replace(q, group=root(q.group)) for q in grouped]


def check_disjoint(questions: Iterable[Question]) -> None:
    """Raise DataError, with examples, if a group has two roles."""
    seen: dict[str, dict[str, str]] = {}
    for question in questions:
        seen.setdefault(question.group, {}).setdefault(question.role, question.id)
    problems = [
        f"group {group!r}: " + ", ".join(f"{role} (question {i})" for role, i in sorted(by_role.items()))
        for group, by_role in seen.items()
        if len(by_role) > 1
    ]
    if problems:
        shown = "\n  ".join(problems[:20])
        raise DataError(
            f"{len(problems)} group(s) have two roles, so training questions would also be test questions:\n  {shown}\n"
            "Fix: give all questions of a group, and all duplicates of a question, the same role."
        )
