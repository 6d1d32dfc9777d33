"""Stage `annotate`: answers to what was bought and decoded, from gold, from GeoNames, or from people."""

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
from ka2l.pipeline.shared.taught_questions import (
    decoded_questions,
    read_annotations,
    selected_questions,
)
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.questions.question import DECODED, Question
from ka2l.teaching.annotators.annotation import AnnotationResult, Label, annotate_from_labels, annotate_gold
from ka2l.teaching.annotators.kept_labels import read_labels

_BOUGHT_SHOWN = 10


def annotate(context: Context, attempt: Attempt) -> None:
    """Get the answers: to bought questions from the gold ones or from people, to decoded ones from GeoNames or people.

    An answer is never carried over from the question a new one was decoded from: they ask for different things.
    """
    config, run, arm = context.config, context.run, attempt.arm
    cost = config.annotate.cost_per_label
    bought = selected_questions(context, arm)
    decoded = decoded_questions(context) if arm == MAIN else []
    placed = places(context, decoded)
    if config.annotate.annotator == "gold":
        result = annotate_gold(bought, cost)
        if result.missing:
            raise DataError(
                f"{len(result.missing)} of {len(bought)} bought questions have no gold answer (such as "
                f"{result.missing[0]!r}). Let people answer them: annotate.annotator=file, then "
                f"`ka2l annotate {run.path} --export todo.csv`."
            )
        refused: list[str] = []
    else:
        result, refused = _from_people(context, [*bought, *(q for q in decoded if q.id not in placed)])
    annotations = [*result.annotations, *annotate_from_labels(decoded, placed, cost).annotations]
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


def people_answer(context: Context, arm: str) -> list[Question]:
    """The questions of an arm that wait for people: what was bought, and what was decoded and GeoNames cannot answer."""
    decoded = decoded_questions(context) if arm == MAIN else []
    placed = places(context, decoded)
    return [*selected_questions(context, arm), *(q for q in decoded if q.id not in placed)]


def places(context: Context, decoded: Sequence[Question]) -> dict[str, Label]:
    """What GeoNames answers to the new questions whose place it can identify, where the questions are about places."""
    if context.config.questions.source != "geonames" or not decoded:
        return {}
    from ka2l.questions.geonames.resolver import answer
    from ka2l.teaching.annotators.lookup import annotate_decoded

    labels, _refused = annotate_decoded(decoded, answer)
    return dict(labels)


def _from_people(context: Context, bought: Sequence[Question]) -> tuple[AnnotationResult, list[str]]:
    """What people have answered, and what they have refused."""
    run = context.run
    labels = read_labels(run.file(LABELS), bought)
    refused = {i for i, label in labels.items() if not label.answers}
    asked = [question for question in bought if question.id not in refused]
    result = annotate_from_labels(asked, labels, context.config.annotate.cost_per_label)
    new = sum(question.role == DECODED for question in bought)
    what = f"questions ({len(bought) - new} bought, {new} decoded)" if new else "bought questions"
    if result.missing:
        raise WaitingForPeople(
            f"{len(result.missing)} of {len(bought)} {what} wait for an answer.\n"
            f"  1. ka2l annotate {run.path} --export todo.csv\n"
            "  2. fill in the column `answer` (several answers with | between them; ? where nobody knows)\n"
            f"  3. ka2l annotate {run.path} --import todo.csv\n"
            f"  4. ka2l run --out {run.path}"
        )
    return result, sorted(refused)


def _bought(context: Context, arm: str) -> list[tuple[str, float, str]]:
    selection = atomic_files.read_table(context.run.file("selection.parquet", arm)).to_pydict()
    answers = read_annotations(context, arm)
    shown = [
        (i, s) for i, s in zip(selection["question_id"], selection["score"], strict=True) if i in answers
    ][:_BOUGHT_SHOWN]
    questions = context.questions_by_id({i for i, _ in shown})
    return [(questions[i].question, score, answers[i][0]) for i, score in shown]


def _reads(config: RunConfig, arm: str) -> list[str]:
    return [arm_stage("select", arm), *(["augment"] if augments(config) and arm == MAIN else [])]


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    return [values(config.annotate), known.labels if config.annotate.annotator == "file" else ""]


def _needs(config: RunConfig, questions: Sequence[Question]) -> None:
    """Gold answers, where they are what is taught."""
    if config.annotate.annotator == "gold" and not any(q.answers for q in questions if q.role == "pool"):
        raise DataError(
            f"{config.questions.source}: no question of the pool has an answer, so there is no gold to teach. Name the "
            "column of answers (questions.columns.answers), or let people answer: annotate.annotator=file."
        )


def _shows(context: Context, done: frozenset[str]) -> dict[str, Any]:
    """What each arm has bought, once all of them have."""
    every = arms(context.config)
    if not all(arm_stage("annotate", arm) in done for arm in every):
        return {}
    return {"bought": {strategy_of(context.config, arm): _bought(context, arm) for arm in every}}


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
