"""Facility location: each pick adds most."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ka2l.selection.kernels.facility_location import facility_location
from kernel_pools import CASES, Array, pools
from kernel_pools import restored_chunk as restored_chunk  # a fixture of all tests here


@CASES
@given(pools(), st.data(), st.sampled_from(["numpy", "torch"]), st.booleans())
def test_each_pick_of_facility_location_adds_most(
    points: Array, data: st.DataObject, device: str, weighted: bool
) -> None:
    n = len(points)
    labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    k = data.draw(st.integers(0, n - len(labelled)))
    weights = np.random.default_rng(n).random(n) if weighted else None
    rows = facility_location(points, k, weights=weights, labelled=np.array(labelled, dtype=np.intp), device=device)
    assert len(set(rows.tolist()) | set(labelled)) == k + len(labelled)
    exact = points.astype(np.float32).astype(float)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    unit = exact / np.where(length > 0, length, 1)
    similarity = np.maximum(unit @ unit.T, 0)
    used = list(labelled)
    for row in rows.tolist():
        best = similarity[:, used].max(1) if used else np.zeros(n)
        gains = (np.ones(n) if weights is None else weights) @ np.maximum(similarity - best[:, None], 0)
        gains[used] = -1
        assert gains[row] >= gains.max() - 1e-5
        used.append(row)


def test_facility_location_breaks_ties_by_row_and_reads_weights() -> None:
    axes = np.eye(5)[[0, 0, 0, 1, 1, 2, 3]]
    assert facility_location(axes, 7).tolist() == [0, 3, 5, 6, 1, 2, 4]
    weights = np.array([1.0, 1.0, 1.0, 0.1, 0.1, 5.0, 0.0])
    assert facility_location(axes, 7, weights=weights).tolist() == [5, 0, 3, 1, 2, 4, 6]
