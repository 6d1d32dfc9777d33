"""Signals checked and sorted for a strategy, without loading memory maps."""

import tracemalloc

import numpy as np
import pytest

from ka2l.errors import DataError
from ka2l.selection.select import select
from ka2l.selection.signals import Signals, prepared


def test_sorted_arrays_are_not_copied_and_checking_them_takes_little_memory() -> None:
    ids = np.array([f"{i:07d}" for i in range(200_000)])
    embedding = np.ones((len(ids), 100), dtype=np.float16)  # 40 MB
    signals = Signals(ids, embedding=embedding)
    tracemalloc.start()
    pool = prepared(signals, ["embedding"], (), "a strategy")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pool.embedding is embedding
    assert peak < 20e6


def test_a_bad_row_far_into_a_memory_map_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from ka2l.selection import signals as module

    monkeypatch.setattr(module, "_CHUNK", 10)
    values = np.ones((53, 2), dtype=np.float16)
    values[[31, 52], 1] = np.nan
    ids = np.array([f"{i:03d}" for i in range(53)])
    with pytest.raises(DataError, match="2 questions, first: 031, 052"):
        select("coreset", Signals(ids, embedding=values), 3, 0)
