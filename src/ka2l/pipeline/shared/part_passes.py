"""Passes over questions that write numbered parts: finished parts are skipped, and a crash loses at most one part."""

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
    """Compute signals of every question of a role from its sensing prompt, part by part, see `over_questions`."""

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
    """Compute signals of every question of a role that has none yet, part by part, so that a crash loses one part.

    Args:
        context: context of the run.
        attempt: the running stage.
        role: role of the questions.
        folder: folder of the parts.
        signals: returns arrays whose rows are in the order of the questions.
        model: the model that computes them, whose tokens are counted; None if there is none.
    """
    total = context.run.stages["load"].counts.get(role, 0)
    done = signal_ids(folder)
    with context.reporter.bar(attempt.stage, total, len(done)) as advance:
        # Parts are cut from the questions that are left, so that an interrupted pass continues with the same parts.
        size = context.config.map.part_size
        for chunk in context.question_batches(role, size, lambda question_id: question_id not in done):
            write_signals(atomic_files.next_part(folder, ".safetensors"), chunk, signals(chunk))
            if model is not None:
                add_usage(attempt.record, model)
            attempt.checkpoint()
            advance(len(chunk))
