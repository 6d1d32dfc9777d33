"""One cell of a comparison: a policy, a budget and a seed, from selection to evaluation, on a shared Stage 1.

A cell is a run directory of its own whose upstream artifacts (questions, answers, map, signals) are in another run. Its
work is done by the stages of every run, so it is resumed like any run: after `kill -9` it continues from its last
checkpoint. Only the evaluation differs: the base model is asked once for all cells, and every cell is asked the same
questions of the pool, whether it selected them or not.
"""

import hashlib
import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ka2l.common import atomic_files
from ka2l.common.answer_text import is_correct
from ka2l.common.progress import Reporter
from ka2l.config.run_config import RunConfig
from ka2l.errors import RunError
from ka2l.evaluation.answer_metrics import corpus_bleu, meteor_exact_stem, score
from ka2l.evaluation.protocol import Item, evaluation_sets
from ka2l.pipeline.arms import split_stage
from ka2l.pipeline.context import Context, add_usage
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run import bring_up_to_date, context_of
from ka2l.pipeline.run_directory import RunDirectory, Written
from ka2l.pipeline.shared.evaluation_answers import answers_to, prediction_table
from ka2l.pipeline.shared.training_questions import selected_questions
from ka2l.pipeline.stage_list import STAGES
from ka2l.questions.question import Question, rank
from ka2l.studies.comparison.cell_results import CellResult, Outcomes, Place, cell_name, save

# What a cell writes after its fine-tuning, as stage `outcomes` in its manifest.
OUTCOMES = (Written("cell.json"), Written("outcomes.parquet"), Written("predictions.parquet"))
# The stages of a cell; all others are in the upstream run.
OWN = ("select", "annotate", "replay", "finetune", "outcomes")
_WRITTEN = [written for stage in STAGES if stage.name in OWN for written in stage.writes]
_OWN_FILES = {written.path for written in (*_WRITTEN, *OUTCOMES)}
# Seconds to wait for a cell's lock: another process that only checks its state releases it sooner.
_CLAIM_TIMEOUT = 0.3


class CellPlan(NamedTuple):
    """The work of one cell."""

    # Name of the policy in the tables.
    policy: str
    budget: int
    # Number of the repetition, from 0.
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """Folder of the cell."""
        return cell_name(self.place)

    @property
    def place(self) -> Place:
        """Its place in the grid."""
        return self.policy, self.budget, self.seed


class Cell(RunDirectory):
    """The run directory of one cell."""

    def __init__(self, upstream: RunDirectory, path: Path, plan: CellPlan):
        self.upstream = upstream
        self.plan = plan
        super().__init__(path, plan.config, {})
        self.read_again()

    def file(self, name: str, arm: str = "main") -> Path:
        """The path of an artifact: in this cell if the cell writes it, else in the upstream run."""
        return super().file(name, arm) if name in _OWN_FILES else self.upstream.file(name, arm)

    def read_again(self) -> None:
        """Read the records again: another process may have worked on this cell since it was opened."""
        own = RunDirectory.create(self.path, self.plan.config).stages
        # The upstream run may have selected and fine-tuned itself; these stages are not the cell's.
        shared = {name: record for name, record in self.upstream.stages.items() if split_stage(name)[0] not in OWN}
        self.stages = {**shared, **own}

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Lock the cell for this process; yields False if another process works on it."""
        from filelock import FileLock, Timeout

        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.parent / f".{self.path.name}.lock", timeout=_CLAIM_TIMEOUT)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            self.read_again()
            yield True
        finally:
            lock.release()

    def records_to_save(self) -> dict[str, StageRecord]:
        """The records of the cell's own stages; those of Stage 1 are in the upstream run's manifest."""
        return {name: record for name, record in self.stages.items() if name in OWN}


class SharedEvaluation(NamedTuple):
    """What the evaluations of all cells share: the questions of the fixed sets, and the base model's answers."""

    questions: Mapping[str, Question]
    held_out: Sequence[Item]
    pool: Sequence[Item]
    # The base model's answers with its better prompt, by question id and wording.
    base: Mapping[tuple[str, int], str]


def select_and_annotate(cell: Cell, reporter: Reporter) -> list[Item]:
    """Select the cell's questions and label them; returns what the cell is asked besides the fixed sets."""
    context = context_of(cell, reporter)
    bring_up_to_date(context, "select")
    bring_up_to_date(context, "annotate")
    return selected_items(context)


def selected_items(context: Context) -> list[Item]:
    """The selected questions in the wording that is trained on, and in other wordings."""
    selected = {question.id: question for question in selected_questions(context, "main")}
    sets = evaluation_sets(selected, list(selected), context.config.evaluate, context.config.seed)
    return [*sets["bought"], *sets["bought_reworded"]]


def outcomes_key(context: Context) -> str:
    """Content key of a cell's results: the key that `evaluate` would have in this cell."""
    return context.keys()["evaluate"]


def is_finished(cell: Cell) -> bool:
    """Whether the cell's results exist and are up to date."""
    return cell.is_done("outcomes", outcomes_key(context_of(cell, Reporter(quiet=True))), OUTCOMES)


