"""Scores for which `measure` asks the model again: P(True), how plausible its other answers are, and EigenScore.

    ka2l measure runs/mine measure.scores='[p_true, ambiguity, eigenscore]'

Worked in parts that outlive an interruption. Worked examples of the P(True) prompt come from training questions, and
these then have no such score: a peer took its examples from the rows it scored.
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
from ka2l.pipeline.shared.answered_questions import Answered
from ka2l.pipeline.shared.artifact_tables import as_table

if TYPE_CHECKING:
    from ka2l.models.local.local_model import LocalModel


MODEL_SCORES = "model_scores"
# Questions in a part: what an interruption can cost.
PART = 256
Row = dict[str, Any]


def model_scores(
    context: Context, record: StageRecord, asked: Answered, clusters: Sequence[Sequence[int]]
) -> dict[str, list[Any]]:
    """Columns `p_false`, `ambiguity`, `ambiguous` and `eigenscore` as far as they are wanted, None where undefined."""
    wanted = [name for name in context.config.measure.scores if name != "kernel_entropy"]
    if not wanted:
        return {}
    rows: dict[str, Row] = {}
    folder = context.run.file(MODEL_SCORES)
    for part in atomic_files.parts(folder, ".parquet"):
        rows |= {row["question_id"]: row for row in atomic_files.read_table(part).to_pylist()}
    todo = [index for index, question_id in enumerate(asked.ids) if question_id not in rows]
    with context.reporter.bar("measure", len(asked.ids), len(rows)) as advance:
        for start in range(0, len(todo), PART):
            chunk = todo[start : start + PART]
            made: list[Row] = [{"question_id": asked.ids[index]} for index in chunk]
            if "eigenscore" in wanted:
                _merge(made, "eigenscore", _eigenscores(context, record, asked, chunk))
            if "p_true" in wanted or "ambiguity" in wanted:
                for row, values in zip(
                    made, _plausibility(context, record, asked, clusters, chunk), strict=True
                ):
                    row.update({name: values[name] for name in _COLUMNS if _COLUMNS[name] in wanted})
            atomic_files.write_table(atomic_files.next_part(folder, ".parquet"), as_table(made))
            context.run.checkpoint("measure")
            rows |= {row["question_id"]: row for row in made}
            advance(len(chunk))
    names = [name for name in next(iter(rows.values()), {}) if name != "question_id"]
    return {name: [rows[question_id][name] for question_id in asked.ids] for name in names}


_COLUMNS = {"p_false": "p_true", "ambiguity": "ambiguity", "ambiguous": "ambiguity"}  # column → who wants it


def _merge(rows: list[Row], name: str, values: NDArray[np.floating]) -> None:
    for row, value in zip(rows, values.tolist(), strict=True):
        row[name] = value if np.isfinite(value) else None


def _eigenscores(
    context: Context, record: StageRecord, asked: Answered, chunk: Sequence[int]
) -> NDArray[np.float64]:
    """EigenScore of the middle layer's state at the last token of each answer (arXiv 2402.03744, Section 3.1)."""
    model = context.prepared_model()
    texts = {index: [context.prompts.completion(text) for text in asked.texts[index]] for index in chunk}
    pairs = list(dict.fromkeys((index, text) for index in chunk for text in texts[index]))
    prompts = [
        Prompt(asked.ids[index], context.prompts.sensing(asked.asked[index]) + text) for index, text in pairs
    ]
    states = model.states(prompts, model.n_layers // 2, position="tbg")
    add_usage(record, model, "eigenscore_")
    row_of = {pair: row for row, pair in enumerate(pairs)}
    return np.array([eigenscore(states[[row_of[index, text] for text in texts[index]]]) for index in chunk])


def _plausibility(
    context: Context,
    record: StageRecord,
    asked: Answered,
    clusters: Sequence[Sequence[int]],
    chunk: Sequence[int],
) -> Iterator[Row]:
    """P(True) of the low-temperature answer and of one answer per cluster, asked in one go."""
    shots = _shots(context, asked)
    leads = {
        index: cluster_representatives(clusters[index], asked.texts[index])
        if "ambiguity" in context.config.measure.scores
        else []
        for index in chunk
    }
    wanted: dict[tuple[int, str], int] = {}
    for index in chunk:
        low = asked.low[index]
        for text in [*([low["text"]] if low else []), *(lead.text for lead in leads[index])]:
            if index not in shots:
                wanted.setdefault((index, text), len(wanted))
    doubts = _doubts(context, record, asked, list(shots.values()), list(wanted))
    for index in chunk:
        low = asked.low[index]
        if index in shots:
            yield {"p_false": None, "ambiguity": None, "ambiguous": None}
            continue
        found = ambiguity(
            np.array([1 - doubts[wanted[index, lead.text]] for lead in leads[index]]),
            [lead.size for lead in leads[index]],
        )
        yield {
            "p_false": float(doubts[wanted[index, low["text"]]]) if low else None,
            "ambiguity": found.score if np.isfinite(found.score) else None,
            "ambiguous": found.flag,
        }


def _shots(context: Context, asked: Answered) -> dict[int, PTrueShot]:
    """Worked examples by row."""
    judged = [index for index in asked.training if asked.correct[index] is not None]
    right = np.array([bool(asked.correct[index]) for index in judged], dtype=bool)
    picked = choose_shots(right, judged, context.config.measure.p_true_shots, context.config.seed)
    found = {}
    for index in picked:
        low = asked.low[index]
        assert low is not None  # else nothing was judged
        ideas = distinct_ideas(asked.texts[index])
        found[index] = PTrueShot(asked.asked[index], ideas, low["text"], bool(asked.correct[index]))
    return found


def _doubts(
    context: Context,
    record: StageRecord,
    asked: Answered,
    shots: Sequence[PTrueShot],
    wanted: Sequence[tuple[int, str]],
) -> NDArray[np.float64]:
    """1 − P(True) of these answers to these questions."""
    if not wanted:
        return np.empty(0)
    chat = context.config.prompt.template == "chat"

    def build(question: str, ideas: Sequence[str] = (), answer: str = "") -> str:
        text = p_true_prompt(shots, question, ideas, answer)
        if not chat:
            return text
        return render_chat(context.tokenizer, [{"role": "user", "content": text}])

    model: LocalModel = context.model()
    model.share_prefix(build)
    prompts = [
        Prompt(asked.ids[index], build(asked.asked[index], distinct_ideas(asked.texts[index]), text))
        for index, text in wanted
    ]
    # After a chat template's opening of the turn there is no space before the word.
    choices = [choice.strip() if chat else choice for choice in CHOICES]
    found = p_false(model.choice_log_probabilities(prompts, choices))
    add_usage(record, model, "p_true_")
    return found
