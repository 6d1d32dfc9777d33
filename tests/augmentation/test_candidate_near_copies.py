"""Candidates that paraphrase another question, by hand-computed angles and against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from ka2l.augmentation import near_copies as near_copies_module
from ka2l.augmentation.filters import Candidate, Verdict
from ka2l.augmentation.near_copies import Embedded, near_copies


def unit(*degrees: float) -> NDArray[np.float32]:
    """Rows on the circle: the cosine of two is that of the angle between them."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_hand_computed_circle() -> None:
    # From cos 20° = 0.94 on two are one.
    at = [0.0, 10.0, 50.0, 100.0, 150.0, 165.0, 200.0]
    said = [Candidate(f"d{i}", "s1", "", True) for i in range(len(at))]
    references = {
        "source": [Embedded(["s1", "s1", "s2"], unit(300, 15, 150))],
        "eval": [Embedded(["e1"], unit(60))],
        "pool": [Embedded(["p1", "p2"], unit(110, 240))],
    }
    found = near_copies(said, unit(*at), references, float(np.cos(np.radians(20))))
    # The one at 150° is another source's own state, which is nothing to s1; the one at 165° is near that at 150°.
    assert [(v.reason, v.nearest) for v in found] == [
        ("near_source", "s1"),
        ("near_source", "s1"),
        ("near_eval", "e1"),
        ("near_pool", "p1"),
        ("", "p1"),
        ("near_kept", "d4"),
        ("", "p2"),
    ]
    angles = np.degrees(np.arccos([v.similarity for v in found if v.similarity is not None]))
    assert angles == pytest.approx([15, 5, 10, 10, 40, 15, 40], abs=0.1)


def test_what_was_dropped_drops_nothing() -> None:
    # d1 is near e1, d2 only near d1.
    said = [Candidate(f"d{i}", "s", "", True) for i in (1, 2)]
    found = near_copies(said, unit(15, 30), {"eval": [Embedded(["e1"], unit(0))]}, float(np.cos(np.radians(20))))
    assert [verdict.reason for verdict in found] == ["near_eval", ""]


def test_nothing_to_compare_with() -> None:
    empty = Embedded([], np.empty((0, 2), dtype=np.float32))
    said = [Candidate("d", "s", "", True)]
    assert near_copies(said, unit(0), {"source": [empty], "eval": [empty], "pool": [empty]}, 0.9) == [Verdict()]
    assert near_copies([], np.empty((0, 2), dtype=np.float32), {"eval": [Embedded(["e"], unit(0))]}, 0.9) == []


@pytest.mark.parametrize(
    ("rows", "reference", "message"),
    [
        (unit(0) * 2, Embedded(["e"], unit(0)), "candidates: embeddings are not of unit length"),
        (unit(0), Embedded(["e"], unit(0) * np.float32("nan")), "eval: embeddings are not of unit length"),
        (unit(0, 1), Embedded(["e"], unit(0)), "candidates: 1 ids"),
        (unit(0), Embedded(["e"], unit(0, 1)), "eval: 1 ids"),
    ],
)
def test_rows_that_are_none(rows: NDArray[np.float32], reference: Embedded, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        near_copies([Candidate("d", "s", "", True)], rows, {"eval": [reference]}, 0.9)


def test_what_is_known_to_ask_for_something_else_is_no_copy_however_alike() -> None:
    said = [
        Candidate("congo", "s", "", True),
        Candidate("other", "s", "", True),
        Candidate("again", "s", "", True),
    ]
    references = {"eval": [Embedded(["e"], unit(1))]}
    found = near_copies(said, unit(0, 90, 91), references, 0.9, told_apart=["congo", "other"])
    assert [verdict.reason for verdict in found] == ["", "", "near_kept"]
    assert found[0].nearest == "e"  # it was compared all the same


def test_an_unknown_reference() -> None:
    with pytest.raises(ValueError, match="no such role of references: probe"):
        near_copies([], np.empty((0, 2), dtype=np.float32), {"probe": [Embedded([], unit())]}, 0.9)


def brute_force(
    sources: list[str],
    rows: NDArray[np.float32],
    references: dict[str, list[Embedded]],
    threshold: float,
) -> list[str]:
    reasons: list[str] = []
    for i, row in enumerate(rows):
        reason = ""
        for role, parts in references.items():
            for id_, other in ((id_, other) for part in parts for id_, other in zip(*part, strict=True)):
                if not reason and (role != "source" or id_ == sources[i]) and float(row @ other) >= threshold:
                    reason = f"near_{role}"
        for j in range(i):
            if not reason and not reasons[j] and float(row @ rows[j]) >= threshold:
                reason = "near_kept"
        reasons.append(reason)
    return reasons


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.int8, st.tuples(st.integers(5, 24), st.just(3)), elements=st.integers(-4, 4)),
    st.integers(1, 3),
    st.integers(2, 7),
    st.sampled_from([0.55, 0.83, 0.97]),
)
def test_as_brute_force_whatever_the_chunk(raw: NDArray[np.int8], known: int, chunk: int, threshold: float) -> None:
    rows = raw.astype(np.float32) + np.array([0.1, 0.01, 0.001], dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    held_out, pool, source, said = (
        rows[:known],
        rows[known : known + 1],
        rows[known + 1 : known + 2],
        rows[known + 2 :],
    )
    sources = [f"s{i % 2}" for i in range(len(said))]
    references = {
        "source": [Embedded(["s1"], source)],
        "eval": [Embedded([f"e{i}"], held_out[i : i + 1]) for i in range(known)],
        "pool": [Embedded(["p"], pool)],
    }
    candidates = [Candidate(f"d{i}", source_id, "", True) for i, source_id in enumerate(sources)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_copies_module, "_CHUNK", chunk)
        found = near_copies(candidates, said, references, threshold)
    assert [verdict.reason for verdict in found] == brute_force(sources, said, references, threshold)
    by_id = {
        **{f"e{i}": row for i, row in enumerate(held_out)},
        **{f"d{i}": row for i, row in enumerate(said)},
        "p": pool[0],
        "s1": source[0],
    }
    for row, verdict in zip(said, found, strict=True):
        assert verdict.nearest is not None
        assert verdict.similarity is not None
        assert verdict.similarity == pytest.approx(float(row @ by_id[verdict.nearest]), abs=1e-5)
        assert (verdict.similarity >= threshold) == bool(verdict.reason)
