"""Run the stages in order. A stage is skipped if nothing it depends on has changed, according to its content key.

Usage:

    from ka2l.pipeline.run import run
    run(load_config(Path("recipes/geo-smollm2.yaml")), Path("runs/geo"))
"""

from pathlib import Path

from ka2l.common.number_format import duration
from ka2l.common.progress import Reporter
from ka2l.config.absolute_paths import with_absolute_paths
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_imported_answers, limit
from ka2l.errors import RunError
from ka2l.pipeline.arms import MAIN, augments, split_stage
from ka2l.pipeline.context import Context
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.preflight import check_configuration, check_questions
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.stage_list import VERBS, plan_of
from ka2l.pipeline.stages.load import read_questions


def run(config: RunConfig, out: Path, reporter: Reporter | None = None) -> RunDirectory:
    """Run every stage that is not finished, from the questions to the report.

    Raises:
        Ka2lError: an error the user can fix. Finished stages are kept, and calling it again continues from them.
        WaitingForPeople: people must answer the selected questions first.
    """
    directory = RunDirectory.create(out, with_absolute_paths(config))
    with directory.locked():
        context = context_of(directory, reporter)
        worked = load_stage(context, complete=True)
        for stage in context.plan.stages:
            if stage != "load":
                worked = do_stage(context, stage) or worked
        if not worked:
            context.reporter.say(f"Nothing to do: {out} is finished, and nothing it depends on has changed.")
    return directory


def run_verb(verb: str, directory: RunDirectory, reporter: Reporter | None = None) -> list[str]:
    """Run the stages of one verb, whose earlier stages are finished; returns the names of its stages.

    Raises:
        RunError: an earlier stage is missing or out of date, or the run has to end before this verb (see
            `ka2l.config.run_limits`).
    """
    if verb not in VERBS:
        raise RunError(f"{verb}: no such verb. There are: {', '.join(VERBS)}.")
    context = context_of(directory, reporter)
    check_verb(verb, context)
    with directory.locked():
        if verb == "load":
            load_stage(context)
            return ["load"]
        stages = context.plan.of_verb(verb)
        if verb == "measure" and _only_reads_more(context):
            stages = ["sample", *stages]
        for stage in stages:
            do_stage(context, stage)
    return stages


def context_of(directory: RunDirectory, reporter: Reporter | None = None, beside: Context | None = None) -> Context:
    """The context of a run directory with the plan of its configuration.

    Args:
        directory: the run directory.
        reporter: progress and notes; None: they are printed.
        beside: a context whose loaded model is shared, see `Context`.
    """
    return Context(directory, reporter or Reporter(), plan_of(directory.config), beside)


def check_verb(verb: str, context: Context) -> None:
    """Refuse a verb that is not possible with the answers and hidden states this run has."""
    directory, end = context.run, limit(context.config)
    if end is not None and verb != "report" and VERBS.index(verb) > VERBS.index(end.last):
        raise RunError(f"{directory.path}: `{verb}` is not possible here. {end.why}")
    if verb == "augment" and not augments(context.config):
        raise RunError(
            f"{directory.path}: no questions are decoded (augment.per_question=0). Set how many are decoded from each "
            f"hidden state: `ka2l augment {directory.path} augment.per_question=8`"
        )
    if verb != "report" and not context.plan.of_verb(verb):
        raise RunError(
            f"{directory.path}: `{verb}` is not part of this run: the pool is mapped by a probe trained before "
            f"(map.probe={context.config.map.probe}). To train a probe here, set map.probe= (empty)"
        )


def load_stage(context: Context, *, complete: bool = False) -> bool:
    """Read, check and write the questions; returns whether there was anything to write.

    Args:
        context: context of the run.
        complete: the whole run follows, so every stage of it must be able to work with the questions.
    """
    loaded = context.identities.loaded = read_questions(context.config, context.run)
    try:
        if complete:
            check_questions(context, loaded.questions)
        check_configuration(context, loaded.questions)
        return do_stage(context, "load")
    finally:
        # The questions are on disk now. The pool must not stay in memory.
        context.identities.loaded = None


def do_stage(context: Context, stage: str) -> bool:
    """Run a stage unless it is up to date, and print one line about it; returns whether it ran."""
    worked = bring_up_to_date(context, stage)
    name, arm = split_stage(stage)
    title = f"{name:<10} {'' if arm == MAIN else arm + ': '}"
    record = context.run.stages[stage]
    end = duration(record.seconds, plain=True) if worked else "(done before)"
    context.reporter.say(f"{title}{_counts(record)}  {end}")
    return worked


def bring_up_to_date(context: Context, stage: str) -> bool:
    """Run a stage unless it is finished under the same key with the same inputs; returns whether it ran.

    Raises:
        RunError: a stage it reads is missing or out of date.
    """
    declared, attempt = context.plan.stages[stage], context.attempt(stage)
    record = context.run.stages.get(stage)
    # A report of a partly finished run has the same key as that of the finished run, but other inputs.
    same_inputs = record is not None and record.inputs == attempt.inputs
    worked = not (same_inputs and context.is_done(stage, attempt.key))
    if worked:
        declared.work(context, attempt)
    context.run.tidy(stage, declared.writes)
    return worked


def _only_reads_more(context: Context) -> bool:
    """Whether `measure` only needs more of the imported answers: reading them costs nothing."""
    record = context.run.stages.get("sample")
    if not has_imported_answers(context.config) or record is None or record.state != "done":
        return False
    key = context.keys()["sample"]
    return record.key == key and not context.is_done("sample", key)


def _counts(record: StageRecord) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in record.counts.items())
