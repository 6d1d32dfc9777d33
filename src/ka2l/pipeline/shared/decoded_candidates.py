"""The texts decoded from hidden states, as parts on disk."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ka2l.common import atomic_files
from ka2l.pipeline.context import Context
from ka2l.questions.question import DECODED, Question

FOLDER = "decoded"


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
    for part in atomic_files.parts(folder, ".parquet"):
        yield from atomic_files.read_table(part).to_pylist()
