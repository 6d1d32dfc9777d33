"""Load questions: read and validate them, merge duplicates, and give each a role. The first step of `ka2l run`.

Roles: `probe` questions are sampled and train the probe, `pool` questions can be selected for labelling, `eval`
questions are held out, `decoder` questions train the hidden-state decoder, `shot` questions are the worked examples of
the prompt. Questions of one group share a fact (by default: have the same wording), and a group has one role only.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from ka2l.common.answer_text import normalize_question
from ka2l.errors import ConfigError, DataError, bad_rows
from ka2l.questions.columns import RowMapper
from ka2l.questions.geonames.place_questions import geonames_rows
from ka2l.questions.groups import check_disjoint, join_groups, merge_duplicates
from ka2l.questions.question import Question, meta_text, rank
from ka2l.questions.roles import assign_missing_roles
from ka2l.questions.row_sources import read_rows
from ka2l.questions.settings import QuestionsConfig


class LoadedQuestions(NamedTuple):
    """What `load_questions` returns."""

    questions: list[Question]
    """Every question that has a role, in the order of the source."""
    duplicates: int
    """Rows that were merged into another row."""
    source: str
    """The setting `questions.source`."""
    fingerprint: str
    """SHA-256 (hex) of the questions and their roles: everything that later stages can depend on."""


def load_questions(config: QuestionsConfig, seed: int, shots: int) -> LoadedQuestions:
    """Read and validate questions, merge duplicates, draw `config.limit` of them by seed and assign roles.

    The fingerprint of the result does not change if the file is moved or its white space changes.

    Args:
        config: the section `questions`.
        seed: of the run.
        shots: number of worked examples to take out of the questions.

    Raises:
        ConfigError: no source is named, or the sizes of the roles contradict each other.
        DataError: the source cannot be read, rows are bad (all of them are listed together), a group has
            two roles, there are too few questions, or questions of role `eval` have no answer.
    """
    if not config.source:
        raise ConfigError("questions.source is empty. Name a file, a dataset, or `geonames`.")
    rows, roles_given = _rows(config, seed)
    if not rows:
        raise DataError(f"{config.source}: it contains no questions. Check questions.source and questions.split.")
    rows = join_groups(rows)
    if roles_given:
        # Before duplicates are merged: merging two questions of different roles would hide one of the roles.
        check_disjoint(rows)
    merged = merge_duplicates(rows)
    duplicates = len(rows) - len(merged)
    if config.limit is not None:
        ranked = sorted(merged, key=lambda row: rank(seed, "limit", normalize_question(row.question)))
        drawn = {row.id for row in ranked[: config.limit]}
        merged = [row for row in merged if row.id in drawn]
    questions = merged if roles_given else assign_missing_roles(merged, config.roles, seed, shots)
    check_disjoint(questions)
    _check_eval_answers(questions, config.source)
    return LoadedQuestions(questions, duplicates, config.source, _fingerprint(questions))


def loaded_questions(questions: list[Question], source: str) -> LoadedQuestions:
    """The same for questions that were checked when they were imported."""
    return LoadedQuestions(questions, 0, source, _fingerprint(questions))


def _rows(config: QuestionsConfig, seed: int) -> tuple[list[Question], bool]:
    """The source's questions, and whether the source gives all of them a role."""
    if config.is_geonames:
        return geonames_rows(config.geonames, seed), False
    problems: list[str] = []
    mapper = RowMapper(config)
    questions: list[Question] = []
    # By id: the first row that has it, and the normalised question there.
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
            problems.append(f"{row.where}: id {question.id!r} is already used in {where}, for another question")
        questions.append(question)
    mapper.check_columns(config.source)
    if problems:
        raise bad_rows(config.source, problems, "correct or remove these rows, or set questions.columns.")
    return questions, config.columns.role is not None


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


def _fingerprint(questions: Iterable[Question]) -> str:
    digest = hashlib.sha256(b"ka2l questions 1\n")
    for q in questions:
        row = [q.id, q.question, list(q.answers), q.role, q.group, meta_text(q)]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
