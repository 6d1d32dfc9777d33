"""Stage 1 of a comparison: one run directory whose map and signals all policies use."""

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
    """Run Stage 1 and compute the signals that any of these configurations reads, in one run directory.

    Args:
        config: the run's own configuration; it stays in config.yaml.
        out: the run directory; it is made, or continued.
        policies: configurations that differ in `select` and `finetune` only.
        reporter: progress.
        check: called once the questions are loaded, before any model is used; raises an error if they cannot be used.
    """
    directory = RunDirectory.create(out, with_absolute_paths(config))
    with directory.locked():
        context = context_of(directory, reporter)
        load_stage(context, complete=True)
        check(context)
        of_policies = [_policy_context(context, policy) for policy in policies]
        shots = context.questions("shot")
        for of_policy in of_policies:
            check_configuration(of_policy, shots)
        done = {"load"}
        for of_policy in of_policies:
            for stage, declared in of_policy.plan.stages.items():
                if declared.verb in _STAGE_1 and stage not in done:
                    do_stage(of_policy, stage)
                    done.add(stage)
        context.release()
        directory.save_config()
    return directory


def _policy_context(context: Context, policy: RunConfig) -> Context:
    """The same run with the configuration of a policy, without a baseline, whose signals would not be needed."""
    select = policy.select.model_copy(update={"baseline": None})
    config = with_absolute_paths(policy.model_copy(update={"select": select}))
    return context_of(context.run.working_with(config), context.reporter, beside=context)
