"""Coverage: typicality, greedy picks and the radius of a purity."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ka2l.selection.kernels.coverage import coverage_radius, max_coverage, nearest_distances
from kernel_pools import CASES, Array, devices, pools, squares
from kernel_pools import restored_chunk as restored_chunk  # a fixture of all tests here


@CASES
@given(pools(), st.integers(1, 30), st.sampled_from(["numpy", "torch"]))
def test_mean_distance_to_the_nearest(points: Array, neighbours: int, device: str) -> None:
    distance = np.sqrt(squares(points))
    np.fill_diagonal(distance, np.inf)
    count = min(neighbours, len(points) - 1)
    expected = np.sort(distance, axis=1)[:, :count].mean(1) if count else np.zeros(len(points))
    found = nearest_distances(points, neighbours, device=device)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def coverage_is_greedy(points: Array, rows: Array, radius: float, labelled: list[int]) -> None:
    """Checks each pick; squared distances within rounding of the radius do not occur in the cases below."""
    near = squares(points) <= np.float32(radius) ** 2
    used, n = set(labelled), len(points)
    uncovered = {i for i in range(n) if not near[i, labelled].any()} - used
    for row in rows.tolist():
        if not uncovered:
            uncovered = set(range(n)) - used
        gains = [-1 if i in used else sum(near[i, j] for j in uncovered) for i in range(n)]
        assert row == int(np.argmax(gains))
        used.add(row)
        uncovered -= {j for j in range(n) if near[row, j]} | {row}


@CASES
@given(pools(), st.sampled_from([0.0, 0.5, 1.0, 1.3, 2.1, 300.0]), st.data(), st.sampled_from(["numpy", "torch"]))
def test_each_pick_of_max_coverage_is_greedy(points: Array, radius: float, data: st.DataObject, device: str) -> None:
    n = len(points)
    labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    k = data.draw(st.integers(0, n - len(labelled)))
    rows = max_coverage(points, k, radius, labelled=np.array(labelled, dtype=np.intp), device=device)
    assert len(rows) == k
    coverage_is_greedy(points, rows, radius, labelled)


@devices
def test_balls_hold_copies_even_at_radius_0(device: str) -> None:
    points = np.random.default_rng(0).normal(size=(9, 300))[[0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 5, 3]]
    rows = max_coverage(points, 12, 0.0, device=device)
    assert rows.tolist() == [5, 3, 0, 1, 2, 4, 6, 7, 8, 9, 11, 10]  # then of the copies


def test_probcover_leaves_the_blob() -> None:
    """SPEC item 12: a peer stayed in one blob. Both are covered, and the next round goes through both again."""
    rng = np.random.default_rng(0)
    points = np.concatenate([0.1 * rng.normal(size=(190, 2)), 0.1 * rng.normal(size=(10, 2)) + 50])
    rows = max_coverage(points, 8, 2.0)
    assert (rows >= 190).tolist() == [False, True] * 4


@CASES
@given(pools(2), st.integers(1, 4), st.sampled_from([0.5, 0.9, 0.95, 1.0]), st.integers(0, 99))
def test_coverage_radius_is_the_largest_of_that_purity(points: Array, clusters: int, purity: float, seed: int) -> None:
    assignment = np.random.default_rng(seed).integers(0, clusters, len(points)).astype(np.int32)
    distance = np.sqrt(squares(points))
    other = assignment[:, None] != assignment[None]
    for device in ("numpy", "torch"):
        radius = coverage_radius(points, assignment, purity=purity, device=device)
        if not other.any():
            assert radius == np.inf
            continue
        if not np.isinf(radius):
            larger = ((distance <= radius * (1 + 1e-4) + 1e-6) & other).any(1)
            assert 1 - larger.mean() < purity
        if radius > 0:
            assert 1 - ((distance <= radius) & other).any(1).mean() >= purity - 1e-9
