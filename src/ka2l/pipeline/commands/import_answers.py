"""Answers made elsewhere: take them into a run, and give them out again as if they were sampled now.

    ka2l import runs/mine answers.jsonl

They are kept in imported.parquet, one row a question, which no stage ever removes: whoever changes what is read from
them, or adds hidden states, need not have the file any more.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ka2l.common import atomic_files
from ka2l.common.answer_text import normalize_question
from ka2l.common.progress import Reporter
from ka2l.config.recipes import load_config
from ka2l.errors import ConfigError, DataError, RunError
from ka2l.pipeline.commands.answers_file import AnsweredRow, number_of_samples, read_answers_file, refuse
from ka2l.pipeline.run import context_of, run_verb
from ka2l.pipeline.run_directory import IMPORTED, RunDirectory
from ka2l.questions.groups import join_groups
from ka2l.questions.question import Question, to_table
from ka2l.questions.settings import SOURCE

if TYPE_CHECKING:
    import pyarrow as pa


def take_in(
    out: Path, file: Path, overrides: Sequence[str], reporter: Reporter, *, replace: bool = False
) -> RunDirectory:
    """Check the answers against the run at `out`, or start one with the questions in the file, and keep them there.

    Raises:
        DataError: bad rows, all of them listed; nothing is imported.
        RunError: the run has other answers already, and `replace` is off.
    """
    problems: list[str] = []
    rows = read_answers_file(file, problems)
    n = number_of_samples(rows, _asked_for(overrides), problems)
    if (out / "manifest.json").exists():
        directory = _existing(out, overrides, n)
        found = _matched(directory, rows, problems, reporter)
    else:
        directory = None
        found = _as_questions(rows, problems)
    refuse(file, problems)
    if directory is None:
        directory = _new(out, overrides, n)
    with directory.locked():
        _check_replaces(directory, found, replace)
        atomic_files.write_table(directory.file(IMPORTED), found)
    return directory


def _asked_for(overrides: Sequence[str]) -> int | None:
    """sample.n, where it was set by hand."""
    asked = [override for override in overrides if override.startswith("sample.n=")]
    return load_config(None, asked).sample.n if asked else None


def _existing(out: Path, overrides: Sequence[str], n: int) -> RunDirectory:
    before = RunDirectory.open(out).config.sample
    settings = [f"sample.n={n}", "sample.engine=imported"]
    settings += [] if before.engine == "imported" else ["sample.states=none"]
    return RunDirectory.open(out, [*settings, *overrides])


def _new(out: Path, overrides: Sequence[str], n: int) -> RunDirectory:
    base = {
        "questions": {"source": SOURCE},
        "sample": {"engine": "imported", "states": "none", "n": n},
    }
    config = load_config(None, overrides, base)
    if config.questions.source != SOURCE or config.sample.engine != "imported":
        raise ConfigError(
            f"{out}: there is no run here, so the questions come from the file of answers. For answers to questions "
            f"from elsewhere start the run first: ka2l load RECIPE.yaml --out {out}"
        )
    return RunDirectory.create(out, config)


def _matched(
    directory: RunDirectory, rows: Sequence[AnsweredRow], problems: list[str], reporter: Reporter
) -> "pa.Table":
    """The rows as questions of the run, found by id or by text; what the run does not have is a problem."""
    context = context_of(directory, reporter)
    if directory.config.questions.source == SOURCE:  # these questions are whatever the file holds
        return _as_questions(rows, problems)
    if "load" not in directory.stages:
        raise RunError(f"{directory.path}: the questions are not loaded. Run `ka2l load` first.")
    by_id = context.questions_by_id()
    by_text = {normalize_question(question.question): question for question in by_id.values()}
    found: dict[str, tuple[Question, AnsweredRow]] = {}
    others = 0
    for row in rows:
        text = None if row.question is None else normalize_question(row.question)
        question = (by_id.get(row.id) if row.id is not None else None) or (
            by_text.get(text) if text else None
        )
        if question is None:
            problems.append(f"{row.where}: the run has no question {row.id or row.question!r}")
        elif text is not None and normalize_question(question.question) != text:
            problems.append(
                f"{row.where}: id {row.id!r} is another question in the run: {question.question!r}"
            )
        elif question.id in found:
            problems.append(f"{row.where}: this question already stands in {found[question.id][1].where}")
        elif question.role != "probe":
            others += 1
        else:
            found[question.id] = (question, row)
    probes = sum(question.role == "probe" for question in by_id.values())
    if not found and not problems:
        raise DataError(
            f"{directory.path}: no row of the file answers a question of the role probe ({probes} of them)."
        )
    if others:
        reporter.say(f"Rows that answer questions of other roles than probe and are not used: {others}.")
    if len(found) < probes:
        reporter.say(
            f"Probe questions that have no answers and are left out: {probes - len(found)} of {probes}."
        )
    return _table([question for question, _ in found.values()], [row for _, row in found.values()])


def _as_questions(rows: Sequence[AnsweredRow], problems: list[str]) -> "pa.Table":
    """The rows as questions of their own, all of the role probe."""
    questions = []
    for row in rows:
        if row.question is None:
            problems.append(
                f"{row.where}: no `question`, and there is no run here whose question {row.id!r} it could be"
            )
            continue
        derived = "q" + hashlib.sha256(normalize_question(row.question).encode()).hexdigest()[:16]
        questions.append(Question(row.id or derived, row.question, row.gold, "probe", row.group))
    good = [row for row in rows if row.question is not None]
    return _table([replace(q, role="probe") for q in join_groups(questions)], good)


def _table(questions: Sequence[Question], rows: Sequence[AnsweredRow]) -> "pa.Table":
    import pyarrow as pa

    sample = pa.struct(
        [
            ("sample", pa.int32()),
            ("text", pa.string()),
            ("token_logprobs", pa.list_(pa.float32())),
            ("finish_reason", pa.string()),
        ]
    )
    samples = [
        [
            {"sample": number, **answer._asdict()}
            for number, answer in enumerate((row.low, *row.answers))
            if answer is not None
        ]
        for row in rows
    ]
    return to_table(questions).append_column("samples", pa.array(samples, type=pa.list_(sample)))


def _check_replaces(directory: RunDirectory, found: "pa.Table", replace: bool) -> None:
    """Answers that are there, sampled or imported, are not thrown away unasked; the same ones again are no matter."""
    path = directory.file(IMPORTED)
    if replace or (path.exists() and atomic_files.read_table(path).equals(found)):
        return
    sampled = directory.stages.get("sample")
    if path.exists() or sampled is not None:
        count = sampled.counts.get("answers", 0) if sampled is not None else 0
        raise RunError(
            f"{directory.path}: this run has answers already{f' ({count:,})' if count else ''}. "
            "Import into another folder, or put these in their place: --replace."
        )


def import_answers(
    out: Path,
    file: Path,
    overrides: Sequence[str] = (),
    *,
    replace: bool = False,
    reporter: Reporter | None = None,
) -> RunDirectory:
    """Take answers made elsewhere into the run at `out`, or start one with their questions; then `measure` can work.

    Args:
        out: a run whose questions are loaded, or a new folder.
        file: JSONL, see `ka2l.pipeline.commands.answers_file`.
        overrides: settings on top, such as `sample.states=surrogate`.
        replace: let them take the place of answers that are there.

    Raises:
        DataError: bad rows, all of them listed; nothing is imported.
        RunError: the run has other answers already, and `replace` is off.
    """
    reporter = reporter or Reporter()
    directory = take_in(out, file, overrides, reporter, replace=replace)
    if directory.config.questions.source == SOURCE:
        run_verb("load", directory, reporter)
    run_verb("sample", directory, reporter)
    return directory
