"""Stage `load`: read the questions, check them, merge duplicates and assign roles."""

from typing import Any

from ka2l.common import atomic_files
from ka2l.config.run_config import RunConfig
from ka2l.errors import DataError
from ka2l.pipeline.content_keys import values
from ka2l.pipeline.context import Context
from ka2l.pipeline.run_directory import IMPORTED, Attempt, RunDirectory, Written
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.questions.load import LoadedQuestions, load_questions, loaded_questions
from ka2l.questions.question import from_table, to_table
from ka2l.questions.settings import SOURCE


def read_questions(config: RunConfig, directory: RunDirectory | None) -> LoadedQuestions:
    """Read the questions of this configuration from their source. Questions imported with answers are in the run.

    Raises:
        DataError: they cannot be read, or nothing was imported.
    """
    if config.questions.is_imported:
        if directory is None:
            raise DataError(
                f"questions.source={SOURCE} is for a run that was started with `ka2l import`: give that run with --out."
            )
        return imported_questions(directory)
    return load_questions(config.questions, config.seed, max(config.prompt.shots, config.prompt.teaching_shots))


def imported_questions(directory: RunDirectory) -> LoadedQuestions:
    """The questions that were imported with their answers.

    Raises:
        DataError: nothing was imported.
    """
    path = directory.file(IMPORTED)
    if not path.exists():
        raise DataError(
            f"{directory.path}: questions.source={SOURCE}, but nothing was imported. "
            f"Import answers: ka2l import {directory.path} answers.jsonl"
        )
    columns = ["id", "question", "answers", "role", "group", "meta"]
    return loaded_questions(from_table(atomic_files.read_table(path, columns)), SOURCE)


def write_questions(context: Context, attempt: Attempt) -> None:
    """Write the questions that were just read, with their roles."""
    loaded = context.identities.loaded
    if loaded is None:
        loaded = read_questions(context.config, context.run)
    roles: dict[str, int] = {}
    for question in loaded.questions:
        roles[question.role] = roles.get(question.role, 0) + 1
    with attempt.begin() as record:
        record.facts = {"fingerprint": loaded.fingerprint, "source": loaded.source}
        record.counts = {**dict(sorted(roles.items())), "duplicates_merged": loaded.duplicates}
        atomic_files.write_table(attempt.file("questions.parquet"), to_table(loaded.questions))


def _shows(context: Context, _done: frozenset[str]) -> dict[str, Any]:
    counts = dict(context.run.stages["load"].counts)
    return {"duplicates_merged": counts.pop("duplicates_merged", 0), "role_counts": counts}


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    """The content of the questions, not where they are stored; the settings of GeoNames only for its questions."""
    unread = ("source",) if config.questions.is_geonames else ("source", "geonames")
    questions = values(config.questions, without=unread)
    return [known.source, questions, config.prompt.shots, config.prompt.teaching_shots, config.seed]


STAGE = Stage(
    "load",
    verb="load",
    work=write_questions,
    reads=lambda config, arm: [],
    settings=_settings,
    writes=(Written("questions.parquet"),),
    costs=lambda sizes, arm: Cost(sum(sizes.roles.values())),
    shows=_shows,
)
