"""Progress of a run for people: bars with the time left on a terminal, one line per stage elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


class Reporter:
    """Prints to standard error, because standard output is for results."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet

    def say(self, text: str) -> None:
        """One line, unless quiet."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Show a progress bar for `total` items, `done` of them finished before; yields a function that advances it."""
        if not self._terminal or total == 0:
            yield lambda _count: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(title, total=total, completed=done)
            yield lambda count: progress.advance(task, count)


def by_step(advance: Advance) -> Callable[[int, int], None]:
    """A callback that advances a bar to the number of the current step; a continued training does not begin at step
    1.
    """
    last = 0

    def on_step(step: int, _steps: int) -> None:
        nonlocal last
        advance(step - last)
        last = step

    return on_step
