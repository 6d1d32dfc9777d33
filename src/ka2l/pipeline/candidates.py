"""Candidates for new questions: decoded from the states of the selected ones, kept in parts until the stage is done."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ka2l import files
from ka2l.models.base import Prompt
from ka2l.pipeline.artifacts import as_table
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.decoder import judged, run_decoder
from ka2l.pipeline.taught import DECODED
from ka2l.questions import Question
from ka2l.store import StageRecord

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


def decodings(
    context: Context, stage: str, record: StageRecord, bought: Sequence[Question]
) -> Iterator[Decoding]:
    """All candidates, source by source; those an interrupted attempt has written are read instead."""
    run, settings = context.run, context.config.augment
    folder = run.file("decoded")
    numbers = range(1, settings.per_question + 1)
    known: dict[tuple[str, int], dict[str, Any]] = {}
    for part in files.parts(folder, ".parquet"):
        known |= {(row["source_id"], row["sample"]): row for row in files.read_table(part).to_pylist()}
    waiting = [question for question in bought if (question.id, 1) not in known]
    if waiting:
        layer, position = judged(context)
        prompts = [Prompt(question.id, context.prompts.sensing(question.question)) for question in waiting]
        model = context.prepared_model()
        states = model.states(prompts, layer, position=position)
        add_usage(record, model)
        context.release()
        decoder = run_decoder(context)
        with context.reporter.bar(stage, len(bought), len(bought) - len(waiting)) as advance:
            for start in range(0, len(waiting), _SOURCES):
                chunk = waiting[start : start + _SOURCES]
                found = decoder.decode(
                    states[start : start + _SOURCES],
                    [question.id for question in chunk],
                    numbers,
                    noise=settings.noise,
                    temperature=settings.temperature,
                    seed=context.config.seed,
                    max_new_tokens=settings.max_new_tokens,
                )
                rows = [
                    {"source_id": question.id, **decoded._asdict()}
                    for question, several in zip(chunk, found, strict=True)
                    for decoded in several
                ]
                files.write_table(files.next_part(folder, ".parquet"), as_table(rows))
                known |= {(row["source_id"], row["sample"]): row for row in rows}
                run.checkpoint(stage)
                advance(len(chunk))
    for question in bought:
        for number in numbers:
            row = known[question.id, number]
            yield Decoding(question, number, row["text"], row["finished"])
