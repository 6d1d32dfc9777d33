"""Who answers in a run: the local model, a server, or imported answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ka2l.errors import RunError
from ka2l.models.imported_answers import ImportedAnswers
from ka2l.models.interface import Prompt, SampledQuestion
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import IMPORTED, PAID
from ka2l.pipeline.shared.artifact_tables import FIRST
from ka2l.questions.question import Question

if TYPE_CHECKING:
    from ka2l.models.interface import Sampler
    from ka2l.models.local.local_model import LocalModel


class Engine(NamedTuple):
    """Who answers, and whose states are read beside it: None where the one who answers brings them, or nobody."""

    sampler: "Sampler"
    reader: "LocalModel | None"
    states: bool  # whether they are wanted at all


def answering(context: Context, *, states: bool) -> Engine:
    """Who answers in this run; `states`: and who is read for the states of what is asked."""
    config, run = context.config, context.run
    if config.sample.engine == "local":
        return Engine(context.prepared_model(), None, states)
    # The local model comes first: if it cannot be loaded, nothing has been paid for yet.
    reader = context.prepared_model() if states else None
    if config.sample.engine == "imported":
        return Engine(ImportedAnswers(run.file(IMPORTED)), reader, states)
    from ka2l.models.server.server_model import ServerModel

    if (
        states
        and config.sample.states == "same"
        and config.server.endpoint == "chat"
        and config.prompt.template == "plain"
    ):
        context.reporter.say(
            "note       the server is asked in chat turns (server.endpoint=chat), the states are read after a plain "
            "prompt;\n           prompt.template=chat, or server.endpoint=completions, gives both the same prompt."
        )
    return Engine(ServerModel(config.server, run.file(PAID), say=context.reporter.say), reader, states)


def check_imported(context: Context, sampler: ImportedAnswers, ids: Sequence[str], number: int) -> None:
    """Refuse a pool of which some questions came without this sample.

    Raises:
        RunError: a strategy that reads it would have nothing to go by.
    """
    without = [question_id for question_id in ids if number not in sampler.numbers(question_id)]
    if without:
        what = "sampled answers" if number else "low-temperature answer (sample 0)"
        raise RunError(
            f"{context.run.path}: {len(without):,} of {len(ids):,} pool questions have no imported {what}, first: "
            f"{', '.join(without[:5])}. Import theirs too, or choose a strategy that reads states only: "
            "select.strategy=unknown."
        )


def ask(
    context: Context, engine: Engine, chunk: Sequence[Question], numbers: Sequence[int], advance: Any
) -> list[SampledQuestion]:
    """These samples of these questions, in their order."""
    config = context.config
    prompts: list[Prompt] = [context.sensing_prompt(question) for question in chunk]
    first = engine.states and FIRST in numbers
    found: dict[str, SampledQuestion] = {}
    for result in engine.sampler.sample(
        prompts,
        {k: config.sample.temperature if k else config.sample.low_temperature for k in numbers},
        seed=config.seed,
        max_new_tokens=config.sample.max_new_tokens,
        position=config.probe.position if first and config.sample.engine == "local" else None,
    ):
        found[result.question_id] = result
        advance(1)
    if first and engine.reader is not None:
        states = engine.reader.states(prompts, None, position=config.probe.position)
        return [
            found[prompt.question_id]._replace(states=np.asarray(row))
            for prompt, row in zip(prompts, states, strict=True)
        ]
    return [found[prompt.question_id] for prompt in prompts]


def count_tokens(record: StageRecord, engine: Engine) -> None:
    """Add what was spent since the last call to a stage's record; a reader's tokens apart."""
    add_usage(record, engine.sampler)
    if engine.reader is not None:
        add_usage(record, engine.reader, "states_")
