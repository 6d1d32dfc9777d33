"""Directions of embeddings, and near-copies that are passed over."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ka2l.selection.near_copies import Directions, NearCopyFilter
from ka2l.selection.options import Options
from ka2l.selection.select import select
from ka2l.selection.signals import Signals
from selection_pools import cosines


def suppressed_by_hand(
    similar: NDArray[np.float64], ranked: list[int], k: int, limit: float, start: list[int]
) -> list[int]:
    taken = list(start)
    out: list[int] = []
    for row in ranked:
        if len(out) < k and all(similar[row, other] <= limit for other in taken):
            taken.append(row)
            out.append(row)
    return out + [row for row in ranked if row not in out][: k - len(out)]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**6), st.sampled_from([-0.5, 0.1, 0.6, 0.95]), st.data())
def test_near_copies_are_passed_over_as_by_hand(n: int, seed: int, limit: float, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, 3)) + 100).astype(np.float32)
    similar = cosines(x)
    off_limit = np.abs(similar - limit).min() > 1e-4  # rounding may decide otherwise at the limit itself
    p = rng.permutation(n).astype(np.float32) / n
    ids = np.array([f"{i:03d}" for i in range(n)])
    k = data.draw(st.integers(1, n - 1))
    labelled = data.draw(st.lists(st.integers(0, n - 1), max_size=n - k, unique=True))
    bought = select(
        "known",
        Signals(ids, p, x),
        k,
        0,
        Options(near_copy=limit),
        [ids[i] for i in labelled],
    )
    ranked = [int(i) for i in np.argsort(p) if i not in labelled]
    if off_limit:
        assert [int(i) for i in bought.ids] == suppressed_by_hand(similar, ranked, k, limit, labelled)


def test_near_copies_over_more_rows_than_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from ka2l.selection import near_copies

    x = np.random.default_rng(0).normal(size=(53, 3)).astype(np.float32)
    ranked = np.random.default_rng(1).permutation(53)
    expected = NearCopyFilter(Directions(x), 0.8, ranked[:7]).take(ranked[7:], 20)
    assert len(expected) > 5
    monkeypatch.setattr(near_copies, "_BLOCK", 4)
    monkeypatch.setattr(near_copies, "_CHUNK", 10)
    np.testing.assert_array_equal(NearCopyFilter(Directions(x), 0.8, ranked[:7]).take(ranked[7:], 20), expected)
    # In several calls as in one.
    spread = NearCopyFilter(Directions(x), 0.8, ranked[:7])
    parts = [spread.take(ranked[7:20], 20), spread.take(ranked[20:], 20)]
    np.testing.assert_array_equal(np.concatenate(parts)[: len(expected)], expected)


def test_states_are_compared_without_their_common_mean() -> None:
    """Raw cosines of last-prompt-token states are all near 1: everything would be a near-copy of everything."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(40, 8)) + 50).astype(np.float16)
    raw = x.astype(float) @ x.T.astype(float) / np.outer(*[np.linalg.norm(x.astype(float), axis=1)] * 2)
    assert raw.min() > 0.99
    x[39] = x[0]  # one real copy
    signals = Signals(np.array([f"{i:02d}" for i in range(40)]), np.linspace(1, 0.6, 40).astype(np.float32), x)
    bought = select("unknown", signals, 39, 0, Options(near_copy=0.99)).ids
    assert bought == [f"{i:02d}" for i in range(39)]
    signals = replace(signals, p_unknown=np.linspace(0.6, 1, 40).astype(np.float32))
    bought = select("unknown", signals, 40, 0, Options(near_copy=0.99)).ids
    assert bought == [
        *(f"{i:02d}" for i in range(39, 0, -1)),
        "00",
    ]  # it comes back when nothing else is left


def test_directions_by_hand() -> None:
    x = np.array([[11.0, 20.0], [9.0, 20.0], [10.0, 24.0], [10.0, 16.0], [10.0, 20.0]], dtype=np.float16)
    directions = Directions(x)
    expected = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(directions.matrix(), expected)
    assert directions.matrix().dtype == np.float16
    np.testing.assert_allclose(directions.of(np.array([3, 0])), expected[[3, 0]])
    np.testing.assert_allclose(directions.matrix(np.array([3, 0])), expected[[3, 0]])
