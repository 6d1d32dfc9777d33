"""Reading the signals of the pool for query strategies: memory-mapped arrays with their ids."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ka2l.common import atomic_files
from ka2l.errors import RunError
from ka2l.pipeline.context import Context
from ka2l.selection.signals import Signals

# The sorted ids of the pool; the rows of every signal are in this order.
POOL_IDS = "pool_signals/ids.parquet"
# The signals that one forward pass gives.
NEXT_TOKEN = ("next_token_entropy", "top_probability", "margin")


def signal_file(name: str) -> str:
    """The path of the array of a pool signal in a run."""
    return f"pool_signals/{name}.npy"


def pool_signals(context: Context, names: Iterable[str]) -> Signals:
    """These signals of the whole pool, rows sorted by id. The arrays are memory maps, read when they are used.

    Raises:
        RunError: the map has other questions than the ids, or no stage computes a signal (class_probabilities).
    """
    run = context.run
    ids = np.asarray(atomic_files.read_table(run.file(POOL_IDS))["question_id"].to_pylist(), dtype=str)
    arrays: dict[str, NDArray[np.generic]] = {}
    for name in names:
        if name == "p_unknown":
            arrays[name] = _p_unknown(context, ids)
        elif run.file(signal_file(name)).exists():
            arrays[name] = atomic_files.read_array(run.file(signal_file(name)))
        else:
            raise RunError(f"{run.path}: the signal {name} is not there ({signal_file(name)}). Run `ka2l map`.")
    # Every array has a float type.
    return Signals(ids, **arrays)  # type: ignore[arg-type]


def _p_unknown(context: Context, ids: NDArray[np.str_]) -> NDArray[np.float32]:
    table = atomic_files.read_table(context.run.file("knowledge_map.parquet"), ["question_id", "p_unknown"])
    mapped = np.asarray(table["question_id"].to_pylist(), dtype=str)
    order = np.argsort(mapped, kind="stable")
    if not np.array_equal(mapped[order], ids):
        raise RunError(
            f"{context.run.path}: knowledge_map.parquet and {POOL_IDS} hold different questions. Delete one of them "
            "and run `ka2l map` to make it again."
        )
    values: NDArray[np.float32] = table["p_unknown"].to_numpy()[order]
    return values
