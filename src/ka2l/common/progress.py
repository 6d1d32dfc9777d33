"""What a person sees while a run works: progress bars with time left on a terminal, one line a stage elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


class Reporter:
    """Prints to standard error; standard output belongs to results."""

    def __init__(self, *, quiet: bool = False):
        self.quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet

    def say(self, text: str) -> None:
        """One line, unless quiet."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """A progress bar for `total` items of which `done` were done before; yields a function to advance it."""
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
    """Advance a bar by the number of the step that is reached; the first one of a continued training is not step 1."""
    last = 0

    def on_step(step: int, _steps: int) -> None:
        nonlocal last
        advance(step - last)
        last = step

    return on_step


def duration(seconds: float) -> str:
    """`2 min 13 s`, `48 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
