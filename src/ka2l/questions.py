"""Questions: load and validate them, merge duplicates, give each a role, and turn them into a table.

The first step of `ka2l run`. Roles: `probe` is sampled and trains the probe, `pool` is what one can buy from,
`eval` is held out, `decoder` trains the hidden-state decoder, `shot` are the worked examples of the prompt.
Questions of one group share a fact (by default: have the same wording), and a group stands in one role only.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ka2l.config import QuestionsConfig, RolesConfig
from ka2l.errors import ConfigError, DataError, bad_rows
from ka2l.text import normalize_question

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("id", "question", "answers", "role", "group", "meta")
# The pool comes last: where whole groups overfill a role, the pool, as a rule the largest, has a few less.
_FILL_ORDER = ("probe", "eval", "decoder", "pool")


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `answers` are all accepted gold answers, empty where nobody knows yet."""

    id: str
    question: str
    answers: tuple[str, ...] = ()
    role: str = ""
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rewordings(self) -> tuple[str, ...]:
        """Other wordings of the same question, never asked before teaching."""
        return tuple(self.meta.get("rewordings", ()))


class LoadedQuestions(NamedTuple):
    """What `load_questions` returns."""

    questions: list[Question]
    """Every question that has a role, in the order of the source."""
    duplicates: int
    """Rows that were merged into another row."""
    source: str
    """As configured."""
    fingerprint: str
    """SHA-256 (hex) of the questions and their roles: all that later stages can depend on."""


def load_questions(config: QuestionsConfig, seed: int, shots: int) -> LoadedQuestions:
    """Read, validate, merge duplicates, draw `config.limit` by seed and assign roles.

    The result does not change when the file is moved or its white space changes: see `fingerprint`.

    Raises:
        ConfigError: no source is named, or the sizes of the roles contradict each other.
        DataError: the source cannot be read, rows are bad (all of them are listed together), a group stands
            in two roles, there are too few questions, or questions of role `eval` have no answer.
    """
    if not config.source:
        raise ConfigError("questions.source is empty. Name a file, a dataset, or `geonames`.")
    rows, roles_given = _rows(config, seed)
    if not rows:
        raise DataError(f"{config.source}: no questions in it. Check questions.source and questions.split.")
    rows = join_groups(rows)
    if roles_given:
        check_disjoint(rows)  # before duplicates merge, where one of two roles would vanish unseen
    merged = merge_duplicates(rows)
    duplicates = len(rows) - len(merged)
    if config.limit is not None:
        ranked = sorted(merged, key=lambda row: rank(seed, "limit", normalize_question(row.question)))
        drawn = {row.id for row in ranked[: config.limit]}
        merged = [row for row in merged if row.id in drawn]
    questions = merged if roles_given else _with_roles(merged, config.roles, seed, shots)
    check_disjoint(questions)
    _check_eval_answers(questions, config.source)
    return LoadedQuestions(questions, duplicates, config.source, _fingerprint(questions))


def loaded_questions(questions: list[Question], source: str) -> LoadedQuestions:
    """Questions that were checked when they were taken in."""
    return LoadedQuestions(questions, 0, source, _fingerprint(questions))


def merge_duplicates(questions: Iterable[Question]) -> list[Question]:
    """One question per normalised wording; the first keeps id and spelling, answers and rewordings are united."""
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
    """Join groups that share a wording, be it as question or as rewording, else a fact could leak between roles.

    A question without a group gets its normalised wording; the joined group has the smallest of the names.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    grouped = [q if q.group else replace(q, group=_group(q)) for q in questions]
    owner: dict[str, str] = {}
    for question in grouped:
        for wording in (question.question, *question.rewordings):
            first = owner.setdefault(normalize_question(wording), question.group)
            low, high = sorted((root(first), root(question.group)))
            parent[high] = low
    return [q if root(q.group) == q.group else replace(q, group=root(q.group)) for q in grouped]


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


def check_disjoint(questions: Iterable[Question]) -> None:
    """Raise DataError, with examples, when a group stands in two roles."""
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
            f"{len(problems)} group(s) stand in two roles; what is trained on would be tested on:\n  {shown}\n"
            "Fix: give all questions of a group, and all duplicates of a question, the same role."
        )


def to_table(questions: Sequence[Question]) -> "pa.Table":
    """Columns id, question, answers (list of text), role, group, meta (JSON text): `questions.parquet`."""
    import pyarrow as pa

    texts = pa.list_(pa.string())
    kinds = [(name, texts if name == "answers" else pa.string()) for name in _COLUMNS]
    rows = [{name: getattr(q, name) for name in _COLUMNS} | {"meta": _meta_text(q)} for q in questions]
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))


def from_table(table: "pa.Table") -> list[Question]:
    """The questions that `to_table` wrote."""
    return [
        Question(**{**row, "answers": tuple(row["answers"]), "meta": json.loads(row["meta"])})
        for row in table.to_pylist()
    ]


def _rows(config: QuestionsConfig, seed: int) -> tuple[list[Question], bool]:
    # Imported here because both modules import Question from this one.
    if config.source == "geonames":
        from ka2l.geonames import geonames_rows

        return geonames_rows(config.geonames, seed), False
    from ka2l.columns import RowMapper
    from ka2l.sources import read_rows

    problems: list[str] = []
    mapper = RowMapper(config)
    questions: list[Question] = []
    first: dict[str, tuple[str, str]] = {}
    for row in read_rows(config, problems):
        try:
            question = mapper(row.values)
        except ValueError as error:
            problems.append(f"{row.where}: {error}")
            continue
        key = normalize_question(question.question)
        where, other = first.setdefault(question.id, (row.where, key))
        if other != key:
            problems.append(
                f"{row.where}: id {question.id!r} already stands in {where}, with another question"
            )
        questions.append(question)
    mapper.check_columns(config.source)
    if problems:
        raise bad_rows(config.source, problems, "correct or remove them, or see questions.columns.")
    return questions, config.columns.role is not None


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


def _check_eval_answers(questions: Iterable[Question], source: str) -> None:
    held_out = [question for question in questions if question.role == "eval"]
    bare = [question for question in held_out if not question.answers]
    if bare:
        examples = ", ".join(repr(question.id) for question in bare[:5])
        raise DataError(
            f"{source}: {len(bare)} of {len(held_out)} questions of role eval have no answer (such as {examples}); "
            "evaluation needs answers. Fix: add answers, name their column (questions.columns.answers), "
            "or give the roles in a column (questions.columns.role)."
        )


def _group(question: Question) -> str:
    return question.group or normalize_question(question.question)


def rank(seed: int, purpose: str, name: str) -> bytes:
    """Place of a name in an order that depends on the seed and on what it is for, and not on the order of rows."""
    return hashlib.sha256(f"{seed}\n{purpose}\n{name}".encode()).digest()


def _meta_text(question: Question) -> str:
    return json.dumps(dict(question.meta), ensure_ascii=False, sort_keys=True)


def _fingerprint(questions: Iterable[Question]) -> str:
    digest = hashlib.sha256(b"ka2l questions 1\n")
    for q in questions:
        row = [q.id, q.question, list(q.answers), q.role, q.group, _meta_text(q)]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
