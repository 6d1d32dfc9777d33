"""Copies of the finished run with other settings, and the signals of their pool."""

from pathlib import Path
from typing import Any

from ka2l.models.interface import Prompt
from ka2l.pipeline.context import Context
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.pool_signal_files import pool_signals
from runs import RecordingReporter, copy_of

# Questions of the finished run's pool.
POOL = 29
ALONE = "select.baseline=null"
# Settings of a server that answers.
SERVER = ["sample.engine=server", "server.url=http://localhost:1/v1", "server.model=other"]


def opened(finished: RunDirectory, folder: Path, *changes: str) -> RunDirectory:
    return RunDirectory.open(copy_of(finished, folder).path, [ALONE, *changes])


def signals(directory: RunDirectory, *names: str) -> Any:
    """As `Signals`, without the None of what was not asked for."""
    return pool_signals(context_of(directory, RecordingReporter()), names)


def pool_prompts(directory: RunDirectory) -> tuple[Context, list[Prompt]]:
    """Of the pool's questions in the order of their ids."""
    context = context_of(directory, RecordingReporter())
    questions = sorted(context.questions("pool"), key=lambda question: question.id)
    return context, [Prompt(one.id, context.prompts.sensing(one.question)) for one in questions]
