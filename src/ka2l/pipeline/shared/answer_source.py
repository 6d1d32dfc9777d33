"""The source of a run's answers: the local model, a server, or imported answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ka2l.config.run_limits import has_imported_answers, samples_locally
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
    """The sampler, and the model whose hidden states are read."""

    sampler: "Sampler"
    # None if the sampler returns the hidden states itself, or none are needed.
    reader: "LocalModel | None"
    # Whether hidden states are needed.
    states: bool


def answering(context: Context, *, states: bool) -> Engine:
    """The sampler of this run and, if `states`, the model whose hidden states of the prompts are read."""
    config, run = context.config, context.run
    if samples_locally(config):
        return Engine(context.prepared_model(), None, states)
    # The local model is loaded first: if that fails, nothing has been paid for yet.
    reader = context.prepared_model() if states else None
    if has_imported_answers(config):
        return Engine(ImportedAnswers(run.file(IMPORTED)), reader, states)
    from ka2l.models.server.server_model import ServerModel

    if (
        states
        and config.sample.states == "same"
        and config.server.endpoint == "chat"
        and config.prompt.template == "plain"
    ):
        context.reporter.say(
            "note       the server gets chat messages (server.endpoint=chat), but the states are read after a plain "
            "prompt;\n           prompt.template=chat, or server.endpoint=completions, gives both the same prompt."
        )
    return Engine(ServerModel(config.server, run.file(PAID), say=context.reporter.say), reader, states)


def check_imported(context: Context, sampler: ImportedAnswers, ids: Sequence[str], number: int) -> None:
    """Refuse a pool in which some questions have no imported sample of this number, which the strategy needs.

    Args:
        context: of the run.
        sampler: the imported answers.
        ids: ids of the pool's questions.
        number: number of the sample; 0 is the low-temperature answer.

    Raises:
        RunError: there are such questions.
    """
    without = [question_id for question_id in ids if number not in sampler.numbers(question_id)]
    if without:
        what = "sampled answers" if number else "low-temperature answer (sample 0)"
        raise RunError(
            f"{context.run.path}: {len(without):,} of {len(ids):,} pool questions have no imported {what}, first: "
            f"{', '.join(without[:5])}. Import theirs too, or choose a strategy that reads hidden states only: "
            "select.strategy=unknown."
        )


def ask(
    context: Context, engine: Engine, chunk: Sequence[Question], numbers: Sequence[int], advance: Any
) -> list[SampledQuestion]:
    """Sample answers to some questions, and read their hidden states with the first sample.

    Args:
        context: of the run.
        engine: the sampler and the reader of states.
        chunk: the questions.
        numbers: numbers of the samples; 0 is the low-temperature answer.
        advance: called with 1 after each question.

    Returns:
        One result per question, in the order of the questions.
    """
    config = context.config
    prompts: list[Prompt] = [context.sensing_prompt(question) for question in chunk]
    with_states = engine.states and FIRST in numbers
    sampled: dict[str, SampledQuestion] = {}
    for result in engine.sampler.sample(
        prompts,
        {k: config.sample.temperature if k else config.sample.low_temperature for k in numbers},
        seed=config.seed,
        max_new_tokens=config.sample.max_new_tokens,
        position=config.probe.position if with_states and samples_locally(config) else None,
    ):
        sampled[result.question_id] = result
        advance(1)
    if with_states and engine.reader is not None:
        states = engine.reader.states(prompts, None, position=config.probe.position)
        return [
            sampled[prompt.question_id]._replace(states=np.asarray(row))
            for prompt, row in zip(prompts, states, strict=True)
        ]
    return [sampled[prompt.question_id] for prompt in prompts]


def count_tokens(record: StageRecord, engine: Engine) -> None:
    """Add the tokens used since the last call to a stage's record; those of the reader under names of their own."""
    add_usage(record, engine.sampler)
    if engine.reader is not None:
        add_usage(record, engine.reader, "states_")
