"""What people do with a run besides running it: give answers in a spreadsheet, ask about one question."""

from pathlib import Path
from typing import Any

from ka2l.common.progress import Reporter
from ka2l.errors import DataError
from ka2l.pipeline.arms import arm_stage, arms
from ka2l.pipeline.context import Context
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import LABELS, RunDirectory
from ka2l.pipeline.stages.annotate import people_answer
from ka2l.questions.question import DECODED, Question
from ka2l.teaching.annotators.annotation import Label
from ka2l.teaching.annotators.kept_labels import read_labels, write_labels
from ka2l.teaching.annotators.spreadsheet import export_csv, import_csv


def export_sheet(run: RunDirectory, path: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the bought questions that nobody has answered yet to a CSV sheet, most wanted first.

    Raises:
        DataError: the sheet there holds answers, or nothing waits for one.
    """
    with run.locked():
        bought = _bought(context_of(run, Reporter(quiet=True)))
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
        bought = _bought(context_of(run, Reporter(quiet=True)))
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


def _bought(context: Context) -> list[Question]:
    """The bought questions of all arms in the order of their ranks, each once."""
    found: dict[str, Question] = {}
    for arm in arms(context.config):
        context.require(arm_stage("annotate", arm))
        found.update(
            {question.id: question for question in people_answer(context, arm) if question.id not in found}
        )
    return list(found.values())
