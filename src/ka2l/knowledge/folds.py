"""Folds of cross-validation, by question group, so that two wordings of one fact never face each other."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FOLDS = 5


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
