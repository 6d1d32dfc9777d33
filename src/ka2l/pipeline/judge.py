"""From answers and states to a probe: measure semantic entropy, label, train, choose and score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ka2l import files
from ka2l.errors import DegenerateError
from ka2l.knowledge.clustering import cluster_lexical, cluster_nli
from ka2l.knowledge.entropy import Threshold, fit_threshold, semantic_entropy
from ka2l.knowledge.probe import ProbeFit, choose, fit_probes
from ka2l.knowledge.split import TEST, TRAIN, VALIDATION, assign_split
from ka2l.pipeline.artifacts import as_table, read_answers, read_states
from ka2l.pipeline.context import Context
from ka2l.reach import answered_by, has_model, has_stand_in
from ka2l.statistics import Interval, auroc, auroc_interval
from ka2l.store import StageRecord
from ka2l.text import is_correct


def measure(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Cluster the answers by meaning, compute semantic entropy, fit the threshold on training rows."""
    with context.run.stage(stage, key, inputs) as record:
        _measure(context, record)


def _measure(context: Context, record: StageRecord) -> None:
    config, run = context.config, context.run
    questions = {question.id: question for question in context.questions("probe")}
    answers = read_answers(run.file("answers"), config.sample.n)
    ids = [question_id for question_id in questions if question_id in answers]
    samples = [[row for number, row in answers[i].items() if number] for i in ids]
    texts = [[str(row["text"]) for row in rows] for rows in samples]
    clusters, pairs = _clusters(context, [questions[i].question for i in ids], texts)
    entropies = np.array([semantic_entropy(numbers) for numbers in clusters])
    groups = [questions[question_id].group for question_id in ids]
    split = assign_split(groups, config.measure.split, config.seed)
    train = np.array([name == TRAIN for name in split])
    threshold, why = _threshold(context, entropies[train], f"{train.sum()} training questions of {len(ids)}")
    unknown = None if threshold is None else entropies >= threshold.value
    rows = []
    for index, question_id in enumerate(ids):
        # Imported answers may lack the low-temperature one. A sample at temperature 1 would be no substitute: it is
        # another measurement. So nothing is called right or wrong then.
        low = answers[question_id].get(0)
        gold = questions[question_id].answers
        rows.append(
            {
                "question_id": question_id,
                "group": groups[index],
                "split": split[index],
                "semantic_entropy": float(entropies[index]),
                "unknown": None if unknown is None else bool(unknown[index]),
                "n_clusters": len(set(clusters[index])),
                "cluster_ids": clusters[index],
                "low_temperature_answer": None if low is None else low["text"],
                "correct": is_correct(low["text"], gold, config.measure.correct) if low and gold else None,
                "negative_log_likelihood": None
                if low is None or _bare(low)
                else -_mean(low["token_logprobs"]),
                "predictive_entropy": None
                if any(map(_bare, samples[index]))
                else -_mean([sum(row["token_logprobs"]) for row in samples[index]]),
            }
        )
    files.write_table(run.file("entropy.parquet"), as_table(rows))
    summary = {
        "value": None if threshold is None else threshold.value,
        "rule": str(config.measure.threshold) if threshold is None else threshold.rule,
        "objective": None if threshold is None else _finite(threshold.objective),
        "fitted_on": int(train.sum()),
        "share_unknown": None if unknown is None else float(unknown.mean()),
        "judge": config.measure.judge,
    }
    files.write_json(run.file("threshold.json"), summary | ({"why": why} if why else {}))
    record.counts = {"questions": len(ids)} | ({} if unknown is None else {"unknown": int(unknown.sum())})
    if pairs:
        record.counts["pairs_judged"] = pairs


def _threshold(context: Context, entropies: NDArray[np.floating], whose: str) -> tuple[Threshold | None, str]:
    """The threshold; where there is none, None and why, if this run wants entropies and nothing else.

    Raises:
        DegenerateError: there is none, and a probe would need it.
    """
    try:
        return fit_threshold(entropies, context.config.measure.threshold, whose=whose), ""
    except DegenerateError as error:
        if has_model(context.config):
            raise
        context.reporter.say(
            f"note       {error}\n           The entropies are in entropy.parquet; `unknown` stays empty there."
        )
        return None, str(error)


