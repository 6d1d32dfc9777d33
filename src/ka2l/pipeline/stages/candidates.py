"""Stage `candidates`: texts decoded from the states of the selected questions, before anything speaks against them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ka2l.common import atomic_files
from ka2l.config.run_config import RunConfig
from ka2l.models.interface import Prompt
from ka2l.pipeline.arms import MAIN, own_probe
from ka2l.pipeline.content_keys import prompted_model, values
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.artifact_tables import as_table
from ka2l.pipeline.shared.decoded_candidates import FOLDER, _rows
from ka2l.pipeline.shared.run_decoder import checked_card, judged, run_decoder
from ka2l.pipeline.shared.taught_questions import selected_questions
from ka2l.pipeline.stage import Cost, Identities, Sizes, Stage
from ka2l.questions.question import Question

if TYPE_CHECKING:
    from ka2l.augmentation.decoder import Decoded


_SOURCES = 16  # decoded between two parts: what a crash can cost


def decode(context: Context, attempt: Attempt) -> None:
    """Decode so many questions from each state, source by source; what an interrupted attempt has written stays."""
    run, settings = context.run, context.config.augment
    bought = selected_questions(context, MAIN)
    checked_card(context)  # before what is there is given up
    with attempt.begin() as record:
        folder = run.file(FOLDER)
        done = {row["source_id"] for row in _rows(folder)}
        waiting = [question for question in bought if question.id not in done]
        with context.reporter.bar(attempt.stage, len(bought), len(done)) as advance:
            for chunk, several in _said(context, record, waiting):
                rows = [
                    {"source_id": question.id, **decoded._asdict()}
                    for question, decoded_ones in zip(chunk, several, strict=True)
                    for decoded in decoded_ones
                ]
                atomic_files.write_table(atomic_files.next_part(folder, ".parquet"), as_table(rows))
                attempt.checkpoint()
                advance(len(chunk))
        record.counts = {"sources": len(bought), "decoded": len(bought) * settings.per_question}
        record.facts = {"parts": attempt.part_counts()}


def _said(
    context: Context, record: StageRecord, waiting: Sequence[Question]
) -> "Iterator[tuple[Sequence[Question], list[list[Decoded]]]]":
    """What the decoder says, some sources at a time."""
    if not waiting:
        return
    settings = context.config.augment
    layer, position = judged(context)
    prompts = [Prompt(question.id, context.prompts.sensing(question.question)) for question in waiting]
    model = context.prepared_model()
    states = model.states(prompts, layer, position=position)
    add_usage(record, model)
    context.release()  # the decoder has, or is, a model of its own
    decoder = run_decoder(context)
    for start in range(0, len(waiting), _SOURCES):
        chunk = waiting[start : start + _SOURCES]
        yield (
            chunk,
            decoder.decode(
                states[start : start + _SOURCES],
                [question.id for question in chunk],
                range(1, settings.per_question + 1),
                noise=settings.noise,
                temperature=settings.temperature,
                seed=context.config.seed,
                max_new_tokens=settings.max_new_tokens,
            ),
        )


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    given = known.decoder if config.decoder.pretrained else ""
    settings = values(config.augment, without=("embedding_model", "near_copy", "budget"))
    return [prompted_model(config, known), known.state, settings, given, config.seed]


def _costs(sizes: Sizes, _arm: str) -> Cost:
    return Cost(sizes.decoded, (sizes.selected + sizes.decoded) * sizes.lengths.own)


STAGE = Stage(
    "candidates",
    verb="augment",
    work=decode,
    reads=lambda config, arm: [
        *own_probe(config),
        "select",
        *([] if config.decoder.pretrained else ["decoder"]),
    ],
    settings=_settings,
    writes=(Written(FOLDER, parts=True),),
    # Of the probe only the layer and position of the state count, which are in the settings.
    unhashed=("probe",),
    costs=_costs,
)
