"""Stage `report`: collect the results of the finished stages and render the page."""

from datetime import UTC, datetime
from typing import Any

from ka2l.common import atomic_files
from ka2l.common.version import __version__
from ka2l.config.recipes import to_yaml
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import (
    answered_by,
    has_imported_answers,
    has_model,
    has_stand_in,
    limit,
    samples_from_server,
)
from ka2l.models.loading import pick_device
from ka2l.pipeline.arms import own_probe
from ka2l.pipeline.content_keys import values
from ka2l.pipeline.context import Context
from ka2l.pipeline.manifest import StageRecord, library_versions
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.stage import Stage
from ka2l.report.run_page_data import ReportData, StageCost


def report(context: Context, attempt: Attempt) -> None:
    """Write report.html from the finished stages."""
    from ka2l.report.run_page import render

    with attempt.begin() as record:
        data = report_data(context, frozenset(attempt.inputs))
        atomic_files.write_text(attempt.file("report.html"), render(data))
        record.counts = {"stages": len(attempt.inputs)}


def report_data(context: Context, done: frozenset[str]) -> ReportData:
    """The page's values; parts whose stage is not finished stay empty."""
    config, run, stages = context.config, context.run, context.plan.stages
    fields: dict[str, Any] = {
        "title": config.report.title,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "model": answered_by(config),
        **_model_fields(context),
        "duplicates_merged": 0,
        "role_counts": {},
        **_prompts(context),
        "config_yaml": to_yaml(config),
        "libraries": library_versions(),
        "stages": [_cost(stage, run.stages[stage]) for stage in stages if stage in done],
    }
    for stage, declared in stages.items():
        if stage in done:
            fields |= declared.shows(context, done)
    return ReportData(**fields)


def _model_fields(context: Context) -> dict[str, Any]:
    """Where the answers and the hidden states come from, and why the run ends early."""
    config = context.config
    end = limit(config)
    fields: dict[str, Any] = {"ends": f"The run ends after “{end.last}”. {end.why}" if end is not None else ""}
    fields["engine"] = {"local": "", "server": config.server.url, "imported": "answers made elsewhere"}[
        config.sample.engine
    ]
    if not has_model(config):
        return {**fields, "revision": "", "device": ""}
    if has_stand_in(config):
        fields["stand_in"] = context.resolved.name
    return {**fields, "revision": context.resolved.revision, "device": pick_device(config.model)}


def _prompts(context: Context) -> dict[str, str]:
    """The sensing and the teaching prompt; empty if the run does not use it. The prompt of imported answers is
    unknown.
    """
    config = context.config
    if has_imported_answers(config) and not has_model(config):
        return {"sensing_prompt": "", "teaching_prompt": ""}
    teaches = limit(config) is None
    sensing = context.prompts.sensing("…")
    if samples_from_server(config) and config.server.endpoint == "chat":
        turns = context.prompts.sensing_messages("…")
        chat = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        sensing = f"{chat}\n\nand for the hidden states:\n\n{sensing}" if has_model(config) else chat
    return {"sensing_prompt": sensing, "teaching_prompt": context.prompts.teaching("…") if teaches else ""}


def _cost(name: str, record: StageRecord) -> StageCost:
    return StageCost(name, record.seconds, record.counts, record.tokens, record.tokens_per_second, record.memory_mb)


def _reads(config: RunConfig, _arm: str) -> list[str]:
    """The last stages of this configuration."""
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
