"""All kernels: blocks, memory maps, types and libraries change nothing, and memory stays small."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ka2l.selection.kernels import distance_blocks
from ka2l.selection.kernels.coverage import coverage_radius, max_coverage, nearest_distances
from ka2l.selection.kernels.facility_location import facility_location
from ka2l.selection.kernels.k_center import k_center_greedy
from ka2l.selection.kernels.k_means import k_means
from ka2l.selection.kernels.seeding import gradient_seeding, weighted_seeding
from kernel_pools import Array, devices, hypothetical
from kernel_pools import restored_chunk as restored_chunk  # a fixture of all tests here


def run_all(x: Array, device: str = "cpu") -> dict[str, Array]:
    """Every kernel once, with seeds of its own."""
    n = len(x)
    rng = np.random.default_rng(3)
    weights, coefficients = rng.random(n), hypothetical(rng, n, 3)
    clusters = k_means(x, 4, np.random.default_rng(1), device=device)
    radius = coverage_radius(x, clusters.assignment, purity=0.8, device=device)
    return {
        "k_center": k_center_greedy(x, n, 2, device=device),
        "weighted": weighted_seeding(x, weights, n, np.random.default_rng(1), device=device),
        "gradient": gradient_seeding(coefficients, x, n, np.random.default_rng(1), device=device),
        "assignment": clusters.assignment,
        "centers": clusters.centers,
        "radius": np.array(radius),
        "typical": nearest_distances(x, 5, device=device),
        "coverage": max_coverage(x, n, radius, device=device),
        "facility": facility_location(x, n, weights=weights, device=device),
    }


@pytest.mark.parametrize("n", [53, 97])
def test_no_kernel_drops_rows_after_the_last_whole_block(n: int) -> None:
    """SPEC item 12: a peer dropped the last N mod 500 rows. Both row counts are primes."""
    x = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float16)
    whole = run_all(x)
    for rows in ("k_center", "weighted", "gradient", "coverage", "facility"):
        assert sorted(whole[rows].tolist()) == list(range(n))
    for chunk in (4, 40, 44, 4 * n - 4):
        distance_blocks.CHUNK = chunk
        for name, values in run_all(x).items():
            np.testing.assert_allclose(values, whole[name], rtol=1e-5, err_msg=f"{name}, blocks of {chunk}")


def test_memory_maps_float_types_and_torch_give_the_same(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    expected = run_all(x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    others = {
        "map": run_all(mapped),
        "float32": run_all(x.astype(np.float32)),
        "float64": run_all(x.astype(float)),
        "columns": run_all(np.asfortranarray(x)),
        "torch": run_all(x, "torch"),
        "torch of a map": run_all(mapped, "torch"),
    }
    for kind, found in others.items():
        for name, values in found.items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5, err_msg=f"{name}, {kind}")


@devices
def test_a_pool_of_one_and_nothing_wanted(device: str) -> None:
    one = np.ones((1, 3), dtype=np.float32)
    rng = np.random.default_rng(0)
    for k in (0, 1):
        expected = list(range(k))
        assert k_center_greedy(one, k, device=device).tolist() == expected
        assert weighted_seeding(one, np.ones(1), k, rng, device=device).tolist() == expected
        assert gradient_seeding(np.ones((1, 2)), one, k, rng, device=device).tolist() == expected
        assert max_coverage(one, k, 1.0, device=device).tolist() == expected
        assert facility_location(one, k, device=device).tolist() == expected
    with pytest.raises(ValueError, match="2 rows are wanted of 1"):
        k_center_greedy(one, 2)
    with pytest.raises(ValueError, match="1 rows are wanted of 0"):
        weighted_seeding(one, np.ones(1), 1, rng, labelled=np.array([0]))


def test_memory_does_not_grow_with_picks_times_rows() -> None:
    """SPEC item 12: a peer filled a K × N matrix of float64, here 32 MB; and the rows as float32 would be 5 MB."""
    n, k, classes = 20_000, 200, 10
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 64)).astype(np.float16)
    weights, coefficients = np.ones(n), hypothetical(rng, n, classes).astype(np.float32)
    distance_blocks.CHUNK = 1 << 16
    k_center_greedy(x[:2000], 2, 0)  # imports
    runs = {
        "k_center": lambda: k_center_greedy(x, k, 0),
        "weighted": lambda: weighted_seeding(x, weights, k, rng),
        "gradient": lambda: gradient_seeding(coefficients, x, k, rng),
    }
    for name, run in runs.items():
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6, name
