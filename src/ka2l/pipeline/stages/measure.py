"""Stage `measure`: cluster the answers by meaning, score their disagreement, and separate known from unknown questions.

Usage:

    ka2l measure runs/mine measure.judge=nli measure.nli_model=FOLDER
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ka2l.common import atomic_files
from ka2l.common.intervals import mean_interval
from ka2l.common.number_format import finite_or_none
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import asks_model, has_model
from ka2l.errors import DegenerateError
from ka2l.knowledge.uncertainty.baseline_scores import rouge_matrix
from ka2l.knowledge.uncertainty.kernel_entropy import kernel_language_entropy, similarity_from_relations
from ka2l.knowledge.uncertainty.measure import Measurement
from ka2l.knowledge.uncertainty.measure import measure as measure_answers
from ka2l.knowledge.uncertainty.semantic_clusters import pairwise_relations
from ka2l.knowledge.uncertainty.threshold import Threshold, fit_threshold, threshold_stability
from ka2l.pipeline.content_keys import prompted_model, unread_of_measure, values
from ka2l.pipeline.context import Context
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.preflight import check_judge
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.answered_questions import Answered, answered_questions, log_probabilities
from ka2l.pipeline.shared.artifact_tables import as_table, read_answers
from ka2l.pipeline.shared.run_judge import RunJudge, run_judge
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.pipeline.stages.measure_by_model import MODEL_SCORES, model_scores
from ka2l.report.run_page_data import Case


def measure(context: Context, attempt: Attempt) -> None:
    """Write the entropies, scores, threshold and labels of the answered questions."""
    with attempt.begin() as record:
        _measure(context, attempt, record)


def _measure(context: Context, attempt: Attempt, record: StageRecord) -> None:
    config, run = context.config, context.run
    answered = answered_questions(context)
    with run_judge(context, answered, attempt.stage) as judging:
        measured = measure_answers(
            answered.question_texts,
            answered.answer_texts,
            judge=judging.judge,
            equivalence=judging.equivalence,
            rule=config.measure.clusters,
            token_logprobs=[[log_probabilities(row) for row in rows] for rows in answered.samples],
            low_token_logprobs=[log_probabilities(row) for row in answered.low],
            threshold=None,
        )
        kernel = _kernel_entropies(answered, judging) if "kernel_entropy" in config.measure.scores else None
        record.counts = {"questions": len(answered.ids), **judging.counts()}
        record.facts = {"judge": context.identities.judge} if judging.judge is not None else {}
    entropies = measured.scores["semantic_entropy"]
    threshold, why = _threshold(context, answered, entropies)
    unknown = None if threshold is None else entropies >= threshold.value
    columns = _columns(answered, measured, unknown)
    columns |= {} if kernel is None else {"kernel_entropy": _finite_or_none(kernel)}
    columns |= model_scores(context, attempt, answered, measured.clusters)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    atomic_files.write_table(run.file("entropy.parquet"), as_table(rows))
    atomic_files.write_json(
        run.file("threshold.json"), _summary(context, answered, entropies, threshold) | judging.facts() | why
    )
    if unknown is not None:
        record.counts["unknown"] = int(unknown.sum())


def _columns(answered: Answered, measured: Measurement, unknown: NDArray[np.bool_] | None) -> dict[str, list[Any]]:
    """The columns of entropy.parquet; a score that is undefined is None."""
    return {
        "question_id": answered.ids,
        "group": answered.groups,
        "split": answered.split,
        "unknown": [None] * len(answered.ids) if unknown is None else unknown.tolist(),
        "correct": answered.correct,
        "low_temperature_answer": [None if row is None else row["text"] for row in answered.low],
        "cluster_ids": measured.clusters,
        **{name: _finite_or_none(values) for name, values in measured.scores.items() if name != "n_clusters"},
        "n_clusters": [len(set(ids)) for ids in measured.clusters],
    }


def _threshold(
    context: Context, answered: Answered, entropies: NDArray[np.float64]
) -> tuple[Threshold | None, dict[str, str]]:
    """The threshold, fitted on training rows; if it cannot be fitted and no probe needs it, None and the reason.

    Raises:
        DegenerateError: it cannot be fitted, and a probe needs it.
    """
    settings, train = context.config.measure, answered.training
    whose = f"{len(train)} training questions of {len(answered.ids)}"
    try:
        return fit_threshold(entropies[train], settings.threshold, quantile=settings.quantile, whose=whose), {}
    except DegenerateError as error:
        if has_model(context.config):
            raise
        context.reporter.say(
            f"note       {error}\n           The entropies are in entropy.parquet; `unknown` stays empty there."
        )
        return None, {"why": str(error)}


def _summary(
    context: Context, answered: Answered, entropies: NDArray[np.float64], threshold: Threshold | None
) -> dict[str, Any]:
    """threshold.json: the threshold, what it was fitted on, and how it varies when the training rows are resampled."""
    settings, train = context.config.measure, answered.training
    summary: dict[str, Any] = {
        "value": None,
        "rule": str(settings.threshold),
        "objective": None,
        "fitted_on": len(train),
        "share_unknown": None,
        "judge": settings.judge,
        "samples": context.config.sample.n,
    }
    if threshold is None:
        return summary
    stability = threshold_stability(
        entropies[train],
        settings.threshold,
        [answered.groups[row] for row in train],
        quantile=settings.quantile,
        resamples=settings.bootstrap,
        seed=context.config.seed,
    )
    return summary | {
        "value": threshold.value,
        "rule": threshold.rule,
        "objective": threshold.objective if np.isfinite(threshold.objective) else None,
        "share_unknown": float((entropies >= threshold.value).mean()),
        "stability": {name: finite_or_none(value) for name, value in stability._asdict().items()},
    }


def _kernel_entropies(answered: Answered, judging: RunJudge) -> NDArray[np.float64]:
    """Kernel language entropy, [questions], nats, from the judgements of all pairs; without a judge, from ROUGE-L."""
    texts_of = answered.answer_texts
    if judging.encoder is not None:
        embedded = [judging.encoder.encode(texts) for texts in texts_of]
        # A negative cosine counts as 0: such answers are no less similar than unrelated ones.
        return np.array([kernel_language_entropy(np.maximum(rows @ rows.T, 0.0)) for rows in embedded])
    if judging.judge is None:
        return np.array([kernel_language_entropy(rouge_matrix(texts)) for texts in texts_of])
    relations_of = pairwise_relations(answered.question_texts, texts_of, judging.judge)
    return np.array(
        [
            kernel_language_entropy(similarity_from_relations(texts, relations))
            for texts, relations in zip(texts_of, relations_of, strict=True)
        ]
    )


def _finite_or_none(values: NDArray[np.floating]) -> list[float | None]:
    return [finite_or_none(value) for value in values.tolist()]


def _shows(context: Context, _done: frozenset[str]) -> dict[str, Any]:
    config, run = context.config, context.run
    table = atomic_files.read_table(run.file("entropy.parquet")).to_pydict()
    threshold = atomic_files.read_json(run.file("threshold.json"))
    judged = [(c, g) for c, g in zip(table["correct"], table["group"], strict=True) if c is not None]
    accuracy = mean_interval([float(c) for c, _ in judged], [g for _, g in judged]) if judged else None
    return {
        "n_samples": config.sample.n,
        "entropies": table["semantic_entropy"],
        "threshold": threshold["value"],
        "threshold_rule": threshold["rule"],
        "threshold_range": _range(threshold.get("stability")),
        "n_ambiguous": sum(map(bool, table["ambiguous"])) if "ambiguous" in table else None,
        "greedy_accuracy": accuracy,
        "cases": _cases(context, table),
    }


def _cases(context: Context, table: dict[str, list[Any]]) -> list[Case]:
    """Example questions of low, middle and high entropy, evenly spaced in the lowest, middle and highest sixth."""
    answers = read_answers(context.run.file("answers"), context.config.sample.n)
    questions = context.questions_by_id(set(table["question_id"]))
    order = np.argsort(table["semantic_entropy"], kind="stable")
    n, wanted = len(order), context.config.report.cases
    sixth = max(1, n // 6)
    starts = {"low": 0, "middle": (n - sixth) // 2, "high": n - sixth}
    cases = []
    for level, start in starts.items():
        for row in order[start : start + sixth][:: max(1, sixth // wanted)][:wanted]:
            question_id = table["question_id"][row]
            low = answers[question_id].get(0)
            samples = [answer for number, answer in answers[question_id].items() if number]
            cases.append(
                Case(
                    level=level,
                    question=questions[question_id].question,
                    gold=questions[question_id].answers,
                    semantic_entropy=table["semantic_entropy"][row],
                    low_temperature_answer=None if low is None else low["text"],
                    correct=table["correct"][row],
                    samples=[sample["text"] for sample in samples],
                    clusters=table["cluster_ids"][row],
                )
            )
    return cases


def _range(stability: dict[str, Any] | None) -> tuple[float, float, float] | None:
    if stability is None or stability["low"] is None:
        return None
    return stability["low"], stability["high"], stability["flips"]


def _settings(config: RunConfig, _arm: str, known: Identities) -> list[Any]:
    hashed = [config.sample.n, values(config.measure, without=unread_of_measure(config)), config.seed]
    hashed += [known.judge] if config.measure.judge != "lexical" else []
    return [*hashed, prompted_model(config, known) if asks_model(config) else []]


STAGE = Stage(
    "measure",
    verb="measure",
    work=measure,
    reads=lambda config, arm: ["sample"],
    settings=_settings,
    writes=(
        Written("entropy.parquet"),
        Written("threshold.json"),
        Written(MODEL_SCORES, parts=True, working=True),
    ),
    refuses=check_judge,
    costs=lambda sizes, arm: Cost(sizes.of_role("probe")),
    shows=_shows,
)
