"""Parts of pool signals are merged by id, whatever the parts are."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.common import atomic_files
from ka2l.pipeline.shared.artifact_tables import compact, gather, write_signals
from ka2l.questions.question import Question


@given(
    st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=12, unique=True).flatmap(
        lambda ids: st.tuples(st.just(ids), st.lists(st.integers(1, 4), min_size=len(ids), max_size=len(ids)))
    ),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_parts_of_any_cut_are_gathered_by_id(
    tmp_path_factory: pytest.TempPathFactory, cut: tuple[list[str], list[int]], width: int, large: bool
) -> None:
    ids, sizes = cut
    folder = tmp_path_factory.mktemp("parts")
    values = np.arange(len(ids) * width, dtype=np.float32).reshape(len(ids), width)
    if large:
        values[-1, -1] = 1e6  # out of float16's range: the last part is float32
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        if ids[rows]:
            chunk = [Question(i, "?", ()) for i in ids[rows]]
            arrays = {"wide": compact(values[rows]), "flat": values[rows, 0].copy()}
            write_signals(atomic_files.next_part(folder, ".safetensors"), chunk, arrays)
        start += size
    targets = {name: folder / f"{name}.npy" for name in ("wide", "flat")}
    assert gather(folder, targets) == sorted(ids)
    order = np.argsort(np.asarray(ids, dtype=str), kind="stable")
    wide, flat = (atomic_files.read_array(path) for path in targets.values())
    assert wide.dtype == (np.float32 if large else np.float16)
    np.testing.assert_array_equal(wide, values[order])
    np.testing.assert_array_equal(flat, values[order, 0])


def test_a_failing_gather_leaves_no_array(tmp_path: Path) -> None:
    form = np.empty((0, 3), dtype=np.float16)
    with (
        pytest.raises(ValueError, match="shorter"),
        atomic_files.array_of_rows(tmp_path / "x.npy", 2, form) as write,
    ):
        write([0, 1], np.ones((1, 3)))
    assert list(tmp_path.iterdir()) == []
