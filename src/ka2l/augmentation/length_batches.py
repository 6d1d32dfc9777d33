"""Batches of questions for the decoder's training: every question once an epoch, about equal work, little padding.

The order depends on the seed and the epoch only, so that a training that was interrupted continues with the same
batches.
"""

from collections.abc import Sequence

import numpy as np

# Batches whose rows are sorted by length together: with more there is less padding, and the batches are less random.
_WINDOW = 32


def batches(lengths: Sequence[int], batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch.

    Args:
        lengths: [rows], tokens of each target.
        batch_tokens: most tokens of a batch; a longer row is a batch of its own.
        seed: not negative.
        epoch: from 0; each has a different order.

    Returns:
        rows of each batch, sorted by length; every row is in exactly one batch.
    """
    if not lengths:
        return []
    rng = np.random.default_rng([seed, epoch])
    sizes = np.asarray(lengths)
    order = rng.permutation(len(sizes))
    window = max(1, round(_WINDOW * batch_tokens / float(sizes.mean())))
    in_order: list[list[int]] = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(sizes[rows], kind="stable")]
        in_order += _filled(rows.tolist(), sizes[rows].tolist(), batch_tokens)
    return [in_order[i] for i in rng.permutation(len(in_order))]


def count_steps(lengths: Sequence[int], batch_tokens: int, seed: int, epochs: int) -> int:
    """Number of batches of all epochs together."""
    return sum(len(batches(lengths, batch_tokens, seed, epoch)) for epoch in range(epochs))


def _filled(rows: list[int], sizes: list[int], most: int) -> list[list[int]]:
    """Rows in their order, with a new batch wherever the next row would exceed `most` tokens."""
    filled: list[list[int]] = []
    tokens = 0
    for row, size in zip(rows, sizes, strict=True):
        if not filled or tokens + size > most:
            filled.append([])
            tokens = 0
        filled[-1].append(row)
        tokens += size
    return filled