def probe(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Train a probe per layer and kind, keep the best on validation rows, score it once on test rows."""
    with context.run.stage(stage, key, inputs) as record:
        _probe(context, record)


def _probe(context: Context, record: StageRecord) -> None:
    config, run = context.config, context.run
    table = files.read_table(run.file("entropy.parquet")).to_pydict()
    states = read_states(run.file("states"), table["question_id"])
    unknown = np.array(table["unknown"])
    split = np.array(table["split"])
    train, validation, test = (np.flatnonzero(split == name) for name in (TRAIN, VALIDATION, TEST))
    with context.reporter.bar("probe", len(config.probe.kinds) * states.shape[1]) as advance:
        fits = fit_probes(states, unknown, train, validation, config.probe, config.seed, advance)
    best = choose(fits)
    scores = _test_scores(context, fits, best, states, table, test)
    layers = [
        {
            "layer": fit.probe.layer,
            "kind": fit.probe.kind,
            "validation_auroc": fit.validation_auroc,
            "validation_loss": fit.validation_loss,
            "epochs": fit.epochs,
            "test_auroc": auroc(fit.probe.predict(states[test, fit.probe.layer]), unknown[test]),
            "chosen": fit is best,
        }
        for fit in fits
    ]
    card = {
        "model": context.resolved.name,  # whose states the probe reads
        "answered_by": answered_by(config),
        "stand_in": has_stand_in(config),
        "revision": context.resolved.revision,
        "kind": best.probe.kind,
        "layer": best.probe.layer,
        "n_layers": states.shape[1] - 1,
        "width": states.shape[2],
        "position": config.probe.position,
        "sensing_hash": context.prompts.sensing_hash,
        "threshold": files.read_json(run.file("threshold.json")),
        "split": {"train": len(train), "validation": len(validation), "test": len(test)},
        "validation_auroc": _finite(best.validation_auroc),
        "scores": scores,
    }
    folder = run.file("probe")
    files.write_tensors(folder / "probe.safetensors", best.probe.weights, {"kind": best.probe.kind})
    files.write_table(folder / "layers.parquet", as_table(layers))
    files.write_json(folder / "probe.json", card)
    record.counts = {"probes": len(fits), "layer": best.probe.layer}


def _clusters(context: Context, questions: list[str], texts: list[list[str]]) -> tuple[list[list[int]], int]:
    config = context.config.measure
    if config.judge == "lexical":
        return [cluster_lexical(rows) for rows in texts], 0
    from ka2l.models.load import pick_device
    from ka2l.models.nli import EntailmentModel

    context.release()
    judge = EntailmentModel(
        config.nli_model, device=pick_device(context.config.model), batch_size=config.nli_batch_size
    )

    def entails(pairs: Sequence[tuple[str, str]]) -> Sequence[bool]:
        with context.reporter.bar("measure", len(pairs)) as advance:
            return judge.entails(pairs, advance)

    clusters = cluster_nli(questions, texts, entails)
    return clusters, judge.pairs_scored


def _test_scores(
    context: Context,
    fits: list[ProbeFit],
    best: ProbeFit,
    states: NDArray[np.float32],
    table: dict[str, list[Any]],
    test: NDArray[np.intp],
) -> dict[str, dict[str, Any]]:
    """AUROC on the test rows, read here and only here, of the probes and plain scores against both targets."""
    config = context.config.probe
    contenders: dict[str, NDArray[np.floating]] = {
        "probe": best.probe.predict(states[test, best.probe.layer])
    }
    for kind in config.kinds:
        own = choose([fit for fit in fits if fit.probe.kind == kind])
        contenders[f"{kind} probe (layer {own.probe.layer})"] = own.probe.predict(
            states[test, own.probe.layer]
        )
    for name in ("semantic_entropy", "predictive_entropy", "negative_log_likelihood"):
        if None not in table[name]:  # servers and files of answers may come without log-probabilities
            contenders[name] = np.array(table[name])[test]
    unknown = np.array(table["unknown"])[test]
    correct = np.array([np.nan if value is None else float(value) for value in table["correct"]])[test]
    judged = np.isfinite(correct)
    groups = np.array(table["group"])[test]
    result = {}
    for name, score in contenders.items():
        against_se = auroc_interval(score, unknown, list(groups), config.bootstrap, context.config.seed)
        against_wrong = auroc_interval(
            score[judged], correct[judged] == 0, list(groups[judged]), config.bootstrap, context.config.seed
        )
        result[name] = {
            # Against its own cut semantic entropy is perfect by construction: that says nothing.
            "se_label": None if name == "semantic_entropy" else _interval(against_se),
            "wrong_answer": _interval(against_wrong) if judged.any() else None,
        }
    return result


def _bare(row: dict[str, Any]) -> bool:
    """Whether an answer came without the log-probabilities of its tokens."""
    return bool(row["text"]) and not row["token_logprobs"]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _interval(interval: Interval) -> dict[str, float | int | None]:
    return {name: _finite(value) for name, value in interval._asdict().items()}
