"""The report: gather what the run has so far and render the page."""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from ka2l import __version__, files
from ka2l.evaluation.serialize import interval_from
from ka2l.knowledge.reliability import ReliabilityBin
from ka2l.models.load import pick_device
from ka2l.pipeline.artifacts import read_answers, read_states
from ka2l.pipeline.context import Context
from ka2l.pipeline.show_decoded import augmentation
from ka2l.pipeline.taught import read_annotations
from ka2l.reach import answered_by, has_model, has_stand_in, limit
from ka2l.recipe import to_yaml
from ka2l.report.data import (
    Case,
    LayerScore,
    PerturbedThreshold,
    ReportData,
    ScoreRow,
    StageCost,
)
from ka2l.report.methods import score_title
from ka2l.stages import all_stages, arms, strategy_of
from ka2l.statistics import Interval, mean_interval
from ka2l.store import StageRecord, arm_stage, library_versions

_SHOWN = 2000  # points in the scatter plots and histograms
_BOUGHT_SHOWN = 10


def report_inputs(context: Context) -> dict[str, str]:
    """Keys of the stages the page shows: all that are finished, for a run may be looked at half-way."""
    now = context.keys()
    return {s: now[s] for s in all_stages(context.config) if s != "report" and context.run.is_done(s, now[s])}


