"""The answers that are evaluated, of the base model and of the tuned models, saved model by model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ka2l.common import atomic_files
from ka2l.evaluation.protocol import Item, Prediction
from ka2l.models.interface import Prompt
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.run_directory import Attempt
from ka2l.pipeline.shared.artifact_tables import as_table

if TYPE_CHECKING:
    import pyarrow as pa


def ask(
    context: Context,
    attempt: Attempt,
    name: str,
    items: Sequence[Item],
    *,
    adapter: Path | None = None,
    part: str | None = None,
) -> list[Prediction]:
    """One model's answers to these questions, saved to disk, so that an interruption loses at most one model's answers.

    Args:
        context: context of the run.
        attempt: the running stage.
        name: `base:sensing` gets the sensing prompt, all others the teaching prompt.
        items: the questions.
        adapter: adapter of a tuned model.
        part: name of the file under predictions/, if not `name`.
    """
    file = context.run.file("predictions") / f"{(part or name).replace(':', '-')}.parquet"
    if file.exists():
        return read_predictions(file)
    if not items:
        return []
    predictions = answers_to(context, name, items, adapter)
    atomic_files.write_table(file, prediction_table(predictions))
    add_usage(attempt.record, context.model(adapter))
    attempt.checkpoint()
    return predictions


def answers_to(context: Context, name: str, items: Sequence[Item], adapter: Path | None = None) -> list[Prediction]:
    """One model's answers to these questions, in their order. Nothing is saved."""
    teaching = name != "base:sensing"
    model = context.prepared_model(teaching=teaching, adapter=adapter)
    build = context.prompts.teaching if teaching else context.prompts.sensing
    prompts = [Prompt(json.dumps([i, wording]), build(text)) for i, wording, text in items]
    by_key = {prompt.question_id: item for prompt, item in zip(prompts, items, strict=True)}
    settings = context.config.evaluate
    predictions: dict[Item, Prediction] = {}
    with context.reporter.bar(name[:9], len(items)) as advance:
        for result in model.sample(
            prompts,
            {0: settings.temperature},
            seed=context.config.seed,
            max_new_tokens=settings.max_new_tokens,
        ):
            item = by_key[result.question_id]
            predictions[item] = Prediction(name, *item, result.answers[0].text)
            advance(1)
    return [predictions[item] for item in items]


def read_predictions(file: Path) -> list[Prediction]:
    """Read predictions from a file."""
    return [Prediction(**row) for row in atomic_files.read_table(file).to_pylist()]


def prediction_table(predictions: Sequence[Prediction]) -> "pa.Table":
    """Predictions as a table."""
    return as_table([_prediction_row(p) for p in predictions])


def _prediction_row(prediction: Prediction) -> dict[str, Any]:
    return {name: getattr(prediction, name) for name in ("model", "question_id", "wording", "question", "text")}
