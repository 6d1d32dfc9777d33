"""Stage 1 of a comparison: one run directory whose map and signals serve every policy."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ka2l.common import atomic_files
from ka2l.common.progress import Reporter
from ka2l.config.absolute_paths import with_absolute_paths
from ka2l.config.recipes import to_yaml
from ka2l.config.run_config import RunConfig
from ka2l.pipeline.context import Context
from ka2l.pipeline.preflight import check_means
from ka2l.pipeline.run import _do, _load
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.stage_graph import all_stages, verb_of
from ka2l.questions.question import Question

_STAGE_1 = ("load", "sample", "measure", "probe", "map")


class Upstream(RunDirectory):
    """A run whose Stage 1 serves several configurations of the choice; config.yaml stays its own."""

    _own: RunConfig | None = None

    @contextmanager
    def working_with(self, config: RunConfig) -> Iterator[None]:
        """Let stages read another configuration for a while."""
        self._own, self.config = self.config, config
        try:
            yield
        finally:
            self.config, self._own = self._own, None

    def save_config(self) -> None:
        """Write config.yaml: the run's own."""
        atomic_files.write_text(self.path / "config.yaml", to_yaml(self._own or self.config))


def make_upstream(
    config: RunConfig,
    out: Path,
    policies: Sequence[RunConfig],
    reporter: Reporter,
    check: Callable[[Sequence[Question]], None],
) -> Upstream:
    """Stage 1 and the signals that any of these configurations selects by, in one run directory.

    Args:
        config: the run's own; it stays in config.yaml.
        out: the run directory; made, or continued.
        policies: configurations that differ in `select` and `finetune` only.
        reporter: progress.
        check: called with all questions before the model is asked anything; raises what stands against it.
    """
    directory = Upstream.create(out, with_absolute_paths(config))
    with directory.locked():
        context = Context(directory, reporter)
        _load(context, complete=True)
        questions = list(context.questions_by_id().values())
        check(questions)
        # No arm beside the policy's own, whose signals nobody would read.
        alone = [
            with_absolute_paths(
                policy.model_copy(update={"select": policy.select.model_copy(update={"baseline": None})})
            )
            for policy in policies
        ]
        for policy in alone:
            with directory.working_with(policy):
                check_means(context, questions)
        done: set[str] = set()
        for policy in alone:
            with directory.working_with(policy):
                for stage in all_stages(directory.config):
                    if verb_of(stage) in _STAGE_1 and stage not in {"load", *done}:
                        _do(context, stage)
                        done.add(stage)
        context.release()
        directory.save_config()
    return directory
