"""Which questions are learned together: every one once an epoch, in batches of about equal work and little padding.

The order depends on the seed and the epoch only, so that training which was interrupted goes on with the same batches.
"""

from collections.abc import Sequence

import numpy as np

_WINDOW = 32  # batches among whose rows similar lengths are looked for; more would pad less, and mix less


def batches(lengths: Sequence[int], batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch.

    Args:
        lengths: [rows], tokens of each target.
        batch_tokens: most tokens of a batch; a longer row is a batch of its own.
        seed: not negative.
        epoch: from 0; each has another order.

    Returns:
        rows of each batch, by length; every row stands in exactly one.
    """
    if not lengths:
        return []
    rng = np.random.default_rng([seed, epoch])
    sizes = np.asarray(lengths)
    order = rng.permutation(len(sizes))
    window = max(1, round(_WINDOW * batch_tokens / float(sizes.mean())))
    found: list[list[int]] = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(sizes[rows], kind="stable")]
        found += _filled(rows.tolist(), sizes[rows].tolist(), batch_tokens)
    return [found[i] for i in rng.permutation(len(found))]


def count_steps(lengths: Sequence[int], batch_tokens: int, seed: int, epochs: int) -> int:
    """How many batches all epochs have together."""
    return sum(len(batches(lengths, batch_tokens, seed, epoch)) for epoch in range(epochs))


def _filled(rows: list[int], sizes: list[int], most: int) -> list[list[int]]:
    """Rows in their order, a new batch where the next one would be too much."""
    found: list[list[int]] = []
    tokens = 0
    for row, size in zip(rows, sizes, strict=True):
        if not found or tokens + size > most:
            found.append([])
            tokens = 0
        found[-1].append(row)
        tokens += size
    return found
