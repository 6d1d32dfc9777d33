"""Stage `load`: read the questions, check them, merge duplicates and assign roles."""

from ka2l.common import atomic_files
from ka2l.config.run_config import RunConfig
from ka2l.errors import DataError
from ka2l.pipeline.context import Context
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import IMPORTED, RunDirectory
from ka2l.questions.load import LoadedQuestions, load_questions, loaded_questions
from ka2l.questions.question import from_table, to_table
from ka2l.questions.settings import SOURCE


def read_questions(config: RunConfig, directory: RunDirectory | None) -> LoadedQuestions:
    """The questions of this config, freshly read from their source; those that came with answers lie in the run."""
    if config.questions.source == SOURCE:
        if directory is None:
            raise DataError(
                f"questions.source={SOURCE} is for a run that was started with `ka2l import`: name it with --out."
            )
        return imported_questions(directory)
    return load_questions(
        config.questions, config.seed, max(config.prompt.shots, config.prompt.teaching_shots)
    )


def imported_questions(directory: RunDirectory) -> LoadedQuestions:
    """The questions that came with the answers.

    Raises:
        DataError: nothing was imported.
    """
    path = directory.file(IMPORTED)
    if not path.exists():
        raise DataError(
            f"{directory.path}: questions.source={SOURCE}, but nothing was imported. "
            f"Take answers in: ka2l import {directory.path} answers.jsonl"
        )
    columns = ["id", "question", "answers", "role", "group", "meta"]
    return loaded_questions(from_table(atomic_files.read_table(path, columns)), SOURCE)


def load(context: Context, loaded: LoadedQuestions) -> bool:
    """Write the questions with their roles; skipped, and False, where the same questions are there."""
    run = context.run
    old = run.stages.get("load")
    same = old is not None and old.facts.get("fingerprint") == loaded.fingerprint
    if same and run.is_done("load", context.keys()["load"]):
        return False
    roles: dict[str, int] = {}
    for question in loaded.questions:
        roles[question.role] = roles.get(question.role, 0) + 1
    facts = {"fingerprint": loaded.fingerprint, "source": loaded.source}
    key = _load_key(context, facts)
    with run.stage("load", key, {}) as record:
        record.facts = facts
        record.counts = {**dict(sorted(roles.items())), "duplicates_merged": loaded.duplicates}
        atomic_files.write_table(run.file("questions.parquet"), to_table(loaded.questions))
    return True


def _load_key(context: Context, facts: dict[str, str]) -> str:
    """The key of `load` once these facts are recorded."""
    stages = context.run.stages
    before = stages.get("load")
    stages["load"] = StageRecord("running", "", facts=dict(facts))
    try:
        return context.keys()["load"]
    finally:
        if before is None:
            del stages["load"]
        else:
            stages["load"] = before
