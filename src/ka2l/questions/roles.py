"""Assign a role to every question: probe, pool, eval, shot or decoder, disjoint by group."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ka2l.common.answer_text import normalize_question
from ka2l.errors import ConfigError, DataError
from ka2l.questions.question import Question, _group, rank
from ka2l.questions.settings import RolesConfig

# The pool comes last: where whole groups overfill a role, the pool, as a rule the largest, has a few less.
_FILL_ORDER = ("probe", "eval", "decoder", "pool")


def assign_roles(questions: Sequence[Question], roles: RolesConfig, seed: int, shots: int) -> list[Question]:
    """Give every group one role, by the order of SHA-256 over (seed, group): the order of rows does not matter.

    The shots come out first: `shots` questions with answers (fewer where fewer exist), from the smallest groups
    so that little is lost, as the rest of a shot's group can serve nothing else and is dropped. Then probe, eval,
    decoder and pool are filled in turn. Fractions are of what is left after the shots; they are rounded
    cumulatively, so each role is less than one question off and fractions that sum to 1 leave nothing over.
    Otherwise what is left over is dropped. A group that crosses a boundary goes to the role being filled.

    Raises:
        ConfigError: fractions above 1 in sum, counts that are no whole numbers, no role at all.
        DataError: counts ask for more than there is, or large groups leave a role with nothing.
    """
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(_group(question), []).append(question)
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
                f"Role {role} asks for {size} questions but large groups left none of {len(questions)}: "
                f"{len(groups)} groups, the largest has {max(map(len, groups.values()))}. "
                "Fix: finer groups (questions.columns.group), or smaller roles (questions.roles)."
            )
    return [replace(q, role=role_of[q.id], group=_group(q)) for q in questions if q.id in role_of]


def _with_roles(questions: Sequence[Question], roles: RolesConfig, seed: int, shots: int) -> list[Question]:
    """Roles for those that the source gave none, in the order of the source."""
    given = [question for question in questions if question.role]
    if not given:
        return assign_roles(questions, roles, seed, shots)
    free = assign_roles([question for question in questions if not question.role], roles, seed, shots)
    by_id = {question.id: question for question in (*free, *given)}
    return [by_id[question.id] for question in questions if question.id in by_id]


def _take_shots(
    groups: Mapping[str, list[Question]], order: Sequence[str], seed: int, shots: int
) -> tuple[dict[str, str], set[str]]:
    role_of: dict[str, str] = {}
    spent: set[str] = set()
    for name in sorted(
        order, key=lambda name: len(groups[name])
    ):  # stable: equal sizes keep the seeded order
        answered = [question for question in groups[name] if question.answers]
        if len(role_of) < shots and answered:
            answered.sort(key=lambda question: rank(seed, "shot", normalize_question(question.question)))
            role_of.update((question.id, "shot") for question in answered[: shots - len(role_of)])
            spent.add(name)
    return role_of, spent


def _sizes(roles: RolesConfig, available: int, shots: int) -> dict[str, int]:
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
            # Halves go up, also those that sums of fractions have made a little less than a half.
            edges.append(min(available, int(reached * available + 0.5 + 1e-9)))
        return {role: edges[i + 1] - edges[i] for i, role in enumerate(asked)}
    if any(size != int(size) for size in asked.values()):
        raise ConfigError(
            f"questions.roles: all fractions (0–1) or all whole counts, not a mixture ({listed})."
        )
    if total > available:
        raise DataError(
            f"questions.roles ask for {total:g} questions ({listed}), but there are {available} "
            f"after {shots} shots. Fix: smaller counts, fractions, or more questions."
        )
    return {role: int(size) for role, size in asked.items()}
