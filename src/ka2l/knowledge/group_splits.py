"""Train, validation and test rows, and folds, by question group: wordings of one fact never lie on two sides."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FOLDS = 5

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def assign_split(groups: Sequence[str], shares: Sequence[float], seed: int) -> list[str]:
    """The split of each row: whole groups in a seeded order, cut where the shares of rows are reached.

    Depends on the set of groups and the seed only, not on the order of the rows.

    Args:
        groups: one group name per row.
        shares: of training, validation and test rows.
        seed: of the order.
    """
    limits = (shares[0] * len(groups), (shares[0] + shares[1]) * len(groups))
    split_of: dict[str, str] = {}
    taken = 0
    for group, size in _seeded_order(groups, "split", seed).items():
        # A group belongs where its middle lies.
        middle = taken + size / 2
        split_of[group] = TRAIN if middle < limits[0] else VALIDATION if middle < limits[1] else TEST
        taken += size
    return [split_of[group] for group in groups]


def assign_folds(groups: Sequence[str], seed: int) -> NDArray[np.intp]:
    """The fold of each row, 0 … at most 4: whole groups in a seeded order, each to the fold with the fewest rows.

    Depends on the groups as `assign_split` does. No fold is empty: with fewer than five groups there are fewer folds.
    """
    rows = [0] * FOLDS
    fold_of: dict[str, int] = {}
    for group, size in _seeded_order(groups, "fold", seed).items():
        fold_of[group] = rows.index(min(rows))
        rows[fold_of[group]] += size
    return np.array([fold_of[group] for group in groups], dtype=np.intp)


def _seeded_order(groups: Sequence[str], purpose: str, seed: int) -> dict[str, int]:
    """The number of rows of each group, in the order of a hash of purpose, seed and group name."""
    sizes = Counter(groups)
    digest = {group: hashlib.sha256(f"{purpose}:{seed}:{group}".encode()).hexdigest() for group in sizes}
    return {group: sizes[group] for group in sorted(sizes, key=digest.__getitem__)}
