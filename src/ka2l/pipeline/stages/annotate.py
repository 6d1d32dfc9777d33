"""Stage `annotate`: label the selected and decoded questions with gold answers, from GeoNames, or by people.

Usage:

    ka2l annotate runs/mine --export todo.csv
"""

from collections.abc import Sequence
from typing import Any

from ka2l.common import atomic_files
from ka2l.config.run_config import RunConfig
from ka2l.errors import DataError, WaitingForPeople
from ka2l.pipeline.arms import MAIN, arm_stage, arms, augments, strategy_of
from ka2l.pipeline.content_keys import values
from ka2l.pipeline.context import Context
from ka2l.pipeline.run_directory import LABELS, Attempt, Written
from ka2l.pipeline.shared.artifact_tables import as_table
from ka2l.pipeline.shared.training_questions import (
    decoded_questions,
    read_annotations,
    selected_questions,
)
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.questions.question import DECODED, Question
from ka2l.teaching.annotators.annotation import AnnotationResult, Label, annotate_from_labels, annotate_gold
from ka2l.teaching.annotators.kept_labels import read_labels

# Labelled questions in the report, per arm.
_EXAMPLES = 10


def annotate(context: Context, attempt: Attempt) -> None:
    """Label the selected questions with gold answers or by people, and decoded ones from GeoNames or by people.

    A decoded question never gets the answer of the question it was decoded from: they ask for different facts.
    """
    config, run, arm = context.config, context.run, attempt.arm
    cost = config.annotate.cost_per_label
    selected = selected_questions(context, arm)
    decoded = decoded_questions(context) if arm == MAIN else []
    from_geonames = geonames_labels(context, decoded)
    if config.annotate.annotator == "gold":
        result = annotate_gold(selected, cost)
        if result.missing:
            raise DataError(
                f"{len(result.missing)} of {len(selected)} selected questions have no gold answer (such as "
                f"{result.missing[0]!r}). Let people answer them: annotate.annotator=file, then "
                f"`ka2l annotate {run.path} --export todo.csv`."
            )
        refused: list[str] = []
    else:
        open_questions = [*selected, *(q for q in decoded if q.id not in from_geonames)]
        result, refused = _annotate_by_people(context, open_questions)
    annotations = [*result.annotations, *annotate_from_labels(decoded, from_geonames, cost).annotations]
    with attempt.begin() as record:
        rows = [
            {"question_id": a.question_id, "answer": a.answers[0], "answers": list(a.answers)}
            | {"annotator": a.annotator, "confidence": a.confidence, "cost": a.cost}
            for a in annotations
        ]
        atomic_files.write_table(run.file("annotations.parquet", arm), as_table(rows))
        record.counts = {"labels": len(rows)} | ({"refused": len(refused)} if refused else {})
        if decoded:
            answered = {row["question_id"] for row in rows}
            new = sum(question.id in answered for question in decoded)
            record.counts |= {"decoded_labels": new, "decoded_refused": len(decoded) - new}


def questions_for_people(context: Context, arm: str) -> list[Question]:
    """The questions of an arm that people answer: the selected ones, and decoded ones that GeoNames cannot answer."""
    decoded = decoded_questions(context) if arm == MAIN else []
    from_geonames = geonames_labels(context, decoded)
    return [*selected_questions(context, arm), *(q for q in decoded if q.id not in from_geonames)]


def geonames_labels(context: Context, decoded: Sequence[Question]) -> dict[str, Label]:
    """Answers to the decoded questions whose place GeoNames can identify; empty if the questions are not from
    GeoNames.
    """
    if not context.config.questions.is_geonames or not decoded:
        return {}
    from ka2l.questions.geonames.resolver import answer
    from ka2l.teaching.annotators.lookup import annotate_decoded

    labels, _refused = annotate_decoded(decoded, answer)
    return dict(labels)


def _annotate_by_people(context: Context, questions: Sequence[Question]) -> tuple[AnnotationResult, list[str]]:
    """The answers people have given, and the ids of the questions they have refused.

    Raises:
        WaitingForPeople: a question is neither answered nor refused.
    """
    run = context.run
    labels = read_labels(run.file(LABELS), questions)
    refused = {i for i, label in labels.items() if not label.answers}
    accepted = [question for question in questions if question.id not in refused]
    result = annotate_from_labels(accepted, labels, context.config.annotate.cost_per_label)
    n_decoded = sum(question.role == DECODED for question in questions)
    if n_decoded:
        what = f"questions ({len(questions) - n_decoded} selected, {n_decoded} decoded)"
    else:
        what = "selected questions"
    if result.missing:
        raise WaitingForPeople(
            f"{len(result.missing)} of {len(questions)} {what} wait for an answer.\n"
            f"  1. ka2l annotate {run.path} --export todo.csv\n"
            "  2. fill in the column `answer` (several answers with | between them; ? if the answer is not known)\n"
            f"  3. ka2l annotate {run.path} --import todo.csv\n"
            f"  4. ka2l run --out {run.path}"
        )
    return result, sorted(refused)


def _shows(context: Context, done: frozenset[str]) -> dict[str, Any]:
    """The first labelled questions of each arm, once all arms are labelled."""
    every = arms(context.config)
    if not all(arm_stage("annotate", arm) in done for arm in every):
        return {}
    return {"bought": {strategy_of(context.config, arm): _labelled_examples(context, arm) for arm in every}}


def _labelled_examples(context: Context, arm: str) -> list[tuple[str, float, str]]:
    """Question, score and answer of the first labelled questions of an arm, in the order of their rank."""
    selection = atomic_files.read_table(context.run.file("selection.parquet", arm)).to_pydict()
    answers = read_annotations(context, arm)
    labelled = [
        (i, score) for i, score in zip(selection["question_id"], selection["score"], strict=True) if i in answers
    ]
    examples = labelled[:_EXAMPLES]
    questions = context.questions_by_id({i for i, _ in examples})
    return [(questions[i].question, score, answers[i][0]) for i, score in examples]


def _reads(config: RunConfig, arm: str) -> list[str]:
    return [arm_stage("select", arm), *(["augment"] if augments(config) and arm == MAIN else [])]


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    return [values(config.annotate), known.labels if config.annotate.annotator == "file" else ""]


def _needs(config: RunConfig, questions: Sequence[Question]) -> None:
    """Refuse a pool without gold answers, if gold answers are the labels."""
    if config.annotate.annotator == "gold" and not any(q.answers for q in questions if q.role == "pool"):
        raise DataError(
            f"{config.questions.source}: no question of the pool has an answer, so there are no gold answers to train "
            "on. Name the column of answers (questions.columns.answers), or let people answer: annotate.annotator=file."
        )


STAGE = Stage(
    "annotate",
    verb="annotate",
    work=annotate,
    reads=_reads,
    settings=_settings,
    writes=(Written("annotations.parquet"),),
    needs=_needs,
    costs=lambda sizes, arm: Cost(sizes.labelled(arm == MAIN)),
    shows=_shows,
)
