"""Every strategy by one suite, which it enters by being listed; then what is particular to each."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ka2l.errors import DataError, DegenerateError
from ka2l.selection.kernels import k_center_greedy, weighted_seeding
from ka2l.selection.strategies import (
    STRATEGIES,
    Options,
    Selection,
    Signals,
    needs_next_token_entropy,
    select,
)

POOL, WIDTH = 60, 5
SIGNALS = ("p_unknown", "embedding", "next_token_entropy")
every_strategy = pytest.mark.parametrize("strategy", sorted(STRATEGIES))


def make_signals(n: int = POOL, seed: int = 0) -> Signals:
    """A pool whose ids are in no order and look nothing like row numbers."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"q-{number}" for number in rng.choice(10**6, n, replace=False)], dtype=str)
    return Signals(
        ids,
        rng.random(n, dtype=np.float32),
        rng.normal(size=(n, WIDTH)).astype(np.float16),  # as stored
        rng.gamma(2, 1, n).astype(np.float32),
    )


def rearranged(signals: Signals, order: NDArray[np.intp]) -> Signals:
    arrays: dict[str, Any] = {name: getattr(signals, name)[order] for name in SIGNALS}
    return Signals(signals.ids[order], **arrays)


def with_signal(signals: Signals, name: str, values: Any) -> Signals:
    changed: dict[str, Any] = {name: values}
    return replace(signals, **changed)


# The suite ------------------------------------------------------------------------------------------------------


@every_strategy
@pytest.mark.parametrize("draw", ["top", "random"])
@pytest.mark.parametrize("budget", [1, 2, 17, POOL - 1, POOL, POOL + 1, 10 * POOL])
def test_right_count_unique_and_inside_the_pool(strategy: str, budget: int, draw: str) -> None:
    signals = make_signals()
    bought = select(strategy, signals, budget, 0, Options(draw=draw))
    assert len(bought.ids) == len(bought.scores) == len(bought.reason) == min(budget, POOL)
    assert len(set(bought.ids)) == len(bought.ids)
    assert set(bought.ids) <= set(signals.ids.tolist())
    assert all(type(question_id) is str for question_id in bought.ids)
    assert np.isfinite(bought.scores).all()
    assert all(bought.reason)


@every_strategy
@pytest.mark.parametrize("draw", ["top", "random"])
def test_seeded(strategy: str, draw: str) -> None:
    signals, options = make_signals(), Options(draw=draw)
    assert select(strategy, signals, 20, 3, options) == select(strategy, signals, 20, 3, options)
    drawn = {tuple(select(strategy, signals, 20, seed, options).ids) for seed in range(4)}
    deterministic = strategy == "entropy" or (strategy in ("unknown", "known") and draw == "top")
    assert len(drawn) == (1 if deterministic else 4)


@every_strategy
@pytest.mark.parametrize("draw", ["top", "random"])
def test_independent_of_the_order_of_the_rows(strategy: str, draw: str) -> None:
    """Also where ties must be broken."""
    signals, options = make_signals(), Options(draw=draw)
    tied = np.arange(POOL, dtype=np.float32) % 4 / 4
    for arranged in (signals, with_signal(signals, "p_unknown", tied)):
        expected = select(strategy, arranged, 20, 1, options)
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(POOL)
            assert select(strategy, rearranged(arranged, order), 20, 1, options) == expected


@every_strategy
def test_the_callers_arrays_are_left_alone(strategy: str) -> None:
    signals, untouched = make_signals(), make_signals()
    select(strategy, signals, 20, 1)
    for name in ("ids", *SIGNALS):
        np.testing.assert_array_equal(getattr(signals, name), getattr(untouched, name))


@every_strategy
def test_constant_signals(strategy: str) -> None:
    signals = make_signals()
    for value in (0.0, 0.5, 1.0):
        constant = Signals(
            signals.ids,
            np.full(POOL, value, dtype=np.float32),
            np.full((POOL, WIDTH), value, dtype=np.float16),
            np.full(POOL, value, dtype=np.float32),
        )
        for draw in ("top", "random"):
            assert len(set(select(strategy, constant, 25, 0, Options(draw=draw)).ids)) == 25