def report(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Write report.html from whatever stages are finished."""
    from ka2l.report.page import render

    with context.run.stage(stage, key, inputs) as record:
        data = report_data(context, set(inputs))
        files.write_text(context.run.file("report.html"), render(data))
        record.counts = {"stages": len(inputs)}


def report_data(context: Context, done: set[str]) -> ReportData:
    """The page's values; parts whose stage is not done stay empty."""
    config, run = context.config, context.run
    counts = dict(run.stages["load"].counts) if "load" in done else {}
    values: dict[str, Any] = {
        "title": config.report.title,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "model": answered_by(config),
        **_place(context),
        "duplicates_merged": counts.pop("duplicates_merged", 0),
        "role_counts": counts,
        **_prompts(context),
        "config_yaml": to_yaml(config),
        "libraries": library_versions(),
        "stages": [_cost(name, run.stages[name]) for name in all_stages(config) if name in done],
    }
    if "measure" in done:
        values |= _measured(context)
    if "probe" in done:
        values |= _probed(context)
    if "map" in done:
        table = files.read_table(run.file("knowledge_map.parquet"))
        p = table["p_unknown"].to_numpy()
        rng = np.random.default_rng(config.seed)
        shown = p if len(p) <= _SHOWN else rng.choice(p, _SHOWN, replace=False)
        values |= {"p_unknown": shown.tolist(), "n_pool": len(p), "n_pool_unknown": int((p >= 0.5).sum())}
        values["given_probe"] = config.map.probe
    if "augment" in done:
        values["augmentation"] = augmentation(context, taught="annotate" in done)
    if all(arm_stage("annotate", arm) in done for arm in arms(config)):
        values["bought"] = {strategy_of(config, arm): _bought(context, arm) for arm in arms(config)}
    if "evaluate" in done:
        values["evaluation"] = files.read_json(run.file("evaluation.json"))
    return ReportData(**values)


def _place(context: Context) -> dict[str, Any]:
    """Where answers and states come from."""
    config = context.config
    end = limit(config)
    values: dict[str, Any] = {
        "ends": f"The run ends after “{end.last}”. {end.why}" if end is not None else ""
    }
    values["engine"] = {"local": "", "server": config.server.url, "imported": "answers made elsewhere"}[
        config.sample.engine
    ]
    if not has_model(config):
        return {**values, "revision": "", "device": ""}
    if has_stand_in(config):
        values["stand_in"] = context.resolved.name
    return {**values, "revision": context.resolved.revision, "device": pick_device(config.model)}


def _prompts(context: Context) -> dict[str, str]:
    """Both prompts, those that are used: nobody here knows what imported answers were asked with."""
    config = context.config
    if config.sample.engine == "imported" and not has_model(config):
        return {"sensing_prompt": "", "teaching_prompt": ""}
    teaches = limit(config) is None
    sensing = context.prompts.sensing("…")
    if config.sample.engine == "server" and config.server.endpoint == "chat":
        turns = context.prompts.sensing_messages("…")
        spoken = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        sensing = f"{spoken}\n\nand for the hidden states:\n\n{sensing}" if has_model(config) else spoken
    return {"sensing_prompt": sensing, "teaching_prompt": context.prompts.teaching("…") if teaches else ""}


def _cost(name: str, record: StageRecord) -> StageCost:
    return StageCost(
        name, record.seconds, record.counts, record.tokens, record.tokens_per_second, record.memory_mb
    )


def _measured(context: Context) -> dict[str, Any]:
    config, run = context.config, context.run
    table = files.read_table(run.file("entropy.parquet")).to_pydict()
    threshold = files.read_json(run.file("threshold.json"))
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
    """Questions of low, middle and high entropy: evenly spaced over the lowest, middle and highest sixth."""
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


def _probed(context: Context) -> dict[str, Any]:
    run = context.run
    card = files.read_json(run.file("probe") / "probe.json")
    layers = files.read_table(run.file("probe") / "layers.parquet").to_pylist()
    table = files.read_table(run.file("entropy.parquet")).to_pydict()
    points, variance = _pca(read_states(run.file("states"), table["question_id"])[:, card["layer"]])
    event = "wrong" if card["target"] == "correct" else "unknown"
    kept = card["scores"]["probe"]["wrong_answer" if event == "wrong" else "se_label"]
    return {
        "layers": [
            LayerScore(
                row["layer"], row["kind"], row["validation_auroc"], row["test_auroc"], bool(row["chosen"])
            )
            for row in layers
        ],
        "scores": [_score_row(name, row, card["layers"]) for name, row in card["scores"].items()],
        "probe_auroc": _interval(kept and kept["auroc"]),
        "probe_position": card["position"],
        "probe_kind": card["kind"],
        "probe_layer": card["layer"],
        "probe_target": card["target"],
        "probe_event": event,
        "calibration": card["calibration"],
        "perturbed": [
            PerturbedThreshold(
                row["delta"],
                row["threshold"],
                row["relabelled"],
                _interval(row["auroc"]),
                _interval(row["auroc_kept"]),
            )
            for row in card["perturbed"]
        ],
        "reliability": [ReliabilityBin(**point) for point in card["reliability"]],
        "pca": [(float(x), float(y), u) for (x, y), u in zip(points, table["unknown"], strict=True)][:_SHOWN],
        "pca_variance": variance,
    }


def _score_row(name: str, targets: dict[str, Any], layers: dict[str, int]) -> ScoreRow:
    title = score_title(name, layers.get(name))
    metrics = {
        target: {
            metric: interval_from(value) for metric, value in (found or {}).items() if metric != "difference"
        }
        for target, found in targets.items()
    }
    p_values = {
        target: found["difference"]["p"]
        for target, found in targets.items()
        if found and found.get("difference") and found["difference"]["p"] is not None
    }
    return ScoreRow(title, metrics, p_values)


def _pca(states: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Two principal components of the standardised states, and the share of variance each explains."""
    from sklearn.decomposition import PCA

    from ka2l.knowledge.probe import standardization

    mean, scale = standardization(states)
    pca = PCA(n_components=2, svd_solver="full")
    points = pca.fit_transform((states - mean) / scale)
    first, second = (float(share) for share in pca.explained_variance_ratio_)
    return points, (first, second)


def _bought(context: Context, arm: str) -> list[tuple[str, float, str]]:
    selection = files.read_table(context.run.file("selection.parquet", arm)).to_pydict()
    answers = read_annotations(context, arm)
    shown = [
        (i, s) for i, s in zip(selection["question_id"], selection["score"], strict=True) if i in answers
    ][:_BOUGHT_SHOWN]
    questions = context.questions_by_id({i for i, _ in shown})
    return [(questions[i].question, score, answers[i][0]) for i, score in shown]


def _interval(value: dict[str, Any] | None) -> Interval | None:
    return None if value is None else interval_from(value)
