"""Several forward passes in parallel on a CPU, each with a few threads.

If all threads compute one pass, they synchronise at the end of every small operation, thousands of times a second; on a
shared machine they mostly wait for each other. Passes over different questions need no synchronisation.
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
# Each worker reads all weights, so more than a few would only wait for memory.
_MOST = 4
_END = object()


def workers_for(device: torch.device, items: int) -> int:
    """Number of passes to run in parallel for this many items; 1 on a GPU."""
    if device.type != "cpu":
        return 1
    return max(1, min(_MOST, torch.get_num_threads(), items // 4))


def together(jobs: Sequence[Generator[T | None, None, None]]) -> Iterator[T]:
    """Yield the results of all jobs as they come; each job runs in a thread of its own, a single job in the caller's.

    A job yields None if it has no result yet, so that it can be stopped there. The first error stops all jobs and is
    raised here; unfinished jobs are closed.
    """
    if len(jobs) == 1:
        yield from (result for result in jobs[0] if result is not None)
        return
    results: SimpleQueue[Any] = SimpleQueue()
    stop = threading.Event()
    with _divided_threads(len(jobs)):
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
    """A `map` whose calls run in this many threads; results are in the order of the items.

    Unlike in `together`, gradients can be computed. With one worker everything runs in the caller's thread.
    """
    if workers == 1:
        yield lambda work, items: [work(item) for item in items]
        return
    with _divided_threads(workers), ThreadPoolExecutor(workers) as threads:
        yield lambda work, items: list(threads.map(work, items))


def in_groups(
    parts: Sequence[Sequence[int]],
    work: Callable[[list[int]], T],
    budget: Budget,
    rows_each: int = 1,
    workers: int = 1,
) -> Iterator[tuple[list[int], T]]:
    """Process prompts of similar length together, as many as the budget allows; fewer if memory runs out.

    Args:
        parts: the prompts' tokens.
        work: takes places in `parts` and returns the result for them.
        budget: of all workers together.
        rows_each: rows of the batch for one prompt.
        workers: number of groups to process in parallel.

    Yields:
        places in `parts`, and the result for them.
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
                result = work(order[:size])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # Without the traceback, whose frames refer to the tensors that must be freed.
                share.halve(error.with_traceback(None))
                continue
            yield order[:size], result
            order = order[size:]

    yield from together([job(order[i::workers]) for i in range(workers)])


class _Failure:
    """An error of a job, on its way to the caller's thread."""

    def __init__(self, error: BaseException):
        self.error = error


def _work(job: Generator[Any, None, None], results: "SimpleQueue[Any]", stop: threading.Event) -> None:
    """Run a job in this thread and put its results, or its error, into the queue."""
    try:
        # Inference mode is set per thread.
        with torch.inference_mode():
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
def _divided_threads(jobs: int) -> Iterator[None]:
    """Divide PyTorch's threads among the jobs inside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // jobs))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
