"""Assign a role to every question (probe, pool, eval, shot or decoder), disjoint by group.

`assign_missing_roles` is for sources that give roles to some questions only, such as GeoNames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ka2l.common.answer_text import normalize_question
from ka2l.errors import ConfigError, DataError
from ka2l.questions.question import Question, rank
from ka2l.questions.settings import RolesConfig

# The pool comes last: if whole groups overfill a role, the pool gets a few fewer. It is usually the largest.
_FILL_ORDER = ("probe", "eval", "decoder", "pool")


def assign_roles(questions: Sequence[Question], roles: RolesConfig, seed: int, shots: int) -> list[Question]:
    """Give every group one role, in the order of SHA-256 over (seed, group): the order of rows does not matter.

    The shots are taken first: `shots` questions with answers (fewer if fewer exist). They come from the smallest
    groups, because the rest of a shot's group cannot be used for anything else and is dropped. Then probe, eval,
    decoder and pool are filled in turn. Fractions refer to the questions left after the shots. They are rounded
    cumulatively, so each role is less than one question off, and fractions that sum to 1 use every question.
    With smaller fractions or counts the remaining questions are dropped. A group that crosses a boundary goes to the
    role that is being filled.

    Args:
        questions: in any order.
        roles: sizes of the roles, as fractions or as counts.
        seed: of the run.
        shots: number of worked examples.

    Returns:
        the questions that got a role, in the order given, each with its role and group set.

    Raises:
        ConfigError: fractions sum to more than 1, counts are not whole numbers, or every role is 0.
        DataError: counts ask for more questions than there are, or large groups leave a role empty.
    """
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.fact, []).append(question)
    order = sorted(groups, key=lambda name: rank(seed, "role", name))
    role_of, spent = _take_shots(groups, order, seed, shots)
    rest = [name for name in order if name not in spent]
    sizes = _sizes(roles, sum(len(groups[name]) for name in rest), len(role_of))
    remaining = iter(rest)
    for role, size in sizes.items():
        filled = 0
        while filled < size and (name := next(remaining, None)) is not None:
            role_of.update((question.id, role) for question in groups[name])
            filled += len(groups[name])
        if size and not filled:
            raise DataError(
                f"Role {role} asks for {size} questions, but large groups left none of {len(questions)}: "
                f"there are {len(groups)} groups, and the largest has {max(map(len, groups.values()))}. "
                "Fix: finer groups (questions.columns.group), or smaller roles (questions.roles)."
            )
    return [replace(q, role=role_of[q.id], group=q.fact) for q in questions if q.id in role_of]


def assign_missing_roles(questions: Sequence[Question], roles: RolesConfig, seed: int, shots: int) -> list[Question]:
    """Assign roles to the questions that have none yet, and keep the order of the source; see `assign_roles`."""
    given = [question for question in questions if question.role]
    if not given:
        return assign_roles(questions, roles, seed, shots)
    free = assign_roles([question for question in questions if not question.role], roles, seed, shots)
    by_id = {question.id: question for question in (*free, *given)}
    return [by_id[question.id] for question in questions if question.id in by_id]


def _take_shots(
    groups: Mapping[str, list[Question]], order: Sequence[str], seed: int, shots: int
) -> tuple[dict[str, str], set[str]]:
    """The role `shot` by question id, and the groups that can have no other role."""
    role_of: dict[str, str] = {}
    spent: set[str] = set()
    # The sort is stable: groups of equal size keep their seeded order.
    for name in sorted(order, key=lambda name: len(groups[name])):
        answered = [question for question in groups[name] if question.answers]
        if len(role_of) < shots and answered:
            answered.sort(key=lambda question: rank(seed, "shot", normalize_question(question.question)))
            role_of.update((question.id, "shot") for question in answered[: shots - len(role_of)])
            spent.add(name)
    return role_of, spent


def _sizes(roles: RolesConfig, available: int, shots: int) -> dict[str, int]:
    """Number of questions of each role, out of `available`."""
    asked = {role: float(getattr(roles, role)) for role in _FILL_ORDER}
    listed = ", ".join(f"{role} {size:g}" for role, size in asked.items())
    total = sum(asked.values())
    if total == 0:
        raise ConfigError("questions.roles: every role is 0. Give at least probe, pool and eval a size.")
    if max(asked.values()) <= 1:
        if total > 1 + 1e-9:
            raise ConfigError(
                f"questions.roles: the fractions sum to {total:g}, more than 1 ({listed}). "
                "Fix: fractions that sum to at most 1, or counts above 1."
            )
        edges, reached = [0], 0.0
        for size in asked.values():
            reached += size
            # Halves are rounded up, also those that the rounding of sums has made slightly less than a half.
            edges.append(min(available, int(reached * available + 0.5 + 1e-9)))
        return {role: edges[i + 1] - edges[i] for i, role in enumerate(asked)}
    if any(size != int(size) for size in asked.values()):
        raise ConfigError(f"questions.roles: give all fractions (0–1) or all whole counts, not a mixture ({listed}).")
    if total > available:
        raise DataError(
            f"questions.roles ask for {total:g} questions ({listed}), but there are {available} "
            f"after {shots} shots. Fix: smaller counts, fractions, or more questions."
        )
    return {role: int(size) for role, size in asked.items()}
