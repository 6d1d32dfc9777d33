"""Several passes side by side on a CPU, each with few threads of its own.

With all threads on one pass, they meet at the end of every small operation, thousands of times a second; on a shared
machine most of their time is waiting for each other. Passes over different questions need never meet.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from ka2l.models.local.memory_budget import Budget, is_out_of_memory

T = TypeVar("T")
_MOST = 4  # each worker reads all weights; more than a few would wait for memory
_END = object()


def workers_for(device: torch.device, items: int) -> int:
    """How many passes to run side by side for this many items."""
    if device.type != "cpu":
        return 1
    return max(1, min(_MOST, torch.get_num_threads(), items // 4))


def together(jobs: Sequence[Generator[T | None, None, None]]) -> Iterator[T]:
    """What the jobs yield, as it comes; each job runs in a thread of its own, or in this one if it is the only one.

    A job yields None where it has nothing to say yet, so that it can be ended there. The first error ends all of them
    and is raised here; jobs left unfinished are closed.
    """
    if len(jobs) == 1:
        yield from (result for result in jobs[0] if result is not None)
        return
    results: SimpleQueue[Any] = SimpleQueue()
    stop = threading.Event()
    with _shared_out(len(jobs)):
        threads = [threading.Thread(target=_work, args=(job, results, stop), daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        try:
            running = len(threads)
            while running:
                result = results.get()
                if result is _END:
                    running -= 1
                elif isinstance(result, _Failure):
                    raise result.error
                else:
                    yield result
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@contextmanager
def side_by_side(workers: int) -> Iterator[Callable[[Callable[[Any], T], Sequence[Any]], list[T]]]:
    """A `map` for a while, whose calls run in so many threads; results in the order of the items.

    Unlike in `together`, gradients can be taken in them. With one worker all runs in the caller's thread.
    """
    if workers == 1:
        yield lambda work, items: [work(item) for item in items]
        return
    with _shared_out(workers), ThreadPoolExecutor(workers) as threads:
        yield lambda work, items: list(threads.map(work, items))


def in_groups(
    parts: Sequence[Sequence[int]],
    work: Callable[[list[int]], T],
    budget: Budget,
    rows_each: int = 1,
    workers: int = 1,
) -> Iterator[tuple[list[int], T]]:
    """Work on prompts of similar length, as many at once as the budget allows; fewer where memory runs out.

    Args:
        parts: the prompts' tokens.
        work: takes places in `parts`.
        budget: of all workers together.
        rows_each: rows a prompt turns into.
        workers: how many groups to work on side by side.

    Yields:
        places and what came of them.
    """
    order = sorted(range(len(parts)), key=lambda i: (len(parts[i]), i))
    share = budget.share(workers)

    def job(order: list[int]) -> Generator[tuple[list[int], T], None, None]:
        while order:
            size = 1
            while (
                size < len(order)
                and (size + 1) * len(parts[order[size]]) <= share.tokens
                and (size + 1) * rows_each <= share.rows
            ):
                size += 1
            try:
                found = work(order[:size])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                share.halve(error.with_traceback(None))  # its frames hold what must be freed
                continue
            yield order[:size], found
            order = order[size:]

    yield from together([job(order[i::workers]) for i in range(workers)])


class _Failure:
    def __init__(self, error: BaseException):
        self.error = error


def _work(job: Generator[Any, None, None], results: "SimpleQueue[Any]", stop: threading.Event) -> None:
    try:
        with torch.inference_mode():  # of this thread
            for result in job:
                if stop.is_set():
                    break
                if result is not None:
                    results.put(result)
            job.close()
    except BaseException as error:
        results.put(_Failure(error))
    finally:
        results.put(_END)


@contextmanager
def _shared_out(jobs: int) -> Iterator[None]:
    """Give each job its share of the processor's threads for a while."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // jobs))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
