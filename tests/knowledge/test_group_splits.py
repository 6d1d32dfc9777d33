"""The split of probe questions: disjoint by group, near its shares, and blind to the order of the rows."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ka2l.knowledge.group_splits import TEST, TRAIN, VALIDATION, assign_split

SHARES = (0.7, 0.2, 0.1)
GROUPS = st.lists(st.integers(0, 30).map(str), min_size=1, max_size=100)


@given(GROUPS, st.integers(0, 5))
def test_a_group_stands_on_one_side(groups: list[str], seed: int) -> None:
    split = assign_split(groups, SHARES, seed)
    assert len(split) == len(groups)
    assert set(split) <= {TRAIN, VALIDATION, TEST}
    assert len(set(zip(groups, split, strict=True))) == len(set(groups))


@given(GROUPS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_decides_nothing(groups: list[str], seed: int, random: Random) -> None:
    placed = dict(zip(groups, assign_split(groups, SHARES, seed), strict=True))
    shuffled = groups.copy()
    random.shuffle(shuffled)
    assert dict(zip(shuffled, assign_split(shuffled, SHARES, seed), strict=True)) == placed


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (0.72, 0.18, 0.1), (0.5, 0.25, 0.25)])
@pytest.mark.parametrize("n", [10, 100, 1001])
def test_shares_of_single_rows_are_met(n: int, shares: tuple[float, float, float]) -> None:
    counts = Counter(assign_split([f"g{i}" for i in range(n)], shares, 0))
    for name, share in zip((TRAIN, VALIDATION, TEST), shares, strict=True):
        assert abs(counts[name] - share * n) <= 1


@given(GROUPS, st.integers(0, 5))
def test_shares_are_met_up_to_the_largest_group(groups: list[str], seed: int) -> None:
    counts = Counter(assign_split(groups, SHARES, seed))
    largest = max(Counter(groups).values())
    assert abs(counts[TRAIN] - 0.7 * len(groups)) <= largest / 2 + 1e-9
    assert abs(counts[TRAIN] + counts[VALIDATION] - 0.9 * len(groups)) <= largest / 2 + 1e-9


def test_seeds_give_other_splits() -> None:
    groups = [f"g{i}" for i in range(50)]
    assert assign_split(groups, SHARES, 0) == assign_split(groups, SHARES, 0)
    assert assign_split(groups, SHARES, 0) != assign_split(groups, SHARES, 1)


def test_no_rows() -> None:
    assert assign_split([], SHARES, 0) == []
