"""k-center: each pick is the farthest row, also with weights, duplicates and picks in advance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.selection.kernels import distance_blocks, k_center
from ka2l.selection.kernels.k_center import k_center_greedy
from ka2l.selection.kernels.seeding import weighted_seeding
from kernel_pools import CASES, Array, devices, is_best, pools, squares
from kernel_pools import restored_chunk as restored_chunk  # a fixture of all tests here


@CASES
@given(pools(), st.data(), st.sampled_from(["numpy", "torch"]), st.sampled_from([(1, 1), (2, 3), (64, 1024)]))
def test_each_pick_of_k_center_is_farthest(
    points: Array, data: st.DataObject, device: str, ahead: tuple[int, int]
) -> None:
    """Whatever number of picks is made in advance."""
    n = len(points)
    labelled = np.array(data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1)), dtype=np.intp)
    k = data.draw(st.integers(0, n - len(labelled)))
    first = data.draw(st.none() | st.integers(0, n - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(k_center, "LOOKAHEAD", ahead)
        rows = k_center_greedy(points, k, first, labelled=labelled, device=device)
    assert rows.dtype == np.intp
    assert len(set(rows.tolist()) | set(labelled.tolist())) == k + len(labelled)
    known, distance = labelled.tolist(), squares(points)
    for row in rows.tolist():
        if known:
            nearest = distance[:, known].min(1)
            nearest[known] = -1
            assert is_best(nearest, row)
        else:
            assert row == (first or 0)
        known.append(row)


@pytest.mark.parametrize("spread", [2, 8, 200])
def test_picks_in_advance_change_nothing(spread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers: all distances are exact, and many are equal."""
    rng = np.random.default_rng(0)
    points = np.repeat(rng.integers(0, 200, size=(30, 16)), 20, axis=0) + rng.integers(0, spread, size=(600, 16))
    exact = points.astype(np.float32)
    many = k_center_greedy(exact, 300, 5)
    calls: list[int] = []
    shrink = distance_blocks.Points.shrink

    def counted(points: distance_blocks.Points, distance: Array, picked: Array) -> None:
        calls.append(len(picked))
        shrink(points, distance, picked)

    monkeypatch.setattr(distance_blocks.Points, "shrink", counted)
    np.testing.assert_array_equal(k_center_greedy(exact, 300, 5), many)
    assert len(calls) < 100  # passes over the rows, for 300 picks
    monkeypatch.setattr(k_center, "LOOKAHEAD", (1, 1))
    np.testing.assert_array_equal(k_center_greedy(exact, 300, 5), many)


@devices
def test_duplicates_far_from_the_origin_have_distance_0(device: str) -> None:
    """|x|² + |c|² − 2x·c of a row with itself is not 0 in float32: a copy would be bought while others are left."""
    rng = np.random.default_rng(0)
    some = (1000 + rng.normal(size=(6, 300))).astype(np.float16)
    some[:, 0] = 30000
    points = np.concatenate([some] * 7)
    rows = k_center_greedy(points, 42, 3, device=device)
    assert sorted((rows[:6] % 6).tolist()) == list(range(6))
    assert rows[6:].tolist() == sorted(rows[6:].tolist())  # nothing left but copies: by row
    seeded = weighted_seeding(points, np.ones(42), 42, rng, device=device)
    assert sorted((seeded[:6] % 6).tolist()) == list(range(6))
    assert sorted(seeded.tolist()) == list(range(42))


def test_near_copies_are_told_apart() -> None:
    """Two tight clusters far apart: inside, distances are a millionth of the norms."""
    rng = np.random.default_rng(0)
    tight = np.concatenate([rng.normal(size=(40, 8)) * 1e-3, rng.normal(size=(40, 8)) * 1e-3 + 5])
    points = tight.astype(np.float32)
    distance, known = squares(points), [0]
    for row in k_center_greedy(points, 60, 0)[1:].tolist():
        nearest = distance[:, known].min(1)
        nearest[known] = -1
        assert nearest[row] >= nearest.max() * (1 - 1e-3)
        known.append(row)


def test_half_precision_distances_do_not_overflow() -> None:
    """float16 ends at 65504; squared distances of real states go far beyond."""
    points = np.array([[0.0, 0.0], [300.0, 0.0], [600.0, 0.0], [30000.0, 0.0]], dtype=np.float16)
    assert k_center_greedy(points, 4, 0).tolist() == [0, 3, 2, 1]
    assert sorted(weighted_seeding(points, np.ones(4), 4, np.random.default_rng(0)).tolist()) == [0, 1, 2, 3]


@given(
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(0, 2**16),
    st.sampled_from(["numpy", "torch"]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_weighted_k_center_is_brute_force(n: int, width: int, seed: int, device: str, coarse: bool) -> None:
    """Distance · weight decides; at 0 (duplicates, or no weight) the heaviest; ties go to the lower row."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, (n, width)).astype(np.float32) if coarse else rng.normal(size=(n, width)).astype(np.float32)
    weights = rng.integers(0, 3, n).astype(np.float32)
    k, first = int(rng.integers(1, n + 1)), int(rng.integers(n))
    picked = [first]
    while len(picked) < k:
        distance = np.min([np.linalg.norm(x - x[row], axis=1) for row in picked], axis=0)
        free = [row for row in range(n) if row not in picked]
        picked.append(
            max(
                free,
                key=lambda row: (
                    round(float(distance[row] * weights[row]), 6),
                    weights[row] if distance[row] * weights[row] == 0 else 0.0,
                    -row,
                ),
            )
        )
    found = k_center_greedy(x, k, first, weights=weights, device=device)
    assert found.tolist() == picked
