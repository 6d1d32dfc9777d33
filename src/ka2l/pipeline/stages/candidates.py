"""Stage `candidates`: texts decoded from the states of the selected questions, before anything speaks against them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ka2l.common import atomic_files
from ka2l.models.interface import Prompt
from ka2l.pipeline.arms import MAIN
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.shared.artifact_tables import as_table
from ka2l.pipeline.shared.decoded_candidates import FOLDER, _rows
from ka2l.pipeline.shared.run_decoder import checked_card, judged, run_decoder
from ka2l.pipeline.shared.taught_questions import selected_questions
from ka2l.questions.question import Question

if TYPE_CHECKING:
    from ka2l.augmentation.decoder import Decoded


_SOURCES = 16  # decoded between two parts: what a crash can cost


def decode(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Decode so many questions from each state, source by source; what an interrupted attempt has written stays."""
    run, settings = context.run, context.config.augment
    bought = selected_questions(context, MAIN)
    checked_card(context)  # before what is there is given up
    with run.stage(stage, key, inputs) as record:
        folder = run.file(FOLDER)
        done = {row["source_id"] for row in _rows(folder)}
        waiting = [question for question in bought if question.id not in done]
        with context.reporter.bar(stage, len(bought), len(done)) as advance:
            for chunk, several in _said(context, record, waiting):
                rows = [
                    {"source_id": question.id, **decoded._asdict()}
                    for question, decoded_ones in zip(chunk, several, strict=True)
                    for decoded in decoded_ones
                ]
                atomic_files.write_table(atomic_files.next_part(folder, ".parquet"), as_table(rows))
                run.checkpoint(stage)
                advance(len(chunk))
        record.counts = {"sources": len(bought), "decoded": len(bought) * settings.per_question}
        record.facts = {"parts": {FOLDER: len(atomic_files.parts(folder, ""))}}


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
