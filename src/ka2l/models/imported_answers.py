"""Answers generated elsewhere (`ka2l import`), with the same interface as a model that samples."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ka2l.common import atomic_files
from ka2l.errors import RunError
from ka2l.models.interface import Answer, Position, Prompt, SampledQuestion, Usage


class ImportedAnswers:
    """Implements `ka2l.models.interface.Sampler` from a file, whatever the temperature an answer was generated at.

    Args:
        path: the table of imported answers, in the run's folder.

    Raises:
        RunError: nothing was imported yet.
    """

    def __init__(self, path: Path):
        if not path.exists():
            raise RunError(
                f"{path.parent}: sample.engine=imported, but no answers have been imported yet. "
                f"Import them: ka2l import {path.parent} answers.jsonl"
            )
        self.usage = Usage()
        table = atomic_files.read_table(path, ["id", "samples"]).to_pydict()
        self._rows: dict[str, list[dict[str, Any]]] = dict(zip(table["id"], table["samples"], strict=True))

    def numbers(self, question_id: str) -> list[int]:
        """The sample numbers of a question, in order; 0, the low-temperature answer, may be missing."""
        return [sample["sample"] for sample in self._rows.get(question_id, ())]

    def sample(
        self,
        prompts: Sequence[Prompt],
        temperatures: Mapping[int, float],
        *,
        seed: int,  # noqa: ARG002
        max_new_tokens: int,  # noqa: ARG002
        position: Position | None = None,  # noqa: ARG002
    ) -> Iterator[SampledQuestion]:
        """See `Sampler.sample`."""
        for prompt in prompts:
            answers = {
                row["sample"]: Answer(row["text"], row["token_logprobs"], row["finish_reason"])
                for row in self._rows[prompt.question_id]
            }
            yield SampledQuestion(prompt.question_id, [answers[number] for number in temperatures], None)
