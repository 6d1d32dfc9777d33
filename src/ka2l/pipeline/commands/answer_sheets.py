"""Spreadsheets in which people answer a run's questions: `ka2l annotate --export` and `--import`."""

from pathlib import Path
from typing import Any

from ka2l.common.progress import Reporter
from ka2l.errors import DataError
from ka2l.pipeline.arms import arm_stage, arms
from ka2l.pipeline.context import Context
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import LABELS, RunDirectory
from ka2l.pipeline.stages.annotate import questions_for_people
from ka2l.questions.question import DECODED, Question
from ka2l.teaching.annotators.annotation import Label
from ka2l.teaching.annotators.kept_labels import read_labels, write_labels
from ka2l.teaching.annotators.spreadsheet import export_csv, import_csv


def export_sheet(run: RunDirectory, path: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the selected questions that have no answer yet to a CSV sheet, in the order of their rank.

    Raises:
        DataError: the sheet exists and has answers, or no question is without an answer.
    """
    with run.locked():
        questions = _questions_for_people(context_of(run, Reporter(quiet=True)))
        labels = read_labels(run.file(LABELS), questions)
        waiting = [question for question in questions if question.id not in labels]
        if not waiting:
            raise DataError(
                f"{run.path}: all {len(questions)} selected questions are answered. "
                f"To continue: ka2l run --out {run.path}"
            )
        export_csv(path, waiting, overwrite=overwrite)
    return {"written": str(path), "questions": len(waiting), "answered before": len(questions) - len(waiting)}


def import_sheet(run: RunDirectory, path: Path) -> dict[str, Any]:
    """Read the answers from a filled-in sheet. A sheet with bad rows is refused as a whole."""
    with run.locked():
        questions = _questions_for_people(context_of(run, Reporter(quiet=True)))
        # If `augment` has other settings now, decoded questions of the sheet may no longer exist. They are skipped, so
        # that the answers to the selected questions are not lost.
        texts = {question.id: question.question for question in questions}
        sheet = import_csv(path, texts, lambda i: i.startswith(f"{DECODED}:"))
        given = {**sheet.labels, **{question_id: Label(()) for question_id in sheet.refused}}
        write_labels(run.file(LABELS), given, questions)
        labels = read_labels(run.file(LABELS), questions)
        waiting = sum(question.id not in labels for question in questions)
    outdated = {"no longer asked": len(sheet.outdated)} if sheet.outdated else {}
    return {
        "answers": len(sheet.labels),
        "refused": len(sheet.refused),
        **outdated,
        "still waiting": waiting,
    }


def _questions_for_people(context: Context) -> list[Question]:
    """The questions of all arms that people answer, in the order of their ranks, each once."""
    by_id: dict[str, Question] = {}
    for arm in arms(context.config):
        context.require(arm_stage("annotate", arm))
        for question in questions_for_people(context, arm):
            by_id.setdefault(question.id, question)
    return list(by_id.values())
