"""Train, validation and test rows, by question group, so that two wordings of one fact never face each other."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FOLDS = 5

TRAIN, VALIDATION, TEST = "train", "validation", "test"


def assign_split(groups: Sequence[str], shares: Sequence[float], seed: int) -> list[str]:
    """The split of each row: groups in the order of a seeded hash, cut where the shares of rows are reached.

    Depends on the set of groups and the seed only, never on the order of the rows.
    """
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"split:{seed}:{group}".encode()).hexdigest())
    limits = (shares[0] * len(groups), (shares[0] + shares[1]) * len(groups))
    placed: dict[str, str] = {}
    taken = 0
    for group in order:
        middle = taken + sizes[group] / 2  # a group goes where its middle falls
        placed[group] = TRAIN if middle < limits[0] else VALIDATION if middle < limits[1] else TEST
        taken += sizes[group]
    return [placed[group] for group in groups]


def assign_folds(groups: Sequence[str], seed: int) -> NDArray[np.intp]:
    """The fold of each row, 0 … at most 4: groups in the order of a seeded hash, each to the fold with the fewest rows.

    Depends on the set of groups and the seed only, never on the order of the rows. No fold that is named is empty;
    with fewer than five groups there are fewer folds.
    """
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"fold:{seed}:{group}".encode()).hexdigest())
    rows = [0] * FOLDS
    placed: dict[str, int] = {}
    for group in order:
        placed[group] = rows.index(min(rows))
        rows[placed[group]] += sizes[group]
    return np.array([placed[group] for group in groups], dtype=np.intp)
