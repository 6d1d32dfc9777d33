"""The verbs in order: reads like the picture of the house.

    from ka2l.pipeline import run
    run(load_config(Path("recipes/geo-smollm2.yaml")), Path("runs/geo"))

Every stage is skipped where its content key says that nothing it depends on has changed.
"""

from collections.abc import Callable
from pathlib import Path

from ka2l.config import RunConfig
from ka2l.errors import RunError
from ka2l.pipeline import act, judge, sense, show
from ka2l.pipeline.context import Context, check_chat_template
from ka2l.progress import Reporter, duration
from ka2l.questions import load_questions
from ka2l.stages import VERBS, all_stages, stages_of
from ka2l.store import RunDirectory, StageRecord, split_stage

__all__ = ["run", "run_verb"]

_Stage = Callable[[Context, str, str, dict[str, str]], None]
_WORK: dict[str, _Stage] = {
    "sample": sense.sample,
    "measure": judge.measure,
    "probe": judge.probe,
    "map": sense.map_pool,
    "signals": sense.next_token_signal,
    "select": act.select_questions,
    "annotate": act.annotate,
    "finetune": act.finetune,
    "evaluate": act.evaluate_models,
    "report": show.report,
}


def run(config: RunConfig, out: Path, reporter: Reporter | None = None) -> RunDirectory:
    """Do everything that is not done yet, from the questions to the report.

    Raises:
        Ka2lError: something the user can mend; what is finished stays and the same call continues.
        WaitingForPeople: the bought questions need answers from people first.
    """
    directory = RunDirectory.create(out, config)
    with directory.locked():
        context = Context(directory, reporter or Reporter())
        _load(context)
        for stage in all_stages(config):
            if stage != "load":
                _do(context, stage)
    return directory


def run_verb(verb: str, directory: RunDirectory, reporter: Reporter | None = None) -> list[str]:
    """One verb on a run directory whose earlier stages are done; returns the stages it worked on.

    Raises:
        RunError: an earlier stage is missing or out of date.
    """
    if verb not in VERBS:
        raise RunError(f"{verb}: no such verb. There are: {', '.join(VERBS)}.")
    with directory.locked():
        context = Context(directory, reporter or Reporter())
        if verb == "load":
            _load(context)
            return ["load"]
        stages = stages_of(verb, directory.config)
        for stage in stages:
            _do(context, stage)
    return stages


def _load(context: Context) -> None:
    config = context.config
    shots = max(config.prompt.shots, config.prompt.teaching_shots)
    loaded = load_questions(config.questions, config.seed, shots)
    _ = context.resolved  # an unknown model is refused before anything is written
    check_chat_template(context)
    sense.load(context, loaded)
    context.reporter.say(f"load       {_counts(context.run.stages['load'])}")


def _do(context: Context, stage: str) -> None:
    """One stage, unless its key says it is done; then one line about it."""
    name, arm = split_stage(stage)
    title = f"{name:<10} {'' if arm == 'main' else arm + ': '}"
    if name == "report":
        inputs, key = show.report_inputs(context), context.keys()[stage]
    else:
        inputs, key = context.require(stage), context.keys()[stage]
    if name != "report" and context.run.is_done(stage, key):
        context.reporter.say(f"{title}{_counts(context.run.stages[stage])}  (done before)")
        return
    _WORK[name](context, stage, key, inputs)
    record = context.run.stages[stage]
    context.reporter.say(f"{title}{_counts(record)}  {duration(record.seconds)}")


def _counts(record: StageRecord) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in record.counts.items())
