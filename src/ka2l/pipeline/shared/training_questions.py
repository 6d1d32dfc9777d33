"""The questions an arm is fine-tuned on: selected from the pool, decoded from hidden states, or replayed; their
answers.
"""

from typing import NamedTuple

from ka2l.common import atomic_files
from ka2l.pipeline.arms import augments
from ka2l.pipeline.context import Context
from ka2l.questions.question import DECODED, Question
from ka2l.teaching.exports.text_formats import TrainingQuestion
from ka2l.teaching.finetuning.training_examples import Example

# The model's own answers to known questions, which fine-tuning repeats beside the labelled ones.
REPLAYED = "replayed.parquet"


def selected_questions(context: Context, arm: str) -> list[Question]:
    """The selected questions of an arm in the order of their rank."""
    ids = atomic_files.read_table(context.run.file("selection.parquet", arm))["question_id"].to_pylist()
    questions = context.questions_by_id(set(ids))
    return [questions[i] for i in ids]


def decoded_questions(context: Context) -> list[Question]:
    """The kept decoded questions, highest p_unknown first; none where the run does not augment."""
    if not augments(context.config):
        return []
    table = atomic_files.read_table(context.run.file("augmented.parquet")).to_pylist()
    kept = sorted((row for row in table if row["kept"]), key=lambda row: (-row["p_unknown"], row["id"]))
    return [
        Question(
            row["id"],
            row["question"],
            role=DECODED,
            group=row["group"],
            meta={"source_id": row["source_id"], "p_unknown": row["p_unknown"]},
        )
        for row in kept
    ]


def all_questions(context: Context, ids: set[str] | None = None) -> dict[str, Question]:
    """Questions by id, these or all: of the source and decoded."""
    decoded = decoded_questions(context)
    wanted = {question.id: question for question in decoded if ids is None or question.id in ids}
    return {**context.questions_by_id(ids), **wanted}


def read_annotations(context: Context, arm: str) -> dict[str, list[str]]:
    """Answers by question id, in the order of the selection."""
    table = atomic_files.read_table(context.run.file("annotations.parquet", arm)).to_pydict()
    return dict(zip(table.get("question_id", []), table.get("answers", []), strict=True))


class Replayed(NamedTuple):
    """A known question and the model's own answer to it."""

    question: Question
    answer: str


def replayed(context: Context, arm: str) -> list[Replayed]:
    """The known questions an arm is also fine-tuned on; none where the run replays nothing."""
    if not context.config.finetune.replay:
        return []
    rows = atomic_files.read_table(context.run.file(REPLAYED, arm)).to_pylist()
    questions = context.questions_by_id({row["question_id"] for row in rows})
    return [Replayed(questions[row["question_id"]], row["answer"]) for row in rows]


def training_questions(context: Context, arm: str, *, replay: bool = True) -> list[TrainingQuestion]:
    """What an arm is fine-tuned on, in order: the labelled questions, then the replayed ones.

    Args:
        context: of a run whose `annotate` is done.
        arm: main, or the baseline.
        replay: whether replayed questions belong to it.
    """
    annotations = read_annotations(context, arm)
    questions = all_questions(context, set(annotations))
    found = [
        TrainingQuestion(
            question_id,
            questions[question_id].question,
            tuple(answers),
            DECODED if questions[question_id].role == DECODED else "bought",
        )
        for question_id, answers in annotations.items()
    ]
    known = replayed(context, arm) if replay else []
    return found + [
        TrainingQuestion(each.question.id, each.question.question, (each.answer,), "replayed") for each in known
    ]


def training_example(context: Context, question: TrainingQuestion) -> Example:
    """A training question with the teaching prompt and its first answer as completion."""
    prompts = context.prompts
    return Example(prompts.teaching(question.question), prompts.completion(question.answers[0]), question.id)
