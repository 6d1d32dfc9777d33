"""Small pools for the kernels, and the slow computations they are compared with."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ka2l.selection.kernels import distance_blocks

Array = NDArray[Any]
CHUNK = distance_blocks.CHUNK
# The fixture `restored_chunk` has no state, so it may be shared by the examples of a test.
CASES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
devices = pytest.mark.parametrize("device", ["numpy", "torch"])


@pytest.fixture(autouse=True)
def restored_chunk() -> Iterator[None]:
    """Blocks have their usual size again after each test."""
    yield
    distance_blocks.CHUNK = CHUNK


@st.composite
def pools(draw: st.DrawFn, least: int = 1, most: int = 24) -> Array:
    """Points on a grid (exact ties and duplicates) or anywhere (duplicates where asked), far from the origin or not."""
    n = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    # Values in a block: blocks of one row, of some, of all.
    distance_blocks.CHUNK = draw(st.sampled_from([1, 7, 40, CHUNK]))
    if draw(st.booleans()):
        return rng.integers(0, 3, size=(n, 2)).astype(draw(st.sampled_from([np.float16, np.float32])))
    points = rng.normal(size=(n, 4)) + draw(st.sampled_from([0, 0, 100]))
    if draw(st.booleans()):
        points = points[rng.integers(0, n, n)]
    return points.astype(draw(st.sampled_from([np.float16, np.float32, np.float64])))


def squares(points: Array) -> Array:
    """[rows, rows] squared distances, the slow way."""
    exact = points.astype(np.float32).astype(float)
    return np.asarray(((exact[:, None] - exact[None]) ** 2).sum(-1))


def is_best(values: Array, row: int, tolerance: float = 1e-5) -> bool:
    """Whether a row has the largest value, up to rounding; among equals the lowest row, where values are exact."""
    top = values.max()
    if (values == np.round(values)).all():
        return bool(row == values.argmax())
    return bool(values[row] >= top - tolerance * max(1.0, abs(top)))


def gradients(coefficients: Array, x: Array) -> Array:
    """[rows, classes · width], the matrix that the kernel never makes."""
    return (coefficients[:, :, None] * x[:, None, :].astype(np.float32)).reshape(len(x), -1)


def hypothetical(rng: np.random.Generator, n: int, classes: int) -> Array:
    p = rng.dirichlet(np.ones(classes), n)
    return p - np.eye(classes)[p.argmax(1)]
