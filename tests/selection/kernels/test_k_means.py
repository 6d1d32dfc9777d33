"""k-means: it ends where Lloyd's algorithm ends, and no cluster stays empty."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ka2l.selection.kernels.k_means import k_means
from kernel_pools import CASES, Array, pools
from kernel_pools import restored_chunk as restored_chunk  # a fixture of all tests here


@CASES
@given(pools(), st.integers(0, 10**6), st.data(), st.sampled_from(["numpy", "torch"]))
def test_k_means_ends_where_lloyd_ends(points: Array, seed: int, data: st.DataObject, device: str) -> None:
    k = data.draw(st.integers(1, len(points)))
    found = k_means(points, k, np.random.default_rng(seed), iterations=200, device=device)
    assert found.centers.shape == (k, points.shape[1])
    assert found.centers.dtype == np.float32
    assert found.assignment.dtype == np.int32
    to_centers = ((points[:, None].astype(float) - found.centers[None]) ** 2).sum(-1)
    mine = to_centers[np.arange(len(points)), found.assignment]
    assert (mine <= to_centers.min(1) + 1e-3).all()  # every row is with its nearest center
    for j in set(found.assignment.tolist()):  # and every center in the middle of its rows
        np.testing.assert_allclose(
            found.centers[j], points[found.assignment == j].astype(float).mean(0), rtol=1e-4, atol=1e-4
        )
    if len(np.unique(points, axis=0)) >= k:
        assert len(set(found.assignment.tolist())) == k  # none is empty
    again = k_means(points, k, np.random.default_rng(seed), iterations=200, device=device)
    np.testing.assert_array_equal(again.assignment, found.assignment)
    np.testing.assert_array_equal(again.centers, found.centers)


def test_k_means_finds_blobs_and_stops_when_told() -> None:
    rng = np.random.default_rng(0)
    blobs = np.repeat(np.arange(5), 40)
    points = 50 * np.eye(5)[blobs] + rng.normal(size=(200, 5))
    assignment = k_means(points, 5, np.random.default_rng(1)).assignment
    assert len({(a, b) for a, b in zip(assignment.tolist(), blobs.tolist(), strict=True)}) == 5
    noise = rng.normal(size=(200, 5))
    stopped = k_means(noise, 8, np.random.default_rng(1), iterations=1)
    nearest = ((noise[:, None] - stopped.centers[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(stopped.assignment, nearest)  # by the centers that are returned


def test_a_cluster_that_loses_its_rows_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.array([[0.0], [0.0], [0.0], [10.0], [11.0], [20.0], [20.0]])
    # All centers at one place.
    monkeypatch.setattr("ka2l.selection.kernels.k_means.plus_plus_rows", lambda *_: np.array([0, 1, 2]))
    found = k_means(points, 3, np.random.default_rng(0))
    assert sorted(found.centers[:, 0].tolist()) == [0.0, 10.5, 20.0]