@every_strategy
def test_questions_with_equal_signals_are_different_questions(strategy: str) -> None:
    signals = make_signals(POOL // 4)
    fourfold = rearranged(signals, np.repeat(np.arange(POOL // 4), 4))
    ids = np.array([f"q{i:03d}" for i in range(len(fourfold.ids))])
    bought = select(strategy, replace(fourfold, ids=ids), 40, 0)
    assert len(set(bought.ids)) == 40


@every_strategy
def test_a_pool_of_one(strategy: str) -> None:
    signals = make_signals(1)
    assert select(strategy, signals, 5, 0).ids == signals.ids.tolist()


@every_strategy
def test_an_empty_pool(strategy: str) -> None:
    with pytest.raises(DegenerateError, match="pool is empty"):
        select(strategy, make_signals(0), 5, 0)


@every_strategy
def test_an_id_that_stands_twice(strategy: str) -> None:
    signals = make_signals()
    signals.ids[7] = signals.ids[3]
    with pytest.raises(DataError, match=rf"more than once.*{signals.ids[3]}"):
        select(strategy, signals, 5, 0)


@every_strategy
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_signals_that_are_not_numbers_are_reported_with_their_ids(strategy: str, bad: float) -> None:
    for name in STRATEGIES[strategy][1]:
        signals = make_signals()
        values = np.array(getattr(signals, name))
        values[[4, 9]] = bad
        with pytest.raises(DataError, match=rf"{name} holds NaN or infinite .* 2 questions") as caught:
            select(strategy, with_signal(signals, name, values), 5, 0)
        assert all(question_id in str(caught.value) for question_id in signals.ids[[4, 9]])


@every_strategy
def test_a_missing_signal_is_named_and_others_are_not_needed(strategy: str) -> None:
    needs = STRATEGIES[strategy][1]
    signals = make_signals()
    for name in needs:
        with pytest.raises(DataError, match=rf"{strategy} needs the signal {name}.*ka2l map"):
            select(strategy, with_signal(signals, name, None), 5, 0)
        with pytest.raises(DataError, match=rf"{name} has 3 rows for {POOL}"):
            select(strategy, with_signal(signals, name, getattr(signals, name)[:3]), 5, 0)
    only = signals
    for name in set(SIGNALS) - set(needs):
        only = with_signal(only, name, None)
    assert select(strategy, only, 20, 0) == select(strategy, signals, 20, 0)


@every_strategy
def test_the_costly_signal_is_announced(strategy: str) -> None:
    assert needs_next_token_entropy(strategy) == (strategy in ("entropy", "badge"))


# Each strategy --------------------------------------------------------------------------------------------------


def values_of(signals: Signals, name: str, bought: Selection) -> NDArray[np.floating]:
    """The signal of each bought question, looked up by id."""
    by_id = dict(zip(signals.ids.tolist(), getattr(signals, name), strict=True))
    return np.array([by_id[question_id] for question_id in bought.ids])


@pytest.mark.parametrize(
    ("strategy", "name", "sign"),
    [("unknown", "p_unknown", 1), ("known", "p_unknown", -1), ("entropy", "next_token_entropy", 1)],
)
def test_top_strategies_buy_the_top_and_scores_belong_to_the_ids(strategy: str, name: str, sign: int) -> None:
    """SPEC item 12: positions in a pool were mistaken for positions in the data, and the wrong rows were labelled."""
    signals = make_signals()
    values = sign * getattr(signals, name)
    (best,) = select(strategy, signals, 1, 0).ids
    assert best == signals.ids[values.argmax()]
    bought = select(strategy, signals, 20, 0)
    np.testing.assert_allclose(bought.scores, np.sort(values)[::-1][:20])
    np.testing.assert_allclose(bought.scores, sign * values_of(signals, name, bought))
    if name == "p_unknown":
        for score, reason in zip(bought.scores, bought.reason, strict=True):
            assert reason.endswith(f"{abs(score):.3f}")
            assert reason.startswith("unknown" if abs(score) >= 0.5 else "known")


@pytest.mark.parametrize(("strategy", "side"), [("unknown", True), ("known", False)])
def test_an_even_draw_stays_on_its_side_while_it_can(strategy: str, side: bool) -> None:
    signals = make_signals()
    p = signals.p_unknown
    assert p is not None
    on_side = int(((p >= 0.5) == side).sum())
    draw = Options(draw="random")
    some = values_of(signals, "p_unknown", select(strategy, signals, on_side // 2, 0, draw))
    assert ((some >= 0.5) == side).all()
    more = values_of(signals, "p_unknown", select(strategy, signals, on_side + 5, 0, draw))
    assert ((more[:on_side] >= 0.5) == side).all()
    # The rest are those of the other side that are nearest to the border.
    others = np.sort(p[(p >= 0.5) != side])
    np.testing.assert_array_equal(more[on_side:], others[::-1][:5] if side else others[:5])


def test_an_even_draw_is_even() -> None:
    signals = make_signals(20)
    p = np.linspace(0, 1, 20, dtype=np.float32)
    signals = with_signal(signals, "p_unknown", p)
    counts = Counter(
        question_id
        for seed in range(500)
        for question_id in select("unknown", signals, 5, seed, Options(draw="random")).ids
    )
    assert set(counts) == set(signals.ids[p >= 0.5].tolist())
    assert min(counts.values()) > 200  # 250 expected of each
    assert max(counts.values()) < 300


def pool_of(n_unknown: int, n_known: int) -> Signals:
    signals = make_signals(n_unknown + n_known)
    p = np.concatenate([np.linspace(0.5, 1, n_unknown), np.linspace(0, 0.49, n_known)]).astype(np.float32)
    return with_signal(signals, "p_unknown", np.random.default_rng(0).permutation(p))


@pytest.mark.parametrize(
    ("pool", "budget", "fraction", "n_known"),
    [
        ((30, 30), 20, 0.5, 10),
        ((30, 30), 20, 0.25, 5),
        ((30, 30), 20, 0.0, 0),
        ((30, 30), 20, 1.0, 20),
        ((30, 4), 20, 0.5, 4),  # too few known: unknown ones fill up
        ((4, 30), 20, 0.5, 16),  # too few unknown: known ones fill up
        ((4, 30), 20, 0.0, 16),
        ((30, 4), 20, 1.0, 4),
        ((30, 0), 20, 0.5, 0),
        ((0, 30), 20, 0.5, 20),
        ((30, 30), 60, 0.5, 30),
    ],
)
def test_shares_of_combine(pool: tuple[int, int], budget: int, fraction: float, n_known: int) -> None:
    signals = pool_of(*pool)
    bought = select("combine", signals, budget, 0, Options(known_fraction=fraction))
    p = values_of(signals, "p_unknown", bought)
    assert len(p) == budget
    assert int((p < 0.5).sum()) == n_known
    np.testing.assert_allclose(bought.scores, p)


def test_random_draws_all_questions_evenly() -> None:
    signals = make_signals(12)
    counts = Counter(
        question_id for seed in range(600) for question_id in select("random", signals, 3, seed).ids
    )
    assert len(counts) == 12
    assert min(counts.values()) > 100  # 150 expected
    assert max(counts.values()) < 200


def radius(points: NDArray[np.floating], picked: NDArray[np.floating]) -> float:
    """The largest distance of any point to its nearest picked one."""
    return float(
        np.linalg.norm(points[:, None].astype(float) - picked[None].astype(float), axis=2).min(1).max()
    )


def test_coreset_covers_better_than_random() -> None:
    rng = np.random.default_rng(0)
    # One dense blob and a few far ones: an even draw misses the far ones.
    centers = np.concatenate([np.zeros((1, WIDTH)), rng.normal(scale=20, size=(9, WIDTH))])
    points = np.repeat(centers, [200, *[5] * 9], axis=0) + rng.normal(size=(245, WIDTH))
    signals = replace(make_signals(245), embedding=points.astype(np.float32))
    for seed in range(5):
        covered = {
            name: radius(points, values_of(signals, "embedding", select(name, signals, 12, seed)))
            for name in ("coreset", "random")
        }
        assert covered["coreset"] < 6 < covered["random"]


def test_coreset_starts_anywhere_and_badge_prefers_entropy() -> None:
    signals = make_signals(10)
    firsts = {select("coreset", signals, 3, seed).ids[0] for seed in range(60)}
    assert len(firsts) > 7
    entropy = np.zeros(10, dtype=np.float32)
    entropy[[2, 5, 8]] = [1.0, 2.0, 3.0]
    weighted = with_signal(signals, "next_token_entropy", entropy)
    for seed in range(5):
        assert set(select("badge", weighted, 3, seed).ids) == set(signals.ids[[2, 5, 8]].tolist())
    drawn = Counter(select("badge", weighted, 1, seed).ids[0] for seed in range(600))
    assert drawn[str(signals.ids[8])] == pytest.approx(300, abs=50)
    assert drawn[str(signals.ids[2])] == pytest.approx(100, abs=40)


def test_badge_leaves_the_blob() -> None:
    """SPEC item 12: a strategy for diversity that stays in one dense place."""
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.normal(scale=0.1, size=(195, 2)), rng.normal(scale=0.1, size=(5, 2)) + 50])
    signals = Signals(
        np.array([f"{i:03d}" for i in range(200)]),
        embedding=points,
        next_token_entropy=np.ones(200, dtype=np.float32),
    )
    for seed in range(10):
        assert any(int(question_id) >= 195 for question_id in select("badge", signals, 2, seed).ids)


# Kernels --------------------------------------------------------------------------------------------------------


def greedy_by_hand(points: NDArray[np.floating], k: int, first: int) -> list[int]:
    picked = [first]
    while len(picked) < k:
        left = [i for i in range(len(points)) if i not in picked]
        picked.append(
            max(left, key=lambda i: (min(((points[i] - points[j]) ** 2).sum() for j in picked), -i))
        )
    return picked


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(0, 10**6), st.booleans(), st.data())
def test_k_center_greedy_against_a_search(n: int, seed: int, tied: bool, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    # Small whole numbers give ties and duplicates whose distances are exact.
    points = rng.integers(0, 3, size=(n, 2)).astype(np.float32) if tied else rng.normal(size=(n, 3))
    k, first = data.draw(st.integers(1, n)), data.draw(st.integers(0, n - 1))
    assert k_center_greedy(points, k, first).tolist() == greedy_by_hand(points.astype(np.float32), k, first)


def seeding_by_hand(
    points: NDArray[np.floating], weights: NDArray[np.floating], k: int, rng: np.random.Generator
) -> list[int]:
    """P(row) ∝ D² · weight by walking along the cumulative sum; evenly where all of it is 0."""
    picked: list[int] = []
    for _ in range(k):
        mass = []
        for i, weight in enumerate(weights):
            nearest = min((float(((points[i] - points[j]) ** 2).sum()) for j in picked), default=1.0)
            mass.append(0.0 if i in picked else nearest * float(weight))
        if sum(mass) > 0:
            target = rng.random() * sum(mass)
            total, row = 0.0, -1
            while total <= target:
                row += 1
                total += mass[row]
            picked.append(row)
        else:
            picked.append(int(rng.choice([i for i in range(len(points)) if i not in picked])))
    return picked


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(0, 10**6), st.booleans(), st.data())
def test_weighted_seeding_against_a_walk(n: int, seed: int, tied: bool, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    points = (rng.integers(0, 3, size=(n, 2)) if tied else rng.normal(size=(n, 3))).astype(np.float32)
    weights = rng.integers(0, 3, n).astype(np.float64) if tied else rng.random(n)
    k = data.draw(st.integers(1, n))
    rows = weighted_seeding(points, weights, k, np.random.default_rng(seed))
    assert rows.tolist() == seeding_by_hand(points, weights, k, np.random.default_rng(seed))


def test_weighted_seeding_draws_by_squared_distance_times_weight() -> None:
    points = np.array([[0.0], [1.0], [2.0], [3.0]])
    weights = np.array([1.0, 3.0, 0.0, 1.0])
    counts = np.zeros((4, 4))
    for seed in range(4000):
        first, second = weighted_seeding(points, weights, 2, np.random.default_rng(seed))
        counts[first, second] += 1
    np.testing.assert_allclose(counts.sum(1) / 4000, weights / 5, atol=0.03)
    np.testing.assert_allclose(counts[0] / counts[0].sum(), [0, 3 / 12, 0, 9 / 12], atol=0.06)
    np.testing.assert_allclose(counts[1] / counts[1].sum(), [1 / 5, 0, 0, 4 / 5], atol=0.04)


def test_kernels_over_more_rows_than_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC item 12: a peer dropped the last N mod 500 rows."""
    from ka2l.selection import kernels

    rng = np.random.default_rng(0)
    points, weights = rng.normal(size=(53, 4)), rng.random(53)
    whole = k_center_greedy(points, 53, 3), weighted_seeding(points, weights, 53, np.random.default_rng(1))
    monkeypatch.setattr(kernels, "_CHUNK", 10)
    chunked = k_center_greedy(points, 53, 3), weighted_seeding(points, weights, 53, np.random.default_rng(1))
    for one, other in zip(whole, chunked, strict=True):
        np.testing.assert_array_equal(one, other)
        assert sorted(other.tolist()) == list(range(53))


def test_half_precision_distances_do_not_overflow() -> None:
    """float16 ends at 65504; squared distances of real states go far beyond."""
    points = np.array([[0.0, 0.0], [300.0, 0.0], [600.0, 0.0], [30000.0, 0.0]], dtype=np.float16)
    assert k_center_greedy(points, 4, 0).tolist() == [0, 3, 2, 1]
    rows = weighted_seeding(points, np.ones(4), 4, np.random.default_rng(0))
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
