"""The verbs in order: reads like the picture of the house.

    from ka2l.pipeline.run import run
    run(load_config(Path("recipes/geo-smollm2.yaml")), Path("runs/geo"))

Every stage is skipped where its content key says that nothing it depends on has changed.
"""

from pathlib import Path

from ka2l.common.number_format import duration
from ka2l.common.progress import Reporter
from ka2l.config.absolute_paths import with_absolute_paths
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import limit
from ka2l.errors import RunError
from ka2l.pipeline.arms import augments, split_stage
from ka2l.pipeline.context import Context
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.preflight import _check_roles, check_means
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared import run_probe
from ka2l.pipeline.stage_graph import VERBS, all_stages, stages_of
from ka2l.pipeline.stage_list import _WORK
from ka2l.pipeline.stages import (
    load,
    report,
)
from ka2l.pipeline.stages.load import read_questions


def run(config: RunConfig, out: Path, reporter: Reporter | None = None) -> RunDirectory:
    """Do everything that is not done yet, from the questions to the report.

    Raises:
        Ka2lError: something the user can mend; what is finished stays and the same call continues.
        WaitingForPeople: the bought questions need answers from people first.
    """
    directory = RunDirectory.create(out, with_absolute_paths(config))
    with directory.locked():
        context = Context(directory, reporter or Reporter())
        worked = _load(context, complete=True)
        for stage in all_stages(config):
            if stage != "load":
                worked = _do(context, stage) or worked
        if not worked:
            context.reporter.say(f"Nothing to do: {out} is finished, and nothing it depends on has changed.")
    return directory


def run_verb(verb: str, directory: RunDirectory, reporter: Reporter | None = None) -> list[str]:
    """One verb on a run directory whose earlier stages are done; returns the stages it worked on.

    Raises:
        RunError: an earlier stage is missing or out of date, or the run cannot come so far (see `ka2l.config.run_limits`).
    """
    if verb not in VERBS:
        raise RunError(f"{verb}: no such verb. There are: {', '.join(VERBS)}.")
    check_reach(verb, directory)
    with directory.locked():
        context = Context(directory, reporter or Reporter())
        if verb == "load":
            _load(context)
            return ["load"]
        stages = stages_of(verb, directory.config)
        if verb == "measure" and _only_reads_more(context):
            stages = ["sample", *stages]
        for stage in stages:
            _do(context, stage)
    return stages


def check_reach(verb: str, directory: RunDirectory) -> None:
    """Refuse a verb that makes no sense with the answers and states this run has."""
    end = limit(directory.config)
    if end is not None and verb != "report" and VERBS.index(verb) > VERBS.index(end.last):
        raise RunError(f"{directory.path}: `{verb}` is not possible here. {end.why}")
    if verb == "augment" and not augments(directory.config):
        raise RunError(
            f"{directory.path}: nothing is to be decoded (augment.per_question=0). Say how many questions from each "
            f"state: `ka2l augment {directory.path} augment.per_question=8`"
        )
    if verb != "report" and not stages_of(verb, directory.config):
        raise RunError(
            f"{directory.path}: `{verb}` has no place here: the pool is mapped by a probe trained before "
            f"(map.probe={directory.config.map.probe}). To train one here, set map.probe= (empty)"
        )


def _only_reads_more(context: Context) -> bool:
    """Whether nothing but more of the imported answers is missing for `measure`: that costs nothing."""
    record = context.run.stages.get("sample")
    if context.config.sample.engine != "imported" or record is None or record.state != "done":
        return False
    key = context.keys()["sample"]
    return record.key == key and not context.run.is_done("sample", key)


def _load(context: Context, *, complete: bool = False) -> bool:
    """Read, check and write the questions; whether there was anything to write. `complete`: the whole run follows."""
    config = context.config
    loaded = read_questions(config, context.run)
    if complete:
        _check_roles(config, loaded.questions)
    check_means(context, loaded.questions)
    worked = load.load(context, loaded)
    done = "" if worked else "  (done before)"
    context.reporter.say(f"load       {_counts(context.run.stages['load'])}{done}")
    return worked


def _do(context: Context, stage: str) -> bool:
    """One stage, unless its key says it is done; then one line about it. Returns whether it worked."""
    name, arm = split_stage(stage)
    title = f"{name:<10} {'' if arm == 'main' else arm + ': '}"
    if name == "map" and (context.config.map.probe or (context.run.file("probe") / "probe.json").exists()):
        run_probe.read_probe(
            context
        )  # the error that says what differs comes before the one that says out of date
    inputs = report.report_inputs(context) if name == "report" else context.require(stage)
    key = context.keys()[stage]
    record = context.run.stages.get(stage)
    # A page made half-way has the key of the finished one, but not its inputs.
    if record is not None and record.inputs == inputs and context.run.is_done(stage, key):
        context.run.tidy(stage)
        context.reporter.say(f"{title}{_counts(record)}  (done before)")
        return False
    _WORK[name](context, stage, key, inputs)
    context.run.tidy(stage)
    record = context.run.stages[stage]
    context.reporter.say(f"{title}{_counts(record)}  {duration(record.seconds, plain=True)}")
    return True


def _counts(record: StageRecord) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in record.counts.items())
