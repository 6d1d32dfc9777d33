"""k-means++ seedings: the rows and probabilities of the plain algorithm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ka2l.selection.kernels import seeding
from ka2l.selection.kernels.seeding import gradient_seeding, weighted_seeding
from kernel_pools import CASES, Array, gradients, hypothetical, pools, squares
from kernel_pools import restored_chunk as restored_chunk  # a fixture of all tests here


def seeding_by_hand(
    distance: Array, weights: Array, k: int, rng: np.random.Generator, known: list[int], first: list[int]
) -> list[int]:
    """P(row) ∝ D² · weight by walking along the cumulative sum; evenly where all of it is 0."""
    picked = list(first)
    while len(picked) < k:
        seen = known + picked
        nearest = distance[:, seen].min(1) if seen else np.ones(len(weights))
        mass = np.array([0.0 if i in seen else nearest[i] * weights[i] for i in range(len(weights))])
        if mass.sum() > 0:
            target, total, row = rng.random() * mass.sum(), 0.0, -1
            while total <= target:
                row += 1
                total += mass[row]
            picked.append(row)
        else:
            picked.append(int(rng.choice([i for i in range(len(weights)) if i not in seen])))
    return picked


@CASES
@given(pools(), st.integers(0, 10**6), st.data(), st.sampled_from(["numpy", "torch"]))
def test_weighted_seeding_against_a_walk(points: Array, seed: int, data: st.DataObject, device: str) -> None:
    n = len(points)
    weights = np.random.default_rng(seed).integers(0, 3, n).astype(data.draw(st.sampled_from([float, np.float32])))
    labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    k = data.draw(st.integers(0, n - len(labelled)))
    rows = weighted_seeding(
        points,
        weights,
        k,
        np.random.default_rng(seed),
        labelled=np.array(labelled, dtype=np.intp),
        device=device,
    )
    by_hand = seeding_by_hand(squares(points), weights, k, np.random.default_rng(seed), labelled, [])
    assert rows.tolist() == by_hand


@CASES
@given(pools(), st.integers(0, 10**6), st.integers(2, 5), st.data(), st.sampled_from(["numpy", "torch"]))
def test_gradient_seeding_against_the_gradients(
    points: Array, seed: int, classes: int, data: st.DataObject, device: str
) -> None:
    n, rng = len(points), np.random.default_rng(seed)
    coefficients = hypothetical(rng, n, classes)[rng.integers(0, n, n)].astype(np.float32)
    k = data.draw(st.integers(1, n))
    rows = gradient_seeding(coefficients, points, k, np.random.default_rng(seed), device=device)
    full = gradients(coefficients, points)
    norms = (full.astype(float) ** 2).sum(1)
    assert norms[rows[0]] >= norms.max() * (1 - 1e-5)
    by_hand = seeding_by_hand(squares(full), np.ones(n), k, np.random.default_rng(seed), [], [int(rows[0])])
    # Equal gradients of different factors are at distance 0 up to rounding: such a row may come a little sooner.
    if len(np.unique(full, axis=0)) >= k:
        assert rows.tolist() == by_hand
    assert len(set(rows.tolist())) == k


def test_badge_uses_onehot_minus_p_and_not_p() -> None:
    """SPEC item 12: with −p ⊗ h, sure rows have the largest embeddings; the gradients of all sure rows are 0."""
    p = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.4, 0.3, 0.3], [0.0, 0.0, 1.0], [0.3, 0.4, 0.3]])
    h = np.array([[9.0, 0.0], [0.0, 9.0], [1.0, 1.0], [9.0, 9.0], [1.0, -1.0]])
    coefficients = p - np.eye(3)[p.argmax(1)]
    for seed in range(10):
        rows = gradient_seeding(coefficients, h, 5, np.random.default_rng(seed))
        assert rows[0] in (2, 4)
        assert {2, 4} < set(rows[:3].tolist())
        np.testing.assert_array_equal(gradient_seeding(-coefficients, h, 5, np.random.default_rng(seed)), rows)


@pytest.mark.parametrize("ahead", [(1, 1), (8, 8), (64, 1024)])
@pytest.mark.parametrize("kind", ["weighted", "gradient"])
def test_draws_in_advance_have_the_right_probabilities(
    kind: str, ahead: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Third pick given the first two, counted and computed; proposals of too high a mass must be refused."""
    monkeypatch.setattr(seeding, "_SMALL", 0)
    monkeypatch.setattr(seeding, "LOOKAHEAD", ahead)
    points = np.array([[1.0, 0.0], [1.5, 0.0], [9.0, 0.0], [9.5, 1.0], [3.0, 5.0]])
    weights = np.array([1.0, 3.0, 2.0, 2.0, 1.0])
    coefficients = np.array([[1.0, -1.0], [0.5, -0.5], [0.2, -0.2], [0.3, -0.3], [0.1, -0.1]])
    counts: dict[tuple[int, int], Array] = {}
    for seed in range(3000):
        rng = np.random.default_rng(seed)
        if kind == "weighted":
            rows = weighted_seeding(points, weights, 3, rng)
        else:
            rows = gradient_seeding(coefficients, points, 3, rng)
        counts.setdefault((int(rows[0]), int(rows[1])), np.zeros(5))[rows[2]] += 1
    distance = squares(points if kind == "weighted" else gradients(coefficients, points))
    checked = 0
    for pair, found in counts.items():
        if found.sum() < 150:
            continue
        mass = distance[:, list(pair)].min(1) * (weights if kind == "weighted" else 1)
        np.testing.assert_allclose(found / found.sum(), mass / mass.sum(), atol=0.12)
        checked += found.sum()
    assert checked > 1500


def test_rows_of_weight_0_come_last_and_all_of_them_come() -> None:
    weights = np.array([0.0, 2.0, 0.0, 1.0, 0.0])
    last = set()
    for seed in range(30):
        rows = weighted_seeding(np.arange(5.0)[:, None], weights, 5, np.random.default_rng(seed))
        assert set(rows[:2].tolist()) == {1, 3}
        assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]
        last.add(int(rows[4]))
    assert last == {0, 2, 4}
