"""Rows of any number as float32 blocks, and the distances between them: the basis of all kernels.

Blocks are NumPy arrays or torch tensors, handled by the same code. On the CPU torch is faster from a certain size on
(30 times for float16); below it NumPy avoids the import of torch. Devices "numpy" and "torch" choose one of them.
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 21  # float32 values in one block, and in one block of distances: 8 MB, which fit the cache
CUDA_CHUNK = 1 << 26
_NUMPY = 1 << 16  # values up to which NumPy computes
_SAMPLE = 4096  # rows from which the shift of the columns is computed
# |a|² + |b|² − 2a·b has an error of about 1e-7 of |a|² + |b|². Below this share of it, the rows are subtracted first.
# The error that remains, 1e-4, is that of storing rows this close as float16.
_NEAR = 2.0**-10
_ERROR = 2.0**-18  # a safe bound on that error, as a share of |a|² + |b|²

Rows = NDArray[np.intp]
Array = Any  # a NumPy array or a torch tensor


class Block(NamedTuple):
    """Some rows, on the device, in float32."""

    x: Array  # [rows, width]
    norms: Array  # [rows], squared
    coefficients: Array = None  # [rows, classes]; a row then represents coefficients ⊗ x


class Assignment(NamedTuple):
    """Rows and their nearest centers."""

    nearest: NDArray[np.int32]  # [rows]
    distance: NDArray[np.float32]  # [rows], squared
    sums: NDArray[np.float64]  # [centers, width], of the rows of each


class Points:
    """Rows of a matrix, possibly a memory map; one block is in memory at a time.

    Args:
        x: [rows, width], any float type.
        coefficients: [rows, classes]: the points are the outer products of both, which are never built.
        unit: scale rows to length 1 (rows of zeros stay).
        device: "cpu", "cuda", "cuda:1"; "numpy" or "torch" for one of them on the CPU.
    """

    def __init__(
        self,
        x: NDArray[np.floating],
        coefficients: NDArray[np.floating] | None = None,
        *,
        unit: bool = False,
        device: str = "cpu",
    ):
        self.xp: Any = np
        self.stored: Array = x
        self.coefficients: Array = None
        self._unit, self._chunk = unit, CHUNK
        self.rows, self.width = x.shape
        self._device = None
        if device not in ("cpu", "numpy") or (device == "cpu" and x.size > _NUMPY):
            import torch

            self.xp, self._device = torch, torch.device("cpu" if device == "torch" else device)
            if self._device.type == "cuda":
                self._chunk = CUDA_CHUNK
                self.stored = self._move(x)
        # Distances do not depend on the origin; their rounding error does.
        moved = coefficients is None and not unit and self.rows > 0
        self.shift = _shift(x) if moved else np.zeros(self.width, dtype=np.float32)
        self._shift = self.put(self.shift) if self.shift.any() else None
        if coefficients is not None:
            self.coefficients = self.put(np.asarray(coefficients, dtype=np.float32))
        self.norms = np.empty(self.rows, dtype=np.float32)  # squared
        for where, values in self._blocks(self.width):
            self.norms[where] = self.host(self.xp.einsum("ij,ij->i", values, values))
        if unit:
            scale = np.sqrt(self.norms)
            self._scale = self.put(np.where(scale > 0, scale, 1))
            self.norms = (self.norms > 0).astype(np.float32)
        if self.coefficients is not None:
            factor = self.coefficients
            self.norms *= self.host(self.xp.einsum("ij,ij->i", factor, factor))
        self._norms = self.put(self.norms)

    def put(self, array: NDArray[Any]) -> Array:
        """Copy a host array to the device."""
        return array if self._device is None else self.xp.from_numpy(array).to(self._device)

    def host(self, array: Array) -> NDArray[Any]:
        """Copy a device array to the host."""
        return np.asarray(array if self._device is None else array.cpu().numpy())

    def block_rows(self, columns: int = 1) -> int:
        """The number of rows in a block that is compared to this many others."""
        return max(1, self._chunk // max(self.width, columns))

    def blocks(self, columns: int = 1) -> Iterator[tuple[slice, Block]]:
        """All rows in order, for comparison to `columns` others. The next block overwrites this one."""
        for where, values in self._blocks(columns):
            yield where, self._finish(where, values)

    def take(self, rows: Rows) -> Block:
        """These rows, in this order."""
        where = rows if isinstance(self.stored, np.ndarray) else self.put(rows)
        return self._finish(where, self._read(self.stored[where], self._empty(len(rows))))

    def outer(self, rows: Rows | None = None) -> Iterator[tuple[Rows, Block]]:
        """Blocks of these rows (None: all) that are not overwritten, for the outer of two nested loops."""
        rows = np.arange(self.rows) if rows is None else np.asarray(rows, dtype=np.intp)
        for start in range(0, len(rows), self.block_rows()):
            some = rows[start : start + self.block_rows()]
            yield some, self.take(some)

    def squared(self, a: Block, b: Block, ceiling: NDArray[np.floating] | None = None) -> Array:
        """Squared distances, [rows of a, rows of b], with float32 accuracy also between nearly equal rows.

        Args:
            a, b: blocks of rows.
            ceiling: [rows of a]; larger distances need not be that accurate.
        """
        values, scale = self.rough(a, b)
        limit = scale * _NEAR
        if ceiling is not None:
            limit = self.xp.minimum(limit, self.put(ceiling)[:, None] + scale * _ERROR)
        self.refine(values, values < limit, a, b)
        return values

    def rough(self, a: Block, b: Block) -> tuple[Array, Array]:
        """Squared distances by one matrix product, and |a|² + |b|², which their error is proportional to."""
        # Callers refuse values that are not finite; BLAS has been observed to raise this flag for finite rows.
        with np.errstate(invalid="ignore"):
            products = a.x @ b.x.T
        if a.coefficients is not None:
            products *= a.coefficients @ b.coefficients.T
        scale = a.norms[:, None] + b.norms
        products *= -2
        products += scale
        return products, scale

    def within(self, a: Block, b: Block, radius: float) -> Array:
        """Whether distance <= radius, [rows of a, rows of b]; rows are subtracted first if rounding could decide."""
        values, scale = self.rough(a, b)
        square = float(np.float32(radius) ** 2)
        self.refine(values, abs(values - square) < scale * _ERROR, a, b)
        return values <= square

    def refine(self, values: Array, where: Array, a: Block, b: Block) -> None:
        """Recompute the marked squared distances, in place, from differences: exactly 0 between equal rows."""
        if not where.any():
            return
        i, j = where.nonzero() if self.xp is np else where.nonzero(as_tuple=True)
        step = max(1, self._chunk // self.width)
        for start in range(0, len(i), step):
            of_a, of_b = i[start : start + step], j[start : start + step]
            values[of_a, of_b] = self.pairs(_pick(a, of_a), _pick(b, of_b))

    def pairs(self, a: Block, b: Block) -> Array:
        """Squared distances between corresponding rows of two blocks of equal length, [rows]."""
        dot = lambda one, other: self.xp.einsum("ij,ij->i", one, other)  # noqa: E731
        difference = a.x - b.x
        if a.coefficients is None:
            return dot(difference, difference)
        # c⊗h − d⊗g = c⊗(h − g) + (c − d)⊗g
        change = a.coefficients - b.coefficients
        squared = (
            dot(a.coefficients, a.coefficients) * dot(difference, difference)
            + dot(change, change) * dot(b.x, b.x)
            + 2 * dot(a.coefficients, change) * dot(difference, b.x)
        )
        return self.xp.maximum(squared, squared * 0)

    def smallest(self, values: Array, count: int) -> tuple[Array, Array]:
        """The smallest values of each row, in no order, and their columns, each [rows, count]."""
        if self.xp is not np:
            smallest = values.topk(count, dim=1, largest=False, sorted=False)
            return smallest.values, smallest.indices
        columns = np.argpartition(values, count - 1, axis=1)[:, :count]
        return np.take_along_axis(values, columns, axis=1), columns

    def distances(self, labelled: Rows) -> NDArray[np.float32]:
        """Squared distances to the nearest labelled row, [rows]: inf if none is labelled, -inf for labelled rows."""
        distance = np.full(self.rows, np.inf, dtype=np.float32)
        self.shrink(distance, labelled)
        return distance

    def shrink(self, distance: NDArray[np.float32], picked: Rows) -> None:
        """Update squared distances to the nearest pick, in place, for these picks; picked rows get -inf."""
        for some, centers in self.outer(picked):
            for where, block in self.blocks(len(some)):
                squared = self.squared(block, centers, distance[where])
                distance[where] = np.minimum(distance[where], self.host(self.xp.amin(squared, 1)))
        distance[picked] = -np.inf

    def count(self, centers: Rows, radius: float) -> NDArray[np.int64]:
        """The number of centers within the radius of each row, [rows]."""
        counts = np.zeros(self.rows, dtype=np.int64)
        for some, block in self.outer(centers):
            for where, rows in self.blocks(len(some)):
                counts[where] += self.host(self.within(rows, block, radius).sum(1))
        return counts

    def assign(self, centers: NDArray[np.float32]) -> Assignment:
        """The nearest center of each row; ties: the lower one. Centers are relative to `shift`."""
        xp, k = self.xp, len(centers)
        nearest, distance = np.empty(self.rows, np.int32), np.empty(self.rows, np.float32)
        sums = np.zeros(centers.shape)
        others = Block(self.put(centers), self.put(np.einsum("ij,ij->i", centers, centers)))
        numbers = self.put(np.arange(k))
        for where, block in self.blocks(k):
            values = self.rough(block, others)[0]
            number = xp.argmin(values, 1)
            nearest[where], distance[where] = self.host(number), self.host(xp.amin(values, 1))
            # A matrix product gives the same sums in each run, also on CUDA.
            member = (number[:, None] == numbers) + xp.zeros_like(values)
            sums += self.host(member.T @ block.x)
        return Assignment(nearest, distance, sums)

    def _blocks(self, columns: int) -> Iterator[tuple[slice, Array]]:
        step = min(self.block_rows(columns), max(1, self.rows))
        buffer = self._empty(step)
        for start in range(0, self.rows, step):
            where = slice(start, min(start + step, self.rows))
            yield where, self._read(self.stored[where], buffer[: where.stop - start])

    def _empty(self, rows: int) -> Array:
        if self.xp is np:
            return np.empty((rows, self.width), dtype=np.float32)
        return self.xp.empty((rows, self.width), dtype=self.xp.float32, device=self._device)

    def _read(self, stored: Array, values: Array) -> Array:
        """Stored rows as float32, on the device, relative to `shift`."""
        if self.xp is np:
            np.copyto(values, stored, casting="same_kind")
        else:
            values.copy_(_tensor(stored) if isinstance(stored, np.ndarray) else stored)
        if self._shift is not None:
            values -= self._shift
        return values

    def _finish(self, where: Any, values: Array) -> Block:
        if self._unit:
            values /= self._scale[where][:, None]
        coefficients = None if self.coefficients is None else self.coefficients[where]
        return Block(values, self._norms[where], coefficients)

    def _move(self, x: NDArray[np.floating]) -> Array:
        """The rows on the GPU, in their stored type, if they take less than half of its free memory."""
        kept = x.dtype if x.dtype.itemsize <= 4 else np.dtype(np.float32)
        free, _total = self.xp.cuda.mem_get_info(self._device)
        if x.size * kept.itemsize > free // 2:
            return x
        moved = self.xp.empty(x.shape, dtype=getattr(self.xp, kept.name), device=self._device)
        step = self.block_rows()
        for start in range(0, len(x), step):
            moved[start : start + step] = _tensor(x[start : start + step]).to(self._device)
        return moved


def _pick(block: Block, rows: Array) -> Block:
    coefficients = None if block.coefficients is None else block.coefficients[rows]
    return Block(block.x[rows], block.norms[rows], coefficients)


def _tensor(array: NDArray[Any]) -> Array:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))


def _shift(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Shift of the columns, [width]: about the mean where it is far from zero, measured by the spread.

    Whole multiples of a power of two, so that the subtraction does not round exact values.
    """
    sample = np.asarray(x[:: max(1, len(x) // _SAMPLE)], dtype=np.float64)
    mean, spread = sample.mean(0), sample.std(0)
    unit = np.exp2(np.ceil(np.log2(np.where(spread > 0, spread, 1))))
    return np.where(spread > 0, np.round(mean / unit) * unit, sample[0]).astype(np.float32)
