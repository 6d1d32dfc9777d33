"""Passes over questions that write numbered parts: done parts are skipped, a crash costs one part."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ka2l.common import atomic_files
from ka2l.models.interface import Prompt
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.shared.artifact_tables import (
    signal_ids,
    write_signals,
)
from ka2l.questions.question import Question

if TYPE_CHECKING:
    from ka2l.models.local.local_model import LocalModel

Arrays = dict[str, NDArray[np.generic]]


def over_role(
    context: Context,
    stage: str,
    role: str,
    model: "LocalModel",
    folder: Path,
    signals: Callable[[list[Prompt]], Arrays],
) -> None:
    """Ask a model for signals of every question of a role that has none yet, part by part, see `over_questions`."""

    def of_questions(chunk: list[Question]) -> Arrays:
        return signals([Prompt(one.id, context.prompts.sensing(one.question)) for one in chunk])

    over_questions(context, stage, role, folder, of_questions, model)


def over_questions(
    context: Context,
    stage: str,
    role: str,
    folder: Path,
    signals: Callable[[list[Question]], Arrays],
    model: "LocalModel | None" = None,
) -> None:
    """Compute signals for every question of a role that has none yet, part by part, so that a crash costs one part.

    Args:
        context: of the run.
        stage: that is at work.
        role: of the questions.
        folder: of the parts.
        signals: gives arrays whose rows follow the questions.
        model: whose tokens count, if one is asked.
    """
    run = context.run
    done = signal_ids(folder)
    with context.reporter.bar(stage, run.stages["load"].counts.get(role, 0), len(done)) as advance:
        for chunk in _todo_batches(context, role, done, context.config.map.part_size):
            write_signals(atomic_files.next_part(folder, ".safetensors"), chunk, signals(chunk))
            if model is not None:
                add_usage(run.stages[stage], model)
            run.checkpoint(stage)
            advance(len(chunk))


def _todo_batches(context: Context, role: str, done: set[str], size: int) -> Any:
    """Questions of a role that are not done, in lists of `size` cut from the todo list: resuming keeps the same cuts."""
    waiting: list[Question] = []
    for batch in context.question_batches(role, size):
        waiting += [question for question in batch if question.id not in done]
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]
    if waiting:
        yield waiting
