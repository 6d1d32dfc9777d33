"""Folds: whole groups, about equally large, whatever the order of the rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ka2l.knowledge.folds import FOLDS, assign_folds

GROUPS = st.lists(st.sampled_from([f"fact {number}" for number in range(30)]), min_size=1, max_size=80)


@given(GROUPS, st.integers(0, 1000))
def test_a_group_lies_in_one_fold_and_no_fold_is_empty(groups: list[str], seed: int) -> None:
    folds = assign_folds(groups, seed)
    assert len({(group, int(fold)) for group, fold in zip(groups, folds, strict=True)}) == len(set(groups))
    assert set(folds.tolist()) == set(range(min(FOLDS, len(set(groups)))))


@given(GROUPS, st.integers(0, 1000))
def test_the_order_of_the_rows_says_nothing(groups: list[str], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(groups))
    shuffled = assign_folds([groups[row] for row in order], seed)
    np.testing.assert_array_equal(shuffled, assign_folds(groups, seed)[order])


@given(GROUPS, st.integers(0, 1000))
def test_folds_differ_by_no_more_rows_than_the_largest_group_has(groups: list[str], seed: int) -> None:
    rows = np.bincount(assign_folds(groups, seed), minlength=FOLDS)
    assert rows.max() - rows.min() <= max(map(groups.count, groups))


def test_another_seed_is_another_draw() -> None:
    groups = [f"fact {number}" for number in range(40)]
    assert (assign_folds(groups, 1) != assign_folds(groups, 2)).any()
