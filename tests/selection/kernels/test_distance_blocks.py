"""Distances and conversions of blocks."""

import numpy as np

from ka2l.selection.kernels import distance_blocks
from ka2l.selection.kernels.k_center import k_center_greedy
from kernel_pools import devices, gradients, squares
from kernel_pools import restored_chunk as restored_chunk  # a fixture of all tests here


@devices
def test_distances_between_nearly_equal_gradients(device: str) -> None:
    """A thousandth apart in both factors."""
    rng = np.random.default_rng(0)
    c, h = rng.normal(size=(1, 3)), rng.normal(size=(1, 50))
    c = (c + 1e-3 * rng.normal(size=(12, 3))).astype(np.float32)
    h = (h + 1e-3 * rng.normal(size=(12, 50))).astype(np.float32)
    c[1], h[1] = c[0], h[0]
    points = distance_blocks.Points(h, c, device=device)
    block = points.take(np.arange(12))
    found = points.host(points.squared(block, block))
    assert found[0, 1] == 0
    np.testing.assert_allclose(found, squares(gradients(c, h)), rtol=1e-3)


@devices
def test_a_large_half_precision_block_is_converted_right(device: str) -> None:
    """Above a size "cpu" is torch's."""
    x = np.random.default_rng(0).normal(size=(700, 130)).astype(np.float16)
    assert x.size > 1 << 16
    x.flags.writeable = False
    rows = k_center_greedy(x, 40, 0, device=device)
    np.testing.assert_array_equal(rows, k_center_greedy(x.astype(np.float64), 40, 0))
    np.testing.assert_array_equal(rows, k_center_greedy(x, 40, 0, device="numpy"))
