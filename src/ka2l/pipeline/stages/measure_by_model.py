"""Scores of `measure` that need more passes of the model: P(True), ambiguity (from P(True) of other answers),
EigenScore.

    ka2l measure runs/mine measure.scores='[p_true, ambiguity, eigenscore]'

They are computed in parts, and finished parts are kept after an interruption. The worked examples of the P(True) prompt
are training questions. These get no P(True) score, because the prompt contains their own answer.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ka2l.common import atomic_files
from ka2l.knowledge.uncertainty.ambiguity import ambiguity, cluster_representatives
from ka2l.knowledge.uncertainty.baseline_scores import eigenscore
from ka2l.knowledge.uncertainty.p_true import (
    CHOICES,
    PTrueShot,
    choose_shots,
    distinct_ideas,
    p_false,
    p_true_prompt,
)
from ka2l.models.interface import Prompt
from ka2l.models.prompts import render_chat
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import Attempt
from ka2l.pipeline.shared.answered_questions import Answered
from ka2l.pipeline.shared.artifact_tables import as_table

if TYPE_CHECKING:
    from ka2l.models.local.local_model import LocalModel


MODEL_SCORES = "model_scores"
# Questions per part: what an interruption can lose.
PART = 256
Row = dict[str, Any]
# Column → the score that it belongs to.
_SCORE_OF = {"p_false": "p_true", "ambiguity": "ambiguity", "ambiguous": "ambiguity"}


def model_scores(
    context: Context, attempt: Attempt, answered: Answered, clusters: Sequence[Sequence[int]]
) -> dict[str, list[Any]]:
    """The columns `p_false`, `ambiguity`, `ambiguous` and `eigenscore` that `measure.scores` asks for; None if
    undefined.
    """
    wanted = [name for name in context.config.measure.scores if name != "kernel_entropy"]
    if not wanted:
        return {}
    rows: dict[str, Row] = {}
    folder = context.run.file(MODEL_SCORES)
    for part in atomic_files.parts(folder, ".parquet"):
        rows |= {row["question_id"]: row for row in atomic_files.read_table(part).to_pylist()}
    todo = [index for index, question_id in enumerate(answered.ids) if question_id not in rows]
    with context.reporter.bar(attempt.stage, len(answered.ids), len(rows)) as advance:
        for start in range(0, len(todo), PART):
            chunk = todo[start : start + PART]
            part_rows = _score_part(context, attempt.record, answered, clusters, chunk)
            atomic_files.write_table(atomic_files.next_part(folder, ".parquet"), as_table(part_rows))
            attempt.checkpoint()
            rows |= {row["question_id"]: row for row in part_rows}
            advance(len(chunk))
    names = [name for name in next(iter(rows.values()), {}) if name != "question_id"]
    return {name: [rows[question_id][name] for question_id in answered.ids] for name in names}


def _score_part(
    context: Context,
    record: StageRecord,
    answered: Answered,
    clusters: Sequence[Sequence[int]],
    chunk: Sequence[int],
) -> list[Row]:
    """The scores of some questions, one row each."""
    wanted = context.config.measure.scores
    rows: list[Row] = [{"question_id": answered.ids[index]} for index in chunk]
    if "eigenscore" in wanted:
        scores = _eigenscores(context, record, answered, chunk)
        for row, value in zip(rows, scores.tolist(), strict=True):
            row["eigenscore"] = value if np.isfinite(value) else None
    if "p_true" in wanted or "ambiguity" in wanted:
        p_true_rows = _p_true_scores(context, record, answered, clusters, chunk)
        for row, values in zip(rows, p_true_rows, strict=True):
            row.update({name: values[name] for name in _SCORE_OF if _SCORE_OF[name] in wanted})
    return rows


def _eigenscores(
    context: Context, record: StageRecord, answered: Answered, chunk: Sequence[int]
) -> NDArray[np.float64]:
    """EigenScore, [chunk], of the middle layer's state at the last token of each answer (arXiv 2402.03744, Section
    3.1).
    """
    model = context.prepared_model()
    texts = {index: [context.prompts.completion(text) for text in answered.answer_texts[index]] for index in chunk}
    # Equal answers to a question are computed once.
    pairs = list(dict.fromkeys((index, text) for index in chunk for text in texts[index]))
    asked = answered.question_texts
    prompts = [Prompt(answered.ids[index], context.prompts.sensing(asked[index]) + text) for index, text in pairs]
    states = model.states(prompts, model.n_layers // 2, position="tbg")
    add_usage(record, model, "eigenscore_")
    row_of = {pair: row for row, pair in enumerate(pairs)}
    return np.array([eigenscore(states[[row_of[index, text] for text in texts[index]]]) for index in chunk])


def _p_true_scores(
    context: Context,
    record: StageRecord,
    answered: Answered,
    clusters: Sequence[Sequence[int]],
    chunk: Sequence[int],
) -> Iterator[Row]:
    """`p_false` of the low-temperature answer, and the ambiguity from P(True) of one answer per cluster."""
    shots = _worked_examples(context, answered)
    leads = {
        index: cluster_representatives(clusters[index], answered.answer_texts[index])
        if "ambiguity" in context.config.measure.scores
        else []
        for index in chunk
    }
    # Index of each answer in the list of answers whose P(True) is computed, all of them in one pass.
    place: dict[tuple[int, str], int] = {}
    for index in chunk:
        low = answered.low[index]
        for text in [*([low["text"]] if low else []), *(lead.text for lead in leads[index])]:
            if index not in shots:
                place.setdefault((index, text), len(place))
    p_false_of = _p_false_of_answers(context, record, answered, list(shots.values()), list(place))
    for index in chunk:
        low = answered.low[index]
        if index in shots:
            yield {"p_false": None, "ambiguity": None, "ambiguous": None}
            continue
        result = ambiguity(
            np.array([1 - p_false_of[place[index, lead.text]] for lead in leads[index]]),
            [lead.size for lead in leads[index]],
        )
        yield {
            "p_false": float(p_false_of[place[index, low["text"]]]) if low else None,
            "ambiguity": result.score if np.isfinite(result.score) else None,
            "ambiguous": result.flag,
        }


def _worked_examples(context: Context, answered: Answered) -> dict[int, PTrueShot]:
    """The worked examples of the P(True) prompt, by the index of their question."""
    judged = [index for index in answered.training if answered.correct[index] is not None]
    right = np.array([bool(answered.correct[index]) for index in judged], dtype=bool)
    chosen = choose_shots(right, judged, context.config.measure.p_true_shots, context.config.seed)
    shots = {}
    for index in chosen:
        low = answered.low[index]
        # Only low-temperature answers are judged right or wrong.
        assert low is not None
        ideas = distinct_ideas(answered.answer_texts[index])
        asked = answered.question_texts[index]
        shots[index] = PTrueShot(asked, ideas, low["text"], bool(answered.correct[index]))
    return shots


def _p_false_of_answers(
    context: Context,
    record: StageRecord,
    answered: Answered,
    shots: Sequence[PTrueShot],
    answers: Sequence[tuple[int, str]],
) -> NDArray[np.float64]:
    """1 − P(True), [answers], of answers given as the index of their question and their text."""
    if not answers:
        return np.empty(0)
    chat = context.config.prompt.template == "chat"

    def build(question: str, ideas: Sequence[str] = (), answer: str = "") -> str:
        text = p_true_prompt(shots, question, ideas, answer)
        if not chat:
            return text
        return render_chat(context.tokenizer, [{"role": "user", "content": text}])

    model: LocalModel = context.model()
    model.share_prefix(build)
    asked, sampled = answered.question_texts, answered.answer_texts
    prompts = [
        Prompt(answered.ids[index], build(asked[index], distinct_ideas(sampled[index]), text))
        for index, text in answers
    ]
    # In a chat template the answer follows the start of the turn without a space.
    choices = [choice.strip() if chat else choice for choice in CHOICES]
    probabilities = p_false(model.choice_log_probabilities(prompts, choices))
    add_usage(record, model, "p_true_")
    return probabilities
