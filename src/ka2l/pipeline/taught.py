"""The questions a run teaches: bought from the pool, or decoded from states, and the answers to them."""

from ka2l import files
from ka2l.pipeline.context import Context
from ka2l.questions import Question
from ka2l.stages import augments

DECODED = "decoded"  # role of a question that came out of a hidden state


def selected_questions(context: Context, arm: str) -> list[Question]:
    """The bought questions of an arm in the order of their rank."""
    ids = files.read_table(context.run.file("selection.parquet", arm))["question_id"].to_pylist()
    questions = context.questions_by_id(set(ids))
    return [questions[i] for i in ids]


def decoded_questions(context: Context) -> list[Question]:
    """The kept new questions, the surest unknown first; none where the run does not augment."""
    if not augments(context.config):
        return []
    table = files.read_table(context.run.file("augmented.parquet")).to_pylist()
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
    """Answers by question id, in the order they were bought."""
    table = files.read_table(context.run.file("annotations.parquet", arm)).to_pydict()
    return dict(zip(table.get("question_id", []), table.get("answers", []), strict=True))
