"""The prompts a run sends, as the model or the server receives them: `ka2l sample --show-prompts`."""

from typing import Any

from ka2l.common.progress import Reporter
from ka2l.config.run_limits import has_imported_answers, has_model, samples_from_server
from ka2l.errors import RunError
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import RunDirectory


def first_prompts(run: RunDirectory, count: int) -> list[dict[str, Any]]:
    """The sensing prompts of the first probe questions as the model or the server gets them. Nothing is sampled.

    Raises:
        RunError: the questions are not loaded, or the answers were imported without a model, so there is no prompt.
    """
    context = context_of(run, Reporter(quiet=True))
    context.require("sample")
    config = run.config
    if has_imported_answers(config) and not has_model(config):
        raise RunError(f"{run.path}: these answers were made elsewhere and no model is used, so there is no prompt.")
    rows = []
    for question in context.questions("probe")[:count]:
        prompt = context.sensing_prompt(question)
        row: dict[str, Any] = {"question_id": question.id}
        if has_model(config):
            special = config.prompt.template == "plain"
            row["tokens"] = len(context.tokenizer(prompt.text, add_special_tokens=special)["input_ids"])
        chat = samples_from_server(config) and config.server.endpoint == "chat"
        row |= {"messages": list(prompt.messages)} if chat else {}
        row |= {"text": prompt.text} if has_model(config) or not chat else {}
        rows.append(row)
    return rows
