"""The texts decoded from hidden states, stored as numbered parts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ka2l.common import atomic_files
from ka2l.pipeline.context import Context
from ka2l.questions.question import DECODED, Question

FOLDER = "decoded"


class Decoding(NamedTuple):
    """One text decoded from the hidden state of a source question."""

    source: Question
    sample: int
    text: str
    finished: bool

    @property
    def id(self) -> str:
        """A unique id, the same whenever this sample of this source is decoded."""
        return f"{DECODED}:{self.source.id}#{self.sample}"


def decodings(context: Context, sources: Sequence[Question]) -> list[Decoding]:
    """All texts decoded from these questions, in the order of the questions and of the samples."""
    of_source: dict[str, list[dict[str, Any]]] = {}
    for row in decoded_rows(context.run.file(FOLDER)):
        of_source.setdefault(row["source_id"], []).append(row)
    return [
        Decoding(question, row["sample"], row["text"], row["finished"])
        for question in sources
        for row in of_source[question.id]
    ]


def decoded_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of all finished parts."""
    for part in atomic_files.parts(folder, ".parquet"):
        yield from atomic_files.read_table(part).to_pylist()
