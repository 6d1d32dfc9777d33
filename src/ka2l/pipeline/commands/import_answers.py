"""Import answers made elsewhere into a run, where they replace sampled answers.

    ka2l import runs/mine answers.jsonl

They are kept in imported.parquet, one row per question, which no stage removes. So the original file is not needed
again when settings of the run change or hidden states are added.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ka2l.common import atomic_files
from ka2l.common.answer_text import normalize_question
from ka2l.common.progress import Reporter
from ka2l.config.recipes import load_config
from ka2l.config.run_limits import has_imported_answers
from ka2l.errors import ConfigError, DataError, RunError
from ka2l.pipeline.commands.answers_file import AnsweredRow, number_of_samples, read_answers_file, refuse
from ka2l.pipeline.run import context_of, run_verb
from ka2l.pipeline.run_directory import IMPORTED, RunDirectory
from ka2l.questions.groups import join_groups
from ka2l.questions.question import Question, to_table
from ka2l.questions.settings import SOURCE

if TYPE_CHECKING:
    import pyarrow as pa


def import_answers(
    out: Path,
    file: Path,
    overrides: Sequence[str] = (),
    *,
    replace: bool = False,
    reporter: Reporter | None = None,
) -> RunDirectory:
    """Import answers made elsewhere into the run at `out`, or start a run with their questions. Then `measure` can run.

    Args:
        out: a run whose questions are loaded, or a new folder.
        file: JSONL, see `ka2l.pipeline.commands.answers_file`.
        overrides: changed settings, such as `sample.states=surrogate`.
        replace: replace the answers the run has.
        reporter: progress and notes.

    Raises:
        DataError: bad rows, all of them listed; nothing is imported.
        RunError: the run has other answers already, and `replace` is off.
    """
    reporter = reporter or Reporter()
    directory = _store_answers(out, file, overrides, reporter, replace=replace)
    if directory.config.questions.is_imported:
        run_verb("load", directory, reporter)
    run_verb("sample", directory, reporter)
    return directory


def _store_answers(
    out: Path, file: Path, overrides: Sequence[str], reporter: Reporter, *, replace: bool
) -> RunDirectory:
    """Check the answers and write them to imported.parquet; errors as `import_answers`."""
    problems: list[str] = []
    rows = read_answers_file(file, problems)
    n = number_of_samples(rows, _given_n(overrides), problems)
    if (out / "manifest.json").exists():
        directory = _existing_run(out, overrides, n)
        table = _match_questions(directory, rows, problems, reporter)
    else:
        directory = None
        table = _as_questions(rows, problems)
    refuse(file, problems)
    if directory is None:
        directory = _new_run(out, overrides, n)
    with directory.locked():
        _check_replaces(directory, table, replace)
        atomic_files.write_table(directory.file(IMPORTED), table)
    return directory


def _given_n(overrides: Sequence[str]) -> int | None:
    """sample.n, if the overrides set it."""
    given = [override for override in overrides if override.startswith("sample.n=")]
    return load_config(None, given).sample.n if given else None


def _existing_run(out: Path, overrides: Sequence[str], n: int) -> RunDirectory:
    before = RunDirectory.open(out).config.sample
    settings = [f"sample.n={n}", "sample.engine=imported"]
    settings += [] if before.engine == "imported" else ["sample.states=none"]
    return RunDirectory.open(out, [*settings, *overrides])


def _new_run(out: Path, overrides: Sequence[str], n: int) -> RunDirectory:
    base = {
        "questions": {"source": SOURCE},
        "sample": {"engine": "imported", "states": "none", "n": n},
    }
    config = load_config(None, overrides, base)
    if not config.questions.is_imported or not has_imported_answers(config):
        raise ConfigError(
            f"{out}: there is no run here, so the questions come from the file of answers. To import answers to other "
            f"questions, start the run first: ka2l load RECIPE.yaml --out {out}"
        )
    return RunDirectory.create(out, config)


def _match_questions(
    directory: RunDirectory, rows: Sequence[AnsweredRow], problems: list[str], reporter: Reporter
) -> "pa.Table":
    """The rows with their questions in the run, matched by id or by text.

    Rows that match no question are added to `problems`.
    """
    context = context_of(directory, reporter)
    # The questions of such a run come from the file of answers.
    if directory.config.questions.is_imported:
        return _as_questions(rows, problems)
    if "load" not in directory.stages:
        raise RunError(f"{directory.path}: the questions are not loaded. Run `ka2l load` first.")
    by_id = context.questions_by_id()
    matches = _matches(by_id, rows, problems)
    of_probe = [match for match in matches if match.question.role == "probe"]
    n_probe = sum(question.role == "probe" for question in by_id.values())
    if not of_probe and not problems:
        raise DataError(
            f"{directory.path}: no row of the file answers a question of the role probe ({n_probe} of them)."
        )
    others = len(matches) - len(of_probe)
    if others:
        reporter.say(f"Rows that answer questions of other roles than probe and are not used: {others}.")
    if len(of_probe) < n_probe:
        reporter.say(f"Probe questions that have no answers and are left out: {n_probe - len(of_probe)} of {n_probe}.")
    return _table([match.question for match in of_probe], [match.row for match in of_probe])


class _Match(NamedTuple):
    question: Question
    row: AnsweredRow


def _matches(by_id: Mapping[str, Question], rows: Sequence[AnsweredRow], problems: list[str]) -> list[_Match]:
    """The rows with their questions, in the order of the rows; what does not match is added to `problems`."""
    by_text = {normalize_question(question.question): question for question in by_id.values()}
    matches: list[_Match] = []
    where_probe: dict[str, str] = {}
    for row in rows:
        text = None if row.question is None else normalize_question(row.question)
        question = (by_id.get(row.id) if row.id is not None else None) or (by_text.get(text) if text else None)
        if question is None:
            problems.append(f"{row.where}: the run has no question {row.id or row.question!r}")
        elif text is not None and normalize_question(question.question) != text:
            problems.append(f"{row.where}: id {row.id!r} is another question in the run: {question.question!r}")
        elif question.id in where_probe:
            problems.append(f"{row.where}: this question is already in {where_probe[question.id]}")
        else:
            matches.append(_Match(question, row))
            if question.role == "probe":
                where_probe[question.id] = row.where
    return matches


def _as_questions(rows: Sequence[AnsweredRow], problems: list[str]) -> "pa.Table":
    """The rows with questions made from their texts, all of the role probe."""
    questions = []
    for row in rows:
        if row.question is None:
            problems.append(f"{row.where}: no `question`, and there is no run here that has a question {row.id!r}")
            continue
        derived = "q" + hashlib.sha256(normalize_question(row.question).encode()).hexdigest()[:16]
        questions.append(Question(row.id or derived, row.question, row.gold, "probe", row.group))
    valid = [row for row in rows if row.question is not None]
    return _table([replace(q, role="probe") for q in join_groups(questions)], valid)


def _table(questions: Sequence[Question], rows: Sequence[AnsweredRow]) -> "pa.Table":
    """imported.parquet: questions with their samples; sample 0 is the low-temperature answer."""
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


def _check_replaces(directory: RunDirectory, table: "pa.Table", replace: bool) -> None:
    """Refuse to replace other answers of the run, sampled or imported, unless `replace` is set."""
    path = directory.file(IMPORTED)
    if replace or (path.exists() and atomic_files.read_table(path).equals(table)):
        return
    sampled = directory.stages.get("sample")
    if path.exists() or sampled is not None:
        count = sampled.counts.get("answers", 0) if sampled is not None else 0
        raise RunError(
            f"{directory.path}: this run has answers already{f' ({count:,})' if count else ''}. "
            "Import into another folder, or replace them: --replace."
        )
