"""Pools of questions with made-up signals, for the tests of query strategies."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.signals import SIGNALS, Selection, Signals

POOL, WIDTH = 60, 5


def make_signals(n: int = POOL, seed: int = 0) -> Signals:
    """A pool whose ids are in no order and look nothing like row numbers; arrays that cannot be written to."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"q-{number}" for number in rng.choice(10**6, n, replace=False)], dtype=str)
    arrays: dict[str, Any] = {
        "p_unknown": rng.random(n, dtype=np.float32),
        "embedding": (rng.normal(size=(n, WIDTH)) + 30).astype(np.float16),  # as stored, with a common mean
        "next_token_entropy": rng.gamma(2, 1, n).astype(np.float32),
        "top_probability": rng.random(n, dtype=np.float32),
        "margin": rng.random(n, dtype=np.float32),
        "semantic_entropy": rng.integers(0, 8, n).astype(np.float32) / 4,  # sampled: many ties
        "sequence_log_likelihood": -rng.gamma(2, 1, n).astype(np.float32),
        "sentence_embedding": rng.normal(size=(n, 2 * WIDTH)).astype(np.float32),
        "class_probabilities": rng.dirichlet(np.ones(3), n).astype(np.float32),
    }
    for values in arrays.values():
        values.flags.writeable = False
    return Signals(ids, **arrays)


def rearranged(signals: Signals, order: NDArray[np.intp]) -> Signals:
    return only(signals, SIGNALS, order)


def only(signals: Signals, names: Any, rows: Any = slice(None)) -> Signals:
    """These signals and no other."""
    arrays: dict[str, Any] = {name: getattr(signals, name)[rows] for name in names}
    return Signals(signals.ids[rows], **arrays)


def with_signal(signals: Signals, name: str, values: Any) -> Signals:
    changed: dict[str, Any] = {name: values}
    return replace(signals, **changed)


def values_of(signals: Signals, name: str, bought: Selection) -> NDArray[np.floating]:
    """The signal of each bought question, looked up by id."""
    by_id = dict(zip(signals.ids.tolist(), getattr(signals, name), strict=True))
    return np.array([by_id[question_id] for question_id in bought.ids])


def cosines(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Between all rows, relative to their mean; 0 for a row at the mean."""
    moved = x.astype(np.float64) - x.astype(np.float64).mean(0)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    unit = np.where(lengths > 1e-4, moved / np.maximum(lengths, 1e-4), 0)
    return unit @ unit.T


def blobs(sizes: list[int], width: int = 8, scale: float = 0.005, seed: int = 0) -> tuple[Any, Any]:
    """Points around corners of a cube, and the blob of each; directions of different blobs are orthogonal or so."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(len(sizes)), sizes)
    points = np.eye(width)[of] + rng.normal(scale=scale, size=(len(of), width)) + 3.0
    return points.astype(np.float32), of


def blob_signals(sizes: list[int], **arrays: Any) -> tuple[Signals, Any]:
    points, of = blobs(sizes)
    ids = np.array([f"{i:04d}" for i in range(len(of))])
    return Signals(ids, embedding=points, **arrays), of


def blobs_of(bought: Selection, of: Any) -> list[int]:
    return [int(of[int(question_id)]) for question_id in bought.ids]
