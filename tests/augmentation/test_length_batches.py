"""Batches of a decoder's training: every row once an epoch, full, and with little padding."""

from hypothesis import given
from hypothesis import strategies as st

from ka2l.augmentation.length_batches import batches, count_steps

LENGTHS = st.lists(st.integers(1, 40), max_size=300)


@given(LENGTHS, st.integers(1, 100), st.integers(0, 2**31 - 1), st.integers(0, 5))
def test_every_row_is_learned_once_an_epoch_and_no_batch_is_too_large(
    lengths: list[int], most: int, seed: int, epoch: int
) -> None:
    made = batches(lengths, most, seed, epoch)
    assert sorted(row for rows in made for row in rows) == list(range(len(lengths)))
    for rows in made:
        assert rows
        assert sum(lengths[row] for row in rows) <= most or len(rows) == 1
    assert made == batches(lengths, most, seed, epoch)


@given(LENGTHS, st.integers(1, 100), st.integers(0, 100), st.integers(1, 4))
def test_steps_are_counted_as_they_will_be(lengths: list[int], most: int, seed: int, epochs: int) -> None:
    assert count_steps(lengths, most, seed, epochs) == sum(
        len(batches(lengths, most, seed, epoch)) for epoch in range(epochs)
    )


def spread(n: int) -> list[int]:
    return [6 + (7 * i) % 19 for i in range(n)]  # 6 to 24 tokens, evenly


def test_batches_are_nearly_full_and_hardly_padded() -> None:
    lengths = spread(5000)
    made = batches(lengths, 256, seed=3, epoch=0)
    assert len(made) <= 1.06 * sum(lengths) / 256
    padded = sum(len(rows) * max(lengths[row] for row in rows) for rows in made)
    assert padded <= 1.05 * sum(lengths)  # in the order they come it would be 1.5


def test_the_order_is_another_one_for_each_epoch_and_seed() -> None:
    lengths = spread(500)
    orders = [batches(lengths, 256, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert all(one != other for i, one in enumerate(orders) for other in orders[:i])
    partners = [{frozenset(rows) for rows in order} for order in orders]
    assert len(partners[0] & partners[1]) <= 2  # nor are the same rows together again
    longest = [max(lengths[row] for row in rows) for rows in orders[0]]
    assert longest != sorted(longest)  # short and long batches take turns
