"""Chunks of layers trained in parallel: one Python thread per processor core, each with one torch thread.

Threads inside one small matrix product would synchronise thousands of times a second and mostly wait; chunks are
independent.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

T = TypeVar("T")
# Work for this many cores. It does not depend on the machine, so that the number of cores changes no result.
_LEAST_CHUNKS = 8


def side_by_side(work: Callable[[range], T], chunks: Sequence[range]) -> Iterator[T]:
    """The result of `work` for each chunk, in order; `work` must not depend on the number of threads."""
    threads = min(torch.get_num_threads(), len(chunks))
    with _one_thread_each():
        if threads < 2:
            yield from map(work, chunks)
            return
        with ThreadPoolExecutor(threads) as pool:
            try:
                yield from pool.map(work, chunks)
            finally:
                # After an error, or if the caller stops iterating, waiting chunks are not started.
                pool.shutdown(cancel_futures=True)


def chunks_of(layers: int, size: int) -> list[range]:
    """Layers 0 … layers − 1 in chunks of at most `size` (at least 1); at least eight chunks if there are eight
    layers.
    """
    size = max(1, min(size, layers // _LEAST_CHUNKS))
    return [range(start, min(start + size, layers)) for start in range(0, layers, size)]


def scaled_inputs(
    states: NDArray[np.floating],
    layers: range,
    rows: NDArray[np.intp],
    scaling: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> torch.Tensor:
    """The input of a chunk: (states − mean) / scale of these rows, float32 [layers, rows, width]."""
    scaled = np.empty((len(layers), len(rows), states.shape[2]), dtype=np.float32)
    for into, layer, (mean, scale) in zip(scaled, layers, scaling, strict=True):
        np.subtract(states[rows, layer], mean, out=into)
        into /= scale
    return torch.from_numpy(scaled)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
