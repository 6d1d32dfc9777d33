"""The report: gather what the run has so far and render the page."""

from datetime import UTC, datetime
from typing import Any

from ka2l.common import atomic_files
from ka2l.common.version import __version__
from ka2l.config.recipes import to_yaml
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import answered_by, has_model, has_stand_in, limit
from ka2l.models.loading import pick_device
from ka2l.pipeline.arms import own_probe
from ka2l.pipeline.content_keys import values
from ka2l.pipeline.context import Context
from ka2l.pipeline.manifest import StageRecord, library_versions
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.stage import Stage
from ka2l.report.run_page_data import ReportData, StageCost


def report(context: Context, attempt: Attempt) -> None:
    """Write report.html from whatever stages are finished."""
    from ka2l.report.run_page import render

    with attempt.begin() as record:
        data = report_data(context, frozenset(attempt.inputs))
        atomic_files.write_text(attempt.file("report.html"), render(data))
        record.counts = {"stages": len(attempt.inputs)}


def report_data(context: Context, done: frozenset[str]) -> ReportData:
    """The page's values; parts whose stage is not done stay empty."""
    config, run, stages = context.config, context.run, context.plan.stages
    shown: dict[str, Any] = {
        "title": config.report.title,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "model": answered_by(config),
        **_place(context),
        "duplicates_merged": 0,
        "role_counts": {},
        **_prompts(context),
        "config_yaml": to_yaml(config),
        "libraries": library_versions(),
        "stages": [_cost(stage, run.stages[stage]) for stage in stages if stage in done],
    }
    for stage, declared in stages.items():
        if stage in done:
            shown |= declared.shows(context, done)
    return ReportData(**shown)


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


def _reads(config: RunConfig, _arm: str) -> list[str]:
    """The last stages this configuration can reach."""
    end = limit(config)
    last = {"measure": ["measure"], "annotate": [*own_probe(config), "map", "annotate"]}
    return [*own_probe(config), "map", "evaluate"] if end is None else last[end.last]


STAGE = Stage(
    "report",
    verb="report",
    work=report,
    reads=_reads,
    settings=lambda config, arm, known: [values(config.report)],
    writes=(Written("report.html"),),
    partial=True,
)
