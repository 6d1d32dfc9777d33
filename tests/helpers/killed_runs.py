"""Runs the pipeline in child processes that are killed at given places, one after the other, on some run directories.

    python tests/helpers/killed_runs.py RECIPE.yaml \
        '{"OUT": ["after:states/part-00000.safetensors", "step:sample:5", "time:0.5", ""]}'

A place is `before:FILE` (written but not yet renamed), `after:FILE`, `step:STAGE:N` (the Nth time the stage's progress
advances in that child), `time:SECONDS`, or empty: the child is not killed. Prints one exit status per child, by
directory.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import forked
from ka2l.common import atomic_files
from ka2l.common.progress import Reporter
from ka2l.config.recipes import load_config
from ka2l.pipeline.run import run


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_around_writing(moment: str, name: str) -> None:
    """Replace atomic_files.atomic by one that kills the process before or after this file takes its place."""
    whole = atomic_files.atomic

    @contextmanager
    def atomic(path: Path) -> Iterator[Path]:
        hit = str(path).endswith(name)
        with whole(path) as temporary:
            yield temporary
            if hit and moment == "before":
                die()
        if hit:
            die()

    atomic_files.atomic = atomic


class Killer(Reporter):
    """A reporter whose bar kills the process at the Nth advance of one stage."""

    def __init__(self, stage: str, steps: int):
        super().__init__(quiet=True)
        self.stage, self.left = stage, steps

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        def advance(_count: int) -> None:
            self.left -= title == self.stage
            if self.left == 0:
                die()

        yield advance


def run_until(source: Path, out: Path, place: str) -> None:
    kind, _, rest = place.partition(":")
    reporter = Reporter(quiet=True)
    if kind in ("before", "after"):
        die_around_writing(kind, rest)
    elif kind == "step":
        stage, _, steps = rest.rpartition(":")
        reporter = Killer(stage, int(steps))
    run(load_config(source), out, reporter)


def attempt(source: Path, out: Path, place: str) -> int:
    """Run in a child; the negative number of the signal that ended it, or its exit code."""
    pid = forked.start(partial(run_until, source, out, place))
    if place.startswith("time:"):
        time.sleep(float(place.partition(":")[2]))
        # a child that has ended keeps its process id until the next line
        os.kill(pid, signal.SIGKILL)
    return forked.exit_status(pid)


if __name__ == "__main__":
    forked.import_libraries()
    recipe, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
    print(json.dumps({out: [attempt(recipe, Path(out), place) for place in plan[out]] for out in plan}))
