"""The report: gather what the run has so far and render the page."""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from ka2l.common import atomic_files
from ka2l.common.version import __version__
from ka2l.config.recipes import to_yaml
from ka2l.config.run_limits import answered_by, has_model, has_stand_in, limit
from ka2l.models.loading import pick_device
from ka2l.pipeline.arms import arm_stage, arms, strategy_of
from ka2l.pipeline.context import Context
from ka2l.pipeline.manifest import StageRecord, library_versions
from ka2l.pipeline.stage_graph import all_stages
from ka2l.pipeline.stages.annotate import _bought
from ka2l.pipeline.stages.augment import augmentation
from ka2l.pipeline.stages.measure import _measured
from ka2l.pipeline.stages.probe import _SHOWN, _probed
from ka2l.report.run_page_data import ReportData, StageCost


def report_inputs(context: Context) -> dict[str, str]:
    """Keys of the stages the page shows: all that are finished, for a run may be looked at half-way."""
    now = context.keys()
    return {s: now[s] for s in all_stages(context.config) if s != "report" and context.run.is_done(s, now[s])}


def report(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Write report.html from whatever stages are finished."""
    from ka2l.report.run_page import render

    with context.run.stage(stage, key, inputs) as record:
        data = report_data(context, set(inputs))
        atomic_files.write_text(context.run.file("report.html"), render(data))
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
        table = atomic_files.read_table(run.file("knowledge_map.parquet"))
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
        values["evaluation"] = atomic_files.read_json(run.file("evaluation.json"))
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
