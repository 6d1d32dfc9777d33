"""Stage `candidates`: texts decoded from the hidden states of the selected questions, before they are filtered."""

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
from ka2l.pipeline.shared.decoded_candidates import FOLDER, decoded_rows
from ka2l.pipeline.shared.run_decoder import checked_card, probed_state, run_decoder
from ka2l.pipeline.shared.training_questions import selected_questions
from ka2l.pipeline.stage import Cost, Identities, Sizes, Stage
from ka2l.questions.question import Question

if TYPE_CHECKING:
    from ka2l.augmentation.decoder import Decoded


# Sources decoded per part: what a crash can lose.
_PART_SOURCES = 16


def decode(context: Context, attempt: Attempt) -> None:
    """Decode `augment.per_question` questions from each source's state; continues after what an interrupted attempt
    wrote.
    """
    run, settings = context.run, context.config.augment
    sources = selected_questions(context, MAIN)
    # Checked before the stage begins, because beginning may remove earlier candidates.
    checked_card(context)
    with attempt.begin() as record:
        folder = run.file(FOLDER)
        done = {row["source_id"] for row in decoded_rows(folder)}
        waiting = [question for question in sources if question.id not in done]
        with context.reporter.bar(attempt.stage, len(sources), len(done)) as advance:
            for chunk, decoded_of in _decode_in_chunks(context, record, waiting):
                rows = [
                    {"source_id": question.id, **decoded._asdict()}
                    for question, several in zip(chunk, decoded_of, strict=True)
                    for decoded in several
                ]
                atomic_files.write_table(atomic_files.next_part(folder, ".parquet"), as_table(rows))
                attempt.checkpoint()
                advance(len(chunk))
        record.counts = {"sources": len(sources), "decoded": len(sources) * settings.per_question}
        record.facts = {"parts": attempt.part_counts()}


def _decode_in_chunks(
    context: Context, record: StageRecord, sources: Sequence[Question]
) -> "Iterator[tuple[Sequence[Question], list[list[Decoded]]]]":
    """Some sources at a time, with the texts decoded from each of them."""
    if not sources:
        return
    settings = context.config.augment
    layer, position = probed_state(context)
    prompts = [Prompt(question.id, context.prompts.sensing(question.question)) for question in sources]
    model = context.prepared_model()
    states = model.states(prompts, layer, position=position)
    add_usage(record, model)
    # The decoder is, or loads, a model of its own.
    context.release()
    decoder = run_decoder(context)
    for start in range(0, len(sources), _PART_SOURCES):
        chunk = sources[start : start + _PART_SOURCES]
        yield (
            chunk,
            decoder.decode(
                states[start : start + _PART_SOURCES],
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
    # Only the layer and position of the probe's state matter, and these are in the settings.
    unhashed=("probe",),
    costs=_costs,
)
