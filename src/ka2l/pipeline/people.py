"""What people do with a run besides running it: give answers in a spreadsheet, ask about one question."""

from pathlib import Path
from typing import Any

from ka2l.errors import DataError, RunError
from ka2l.models.base import Prompt
from ka2l.pipeline.annotating import people_answer, read_labels, write_labels
from ka2l.pipeline.context import Context
from ka2l.pipeline.sense import read_probe
from ka2l.pipeline.taught import DECODED
from ka2l.progress import Reporter
from ka2l.questions import Question
from ka2l.reach import has_model
from ka2l.stages import arms
from ka2l.store import LABELS, RunDirectory, arm_stage
from ka2l.teaching.annotators import Label, export_csv, import_csv


def export_sheet(run: RunDirectory, path: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the bought questions that nobody has answered yet to a CSV sheet, most wanted first.

    Raises:
        DataError: the sheet there holds answers, or nothing waits for one.
    """
    with run.locked():
        bought = _bought(Context(run, Reporter(quiet=True)))
        labels = read_labels(run.file(LABELS), bought)
        waiting = [question for question in bought if question.id not in labels]
        if not waiting:
            raise DataError(
                f"{run.path}: all {len(bought)} bought questions are answered. Go on: ka2l run --out {run.path}"
            )
        export_csv(path, waiting, overwrite=overwrite)
    return {"written": str(path), "questions": len(waiting), "answered before": len(bought) - len(waiting)}


def import_sheet(run: RunDirectory, path: Path) -> dict[str, Any]:
    """Take the answers out of a filled-in sheet; a file with bad rows is refused as a whole."""
    with run.locked():
        bought = _bought(Context(run, Reporter(quiet=True)))
        # Other settings of `augment` may have decoded other questions since; what was bought is not lost with them.
        asked = {question.id: question.question for question in bought}
        found = import_csv(path, asked, lambda i: i.startswith(f"{DECODED}:"))
        given = {**found.labels, **{question_id: Label(()) for question_id in found.refused}}
        write_labels(run.file(LABELS), given, bought)
        labels = read_labels(run.file(LABELS), bought)
        waiting = sum(question.id not in labels for question in bought)
    passed_over = {"no longer asked": len(found.outdated)} if found.outdated else {}
    return {
        "answers": len(found.labels),
        "refused": len(found.refused),
        **passed_over,
        "still waiting": waiting,
    }


def first_prompts(run: RunDirectory, count: int) -> list[dict[str, Any]]:
    """The sensing prompts of the first probe questions as the model or the server gets them; nothing is sampled.

    Raises:
        RunError: the questions are not loaded, or the answers came without a prompt.
    """
    context = Context(run, Reporter(quiet=True))
    context.require("sample")
    config = run.config
    if config.sample.engine == "imported" and not has_model(config):
        raise RunError(
            f"{run.path}: these answers were made elsewhere and no model is asked, so there is no prompt."
        )
    shown = []
    for question in context.questions("probe")[:count]:
        prompt = context.sensing_prompt(question)
        row: dict[str, Any] = {"question_id": question.id}
        if has_model(config):
            special = config.prompt.template == "plain"
            row["tokens"] = len(context.tokenizer(prompt.text, add_special_tokens=special)["input_ids"])
        spoken = config.sample.engine == "server" and config.server.endpoint == "chat"
        row |= {"messages": list(prompt.messages)} if spoken else {}
        row |= {"text": prompt.text} if has_model(config) or not spoken else {}
        shown.append(row)
    return shown


def check_question(run: RunDirectory, text: str) -> dict[str, Any]:
    """Whether the run's model knows the answer to a question, by its probe: one forward pass, nothing generated."""
    if not text.strip():
        raise DataError("The question is empty.")
    context = Context(run, Reporter(quiet=True))
    probe, card = read_probe(context)
    model = context.prepared_model()
    prompt = Prompt("check", context.prompts.sensing(text.strip()))
    state = model.states([prompt], None if probe.layer < 0 else probe.layer, position=card["position"])
    p_unknown = float(probe.predict(state)[0])
    return {
        "question": text.strip(),
        "unknown": p_unknown >= 0.5,
        "p_unknown": p_unknown,
        "model": context.resolved.name,
        "layer": probe.layer,
        "stands_in_for": card["answered_by"] if card["stand_in"] else None,
    }


def _bought(context: Context) -> list[Question]:
    """The bought questions of all arms in the order of their ranks, each once."""
    found: dict[str, Question] = {}
    for arm in arms(context.config):
        context.require(arm_stage("annotate", arm))
        found.update(
            {question.id: question for question in people_answer(context, arm) if question.id not in found}
        )
    return list(found.values())