def finetune_and_evaluate(
    cell: Cell, shared: SharedEvaluation, reporter: Reporter, *, keep_adapter: bool = False
) -> None:
    """Fine-tune on the cell's labelled questions, and save which questions the tuned model answers right.

    Args:
        cell: locked by this process; `select_and_annotate` has been called.
        shared: the fixed sets and the base model's answers.
        reporter: shows progress bars of the training and of the questions.
        keep_adapter: keep the adapter after the results are saved.
    """
    context = context_of(cell, reporter)
    for stage in ("replay", "finetune"):
        if stage in context.plan.stages:
            bring_up_to_date(context, stage)
    inputs = {"finetune": context.keys()["finetune"]}
    with cell.stage("outcomes", outcomes_key(context), inputs, OUTCOMES) as record:
        selected = selected_items(context)
        sets = {
            "held_out": list(shared.held_out),
            "pool": list(shared.pool),
            "bought": [item for item in selected if item[1] == 0],
            "bought_reworded": [item for item in selected if item[1] > 0],
        }
        items = list(dict.fromkeys(item for group in sets.values() for item in group))
        predictions = answers_to(context, "tuned", items, cell.file("adapter"))
        add_usage(record, context.model(cell.file("adapter")))
        context.release()
        atomic_files.write_table(cell.file("predictions.parquet"), prediction_table(predictions))
        correct = context.config.measure.correct
        tuned = {(p.question_id, p.wording): p.text for p in predictions}
        outcomes = {name: outcomes_of(group, tuned, shared, correct) for name, group in sets.items()}
        cell.checkpoint("outcomes")
        save(_result(cell, record, outcomes), cell.path)
        record.counts = {"answers": len(predictions)}
    if not keep_adapter:
        atomic_files.remove(cell.file("adapter"))


def outcomes_of(
    items: Sequence[Item], tuned: Mapping[tuple[str, int], str], shared: SharedEvaluation, correct: str
) -> Outcomes:
    """Which answers to one set were right before and after fine-tuning, and the scores after it.

    Args:
        items: the set; questions without a gold answer are left out.
        tuned: the tuned model's answers by question id and wording.
        shared: the questions and the base model's answers.
        correct: rule by which an answer is right, see `is_correct`.
    """
    items = [item for item in items if shared.questions[item[0]].answers]
    answers = [shared.questions[i].answers for i, _, _ in items]
    after = [tuned[i, wording] for i, wording, _ in items]
    scores = [score(text, accepted) for text, accepted in zip(after, answers, strict=True)]
    before = [
        is_correct(shared.base[i, wording], accepted, correct)
        for (i, wording, _), accepted in zip(items, answers, strict=True)
    ]
    right = [is_correct(text, accepted, correct) for text, accepted in zip(after, answers, strict=True)]
    return Outcomes(
        ids=[i for i, _, _ in items],
        groups=[shared.questions[i].fact for i, _, _ in items],
        before=np.array(before, dtype=bool),
        after=np.array(right, dtype=bool),
        f1=np.array([row.f1 for row in scores], dtype=float),
        rouge_l=np.array([row.rouge_l for row in scores], dtype=float),
        meteor=np.array([meteor_exact_stem(text, accepted) for text, accepted in zip(after, answers, strict=True)]),
        bleu=corpus_bleu(after, answers) if items else float("nan"),
    )


def fixed_sets(context: Context) -> tuple[list[Item], list[Item]]:
    """The held-out questions, and `evaluate.unbought` questions of the pool drawn by seed, selected or not."""
    config = context.config
    held_out = [
        (question.id, 0, question.question)
        for batch in context.question_batches("eval", 4096)
        for question in batch
        if question.answers
    ]
    ranked = (
        (rank(config.seed, "compare", question.id), question.id, question.question)
        for batch in context.question_batches("pool", 4096)
        for question in batch
        if question.answers
    )
    # The pool is streamed: only the drawn questions are kept in memory.
    drawn = heapq.nsmallest(config.evaluate.unbought, ranked)
    return held_out, [(question_id, 0, text) for _, question_id, text in drawn]


def check_answers(context: Context) -> None:
    """Refuse a pool with questions that have no gold answer, since a strategy may select any of them.

    Raises:
        RunError: there are such questions.
    """
    missing = [
        question.id for batch in context.question_batches("pool", 4096) for question in batch if not question.answers
    ]
    if missing:
        raise RunError(
            f"{len(missing)} questions of the pool have no gold answer (such as {missing[0]!r}), and a strategy may "
            "select any of them. Leave them out, or give them answers."
        )


def teaching_hash(config: RunConfig) -> str:
    """Hash of the fine-tuning settings: equal in two cells that fine-tune in the same way, whatever they select."""
    settings = config.finetune.model_dump(mode="json", exclude={"seed", "save_steps"})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _result(cell: Cell, record: StageRecord, outcomes: Mapping[str, Outcomes]) -> CellResult:
    finetuned = cell.stages["finetune"]
    return CellResult(
        policy=cell.plan.policy,
        strategy=cell.config.select.strategy,
        teaching=teaching_hash(cell.config),
        budget=cell.plan.budget,
        seed=cell.plan.seed,
        labels=cell.stages["annotate"].counts["labels"],
        replayed=finetuned.counts.get("replayed", 0),
        cost=0.0,
        select_seconds=cell.stages["select"].seconds,
        finetune_seconds=finetuned.seconds,
        evaluate_seconds=record.seconds,
        sets=outcomes,
    )
