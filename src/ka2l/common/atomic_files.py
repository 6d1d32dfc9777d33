"""Atomic writes of text, JSON, tables and tensors, numbered parts of long work, and the error for a full disk.

Every file is written under a temporary name, synced and renamed, so a file that exists is complete. Long work is
written in numbered parts; a part that exists is finished. The paths of a run's artifacts are in
`ka2l.pipeline.run_directory`.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ka2l.errors import RunError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically. NaN and infinite numbers are not JSON and raise ValueError."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: Path, table: "pa.Table") -> None:
    """Write a Parquet file atomically."""
    import pyarrow.parquet as pq

    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: Path, columns: list[str] | None = None) -> "pa.Table":
    """Read a Parquet file."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read(columns=columns)


def write_tensors(path: Path, tensors: Mapping[str, "NDArray[np.generic]"], metadata: Mapping[str, str]) -> None:
    """Write arrays to a safetensors file atomically."""
    from safetensors.numpy import save_file

    with atomic(path) as temporary:
        save_file(dict(tensors), temporary, metadata=dict(metadata))


def read_tensors(path: Path, names: "Sequence[str] | None" = None) -> tuple[dict[str, "NDArray[Any]"], dict[str, str]]:
    """Read arrays (these, or all) and the metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        wanted = file.keys() if names is None else names
        return {name: file.get_tensor(name) for name in wanted}, dict(file.metadata() or {})


def read_tensors_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file without its arrays."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata() or {})


def tensor_form(path: Path, name: str) -> "NDArray[Any]":
    """An empty array with the dtype and the row shape of one tensor of a safetensors file, without reading its rows."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        form: NDArray[Any] = file.get_slice(name)[:0]
        return form


def read_array(path: Path) -> "NDArray[Any]":
    """The array of a .npy file as a memory map: rows are read when they are used."""
    import numpy as np

    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


@contextmanager
def array_of_rows(
    path: Path, rows: int, form: "NDArray[Any]"
) -> "Iterator[Callable[[Sequence[int], NDArray[Any]], None]]":
    """Write a .npy file atomically, some rows at a time and in any order; every row must be written.

    It uses plain writes, not a memory map: on a full disk a memory map ends the process with a signal instead of an
    error.

    Args:
        path: the file.
        rows: number of rows.
        form: an empty array with the dtype and the shape of a row.

    Yields:
        a function that takes row numbers and the values of these rows.
    """
    import numpy as np

    shape = (rows, *form.shape[1:])
    header = {
        "descr": np.lib.format.dtype_to_descr(form.dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start, stride = file.tell(), form.dtype.itemsize * math.prod(form.shape[1:])

        def write(numbers: "Sequence[int]", values: "NDArray[Any]") -> None:
            for number, row in zip(numbers, values.astype(form.dtype, copy=False), strict=True):
                file.seek(start + number * stride)
                file.write(row.tobytes())

        yield write
        file.flush()


def parts(folder: Path, suffix: str) -> list[Path]:
    """Paths of the finished parts of a folder, in order."""
    return sorted(folder.glob(f"part-*{suffix}"))


def next_part(folder: Path, suffix: str) -> Path:
    """Path of the next part to write."""
    finished = parts(folder, suffix)
    number = int(finished[-1].name.removesuffix(suffix).split("-")[1]) + 1 if finished else 0
    return folder / f"part-{number:05d}{suffix}"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` if the body ends without an error, and is removed otherwise.

    Raises:
        RunError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(path) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether this error means a full disk or quota. Not every library raises an OSError for it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors has it in the message. torch.save only reports that it could not write at its position.
    messages = ("No space left on device", "PytorchStreamWriter failed writing", "unexpected pos")
    return not isinstance(error, RunError) and any(message in str(error) for message in messages)


def disk_full(path: Path) -> RunError:
    """The error that names what could not be written."""
    return RunError(
        f"{path}: the disk is full. Free some space and run the same command again: the parts written so far are "
        "complete and will be used."
    )


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
