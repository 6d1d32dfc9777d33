"""Stage `candidates`: texts decoded from the states of the selected questions, before anything speaks against them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ka2l import files
from ka2l.models.base import Prompt
from ka2l.pipeline.artifacts import as_table
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.decoder import checked_card, judged, run_decoder
from ka2l.pipeline.taught import DECODED, selected_questions
from ka2l.questions import Question
from ka2l.store import MAIN, StageRecord

if TYPE_CHECKING:
    from ka2l.augmentation.decoder import Decoded

FOLDER = "decoded"
_SOURCES = 16  # decoded between two parts: what a crash can cost


class Decoding(NamedTuple):
    """One decoded text: sample `sample` of a source's state."""

    source: Question
    sample: int
    text: str
    finished: bool

    @property
    def id(self) -> str:
        """Unique, and the same whenever this sample of this source is decoded."""
        return f"{DECODED}:{self.source.id}#{self.sample}"


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
                files.write_table(files.next_part(folder, ".parquet"), as_table(rows))
                run.checkpoint(stage)
                advance(len(chunk))
        record.counts = {"sources": len(bought), "decoded": len(bought) * settings.per_question}
        record.facts = {"parts": {FOLDER: len(files.parts(folder, ""))}}


def decodings(context: Context, bought: Sequence[Question]) -> list[Decoding]:
    """All candidates, in the order of the questions and of the samples."""
    of_source: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(context.run.file(FOLDER)):
        of_source.setdefault(row["source_id"], []).append(row)
    return [
        Decoding(question, row["sample"], row["text"], row["finished"])
        for question in bought
        for row in of_source[question.id]
    ]


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for part in files.parts(folder, ".parquet"):
        yield from files.read_table(part).to_pylist()


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
