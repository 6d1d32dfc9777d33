"""Passes over questions that write numbered parts: done parts are skipped, a crash costs one part."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ka2l.common import atomic_files
from ka2l.models.interface import Prompt
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.run_directory import Attempt
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
    attempt: Attempt,
    role: str,
    model: "LocalModel",
    folder: Path,
    signals: Callable[[list[Prompt]], Arrays],
) -> None:
    """Ask a model for signals of every question of a role that has none yet, part by part, see `over_questions`."""

    def of_questions(chunk: list[Question]) -> Arrays:
        return signals([Prompt(one.id, context.prompts.sensing(one.question)) for one in chunk])

    over_questions(context, attempt, role, folder, of_questions, model)


def over_questions(
    context: Context,
    attempt: Attempt,
    role: str,
    folder: Path,
    signals: Callable[[list[Question]], Arrays],
    model: "LocalModel | None" = None,
) -> None:
    """Compute signals for every question of a role that has none yet, part by part, so that a crash costs one part.

    Args:
        context: of the run.
        attempt: the stage at work.
        role: of the questions.
        folder: of the parts.
        signals: gives arrays whose rows follow the questions.
        model: whose tokens count, if one is asked.
    """
    total = context.run.stages["load"].counts.get(role, 0)
    done = signal_ids(folder)
    with context.reporter.bar(attempt.stage, total, len(done)) as advance:
        # Parts are cut from what is left to do, so that an interrupted pass continues with the same cuts.
        size = context.config.map.part_size
        for chunk in context.question_batches(role, size, lambda question_id: question_id not in done):
            write_signals(atomic_files.next_part(folder, ".safetensors"), chunk, signals(chunk))
            if model is not None:
                add_usage(attempt.record, model)
            attempt.checkpoint()
            advance(len(chunk))
