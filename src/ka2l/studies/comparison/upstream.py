"""Stage 1 of a comparison: one run directory whose map and signals serve every policy."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ka2l.common.progress import Reporter
from ka2l.config.absolute_paths import with_absolute_paths
from ka2l.config.run_config import RunConfig
from ka2l.pipeline.context import Context
from ka2l.pipeline.preflight import check_configuration
from ka2l.pipeline.run import context_of, do_stage, load_stage
from ka2l.pipeline.run_directory import RunDirectory

_STAGE_1 = ("load", "sample", "measure", "probe", "map")


def make_upstream(
    config: RunConfig,
    out: Path,
    policies: Sequence[RunConfig],
    reporter: Reporter,
    check: Callable[[Context], None],
) -> RunDirectory:
    """Stage 1 and the signals that any of these configurations selects by, in one run directory.

    Args:
        config: the run's own; it stays in config.yaml.
        out: the run directory; made, or continued.
        policies: configurations that differ in `select` and `finetune` only.
        reporter: progress.
        check: called once the questions are loaded, before the model is asked anything; raises if they will not do.
    """
    directory = RunDirectory.create(out, with_absolute_paths(config))
    with directory.locked():
        context = context_of(directory, reporter)
        load_stage(context, complete=True)
        check(context)
        contexts = [_beside(context, policy) for policy in policies]
        shots = context.questions("shot")
        for one in contexts:
            check_configuration(one, shots)
        done = {"load"}
        for one in contexts:
            for stage, declared in one.plan.stages.items():
                if declared.verb in _STAGE_1 and stage not in done:
                    do_stage(one, stage)
                    done.add(stage)
        context.release()
        directory.save_config()
    return directory


def _beside(context: Context, policy: RunConfig) -> Context:
    """The same run with the configuration of a policy, whose own arm alone is wanted: no other signals are read."""
    select = policy.select.model_copy(update={"baseline": None})
    config = with_absolute_paths(policy.model_copy(update={"select": select}))
    return context_of(context.run.working_with(config), context.reporter, beside=context)
