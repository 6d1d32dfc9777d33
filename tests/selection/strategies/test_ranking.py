"""Strategies that rank questions by one number."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ka2l.selection.options import Options
from ka2l.selection.select import select
from ka2l.selection.signals import Signals
from selection_pools import POOL, blob_signals, blobs_of, make_signals, values_of, with_signal


@pytest.mark.parametrize(
    ("strategy", "name", "sign", "offset"),
    [
        ("unknown", "p_unknown", 1, 0),
        ("known", "p_unknown", -1, 0),
        ("entropy", "next_token_entropy", 1, 0),
        ("least_confidence", "top_probability", -1, 1),
        ("margin", "margin", -1, 0),
        ("likelihood", "sequence_log_likelihood", -1, 0),
        ("semantic_entropy", "semantic_entropy", 1, 0),
    ],
)
def test_top_strategies_buy_the_top_and_scores_belong_to_the_ids(
    strategy: str, name: str, sign: int, offset: int
) -> None:
    """SPEC item 12: positions in a pool were mistaken for positions in the data, and the wrong rows were labelled."""
    signals = make_signals()
    if strategy == "semantic_entropy":  # without ties the best is defined
        signals = with_signal(signals, name, np.random.default_rng(5).random(POOL))
    values = offset + sign * getattr(signals, name).astype(np.float64)
    (best,) = select(strategy, signals, 1, 0).ids
    assert best == signals.ids[values.argmax()]
    bought = select(strategy, signals, 20, 0)
    np.testing.assert_allclose(bought.scores, np.sort(values)[::-1][:20])
    np.testing.assert_allclose(bought.scores, offset + sign * values_of(signals, name, bought), rtol=1e-6)
    again = select(strategy, signals, 20, 0, labelled=bought.ids[::2])
    np.testing.assert_allclose(again.scores[:10], bought.scores[1::2])
    if name == "p_unknown":
        for score, reason in zip(bought.scores, bought.reason, strict=True):
            assert reason.endswith(f"{abs(score):.3f}")
            assert reason.startswith("unknown" if abs(score) >= 0.5 else "known")


def test_ties_go_by_id_except_in_sampled_entropy_where_they_are_drawn_evenly() -> None:
    signals = make_signals(20)
    flat = np.repeat(np.array([2.0, 1.0], dtype=np.float32), 10)
    tied = replace(signals, next_token_entropy=flat, semantic_entropy=flat)
    assert select("entropy", tied, 4, 0).ids == sorted(signals.ids[:10])[:4]
    counts = Counter(i for seed in range(500) for i in select("semantic_entropy", tied, 4, seed).ids)
    assert set(counts) == set(signals.ids[:10].tolist())
    assert 140 < min(counts.values()) <= max(counts.values()) < 260  # 200 expected of each


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


@pytest.mark.parametrize(
    ("band", "budget", "expected"),
    [
        ((0.0, 1.0), 4, [100, 90, 80, 70]),
        ((0.0, 0.8), 3, [80, 70, 60]),
        (
            (0.0, 0.8),
            6,
            [80, 70, 60, 50, 90, 40],
        ),  # from 0.5 on; 0.9 and 0.4 are equally near, the surer first
        ((0.3, 0.6), 6, [60, 50, 40, 30, 70, 20]),
        ((0.7, 0.7), 1, [70]),  # float32(0.7) lies inside
        ((0.0, 0.2), 4, [20, 10, 0, 30]),  # a band below the border starts at 0
    ],
)
def test_a_band_restricts_the_unknown_side_and_the_nearest_fill_up(
    band: tuple[float, float], budget: int, expected: list[int]
) -> None:
    p = (np.arange(11) / 10).astype(np.float32)
    signals = Signals(np.array([f"{value:03d}" for value in range(0, 101, 10)]), p_unknown=p)
    bought = select("unknown", signals, budget, 0, Options(band=band)).ids
    assert [int(question_id) for question_id in bought] == expected
    drawn = [select("unknown", signals, budget, s, Options(band=band, draw="random")).ids for s in range(20)]
    low, high = Options(band=band).interval
    for ids in drawn:
        in_band = [p[int(i) // 10] for i in ids if np.float32(low) <= p[int(i) // 10] <= np.float32(high)]
        assert len(in_band) == min(budget, sum(np.float32(low) <= v <= np.float32(high) for v in p))


def pool_of(n_unknown: int, n_known: int) -> Signals:
    signals = make_signals(n_unknown + n_known)
    p = np.concatenate([np.linspace(0.5, 1, n_unknown), np.linspace(0, 0.49, n_known)]).astype(np.float32)
    return with_signal(signals, "p_unknown", np.random.default_rng(0).permutation(p))


@pytest.mark.parametrize("strategy", ["combine", "unknown", "unknown_diverse"])
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
def test_shares_of_known_questions(
    strategy: str, pool: tuple[int, int], budget: int, fraction: float, n_known: int
) -> None:
    signals = pool_of(*pool)
    bought = select(strategy, signals, budget, 0, Options(known_fraction=fraction))
    p = values_of(signals, "p_unknown", bought)
    assert len(p) == budget
    assert int((p < 0.5).sum()) == n_known
    np.testing.assert_allclose(bought.scores, p)


def test_the_share_is_half_for_combine_and_none_elsewhere_and_known_ones_are_drawn_evenly() -> None:
    signals = pool_of(30, 30)
    shares = {
        strategy: int((values_of(signals, "p_unknown", select(strategy, signals, 20, 0)) < 0.5).sum())
        for strategy in ("combine", "unknown", "known")
    }
    assert shares == {"combine": 10, "unknown": 0, "known": 20}
    counts: Counter[str] = Counter()
    for seed in range(300):
        bought = select("unknown", signals, 20, seed, Options(known_fraction=0.5))
        p = values_of(signals, "p_unknown", bought)
        assert (p[:10] > 0.8).all()  # the surest of the unknown
        counts.update(question_id for question_id, value in zip(bought.ids, p, strict=True) if value < 0.5)
    assert len(counts) == 30
    assert 60 < min(counts.values()) <= max(counts.values()) < 140  # 100 expected


def test_random_draws_all_questions_evenly() -> None:
    signals = make_signals(12)
    counts = Counter(question_id for seed in range(600) for question_id in select("random", signals, 3, seed).ids)
    assert len(counts) == 12
    assert min(counts.values()) > 100  # 150 expected
    assert max(counts.values()) < 200


def test_unknown_diverse_buys_unknown_questions_of_all_kinds() -> None:
    """The surest are all of one kind; those of a kind that is known are left alone."""
    of = np.repeat(np.arange(6), 40)
    p = np.select([of == 0, of == 5], [0.95, 0.1], 0.8) + np.random.default_rng(0).uniform(-0.02, 0.02, 240)
    signals, of = blob_signals([40] * 6, p_unknown=p.astype(np.float32))
    assert set(blobs_of(select("unknown", signals, 20, 0), of)) == {0}
    for seed in range(10):
        kinds = blobs_of(select("unknown_diverse", signals, 5, seed), of)
        assert sorted(kinds) == [0, 1, 2, 3, 4]
    bought_before = [f"{i:04d}" for i in range(240) if of[i] in (0, 1, 2)]
    for seed in range(10):
        assert sorted(blobs_of(select("unknown_diverse", signals, 2, seed, None, bought_before), of)) == [
            3,
            4,
        ]


def test_unknown_diverse_is_k_center_by_distance_times_p_unknown() -> None:
    """By hand: after a the largest distance · p is d's (4 · 0.5), then c's (min(3, 1) … 2 · 0.8), not b's (1 · 0.9)."""
    p = np.array([0.95, 0.9, 0.8, 0.5, 0.1], dtype=np.float32)
    line = np.array([[0.0], [1.0], [2.0], [4.0], [4.5]], dtype=np.float32)
    signals = Signals(np.array(list("abcde")), p, line)
    assert select("unknown_diverse", signals, 5, 0).ids == list("adcbe")
    # Questions called known may be bought where they lie far enough from the others: the border is no wall.
    far = Signals(
        np.array(list("abc")),
        np.array([0.9, 0.8, 0.3], dtype=np.float32),
        np.array([[0.0], [1.0], [9.0]], dtype=np.float32),
    )
    assert select("unknown_diverse", far, 2, 0).ids == ["a", "c"]
    # With a share of known questions, or a band, it is one.
    assert select("unknown_diverse", far, 2, 0, Options(known_fraction=0.0)).ids == ["a", "b"]
    assert select("unknown_diverse", far, 2, 0, Options(band=(0.5, 1.0))).ids == ["a", "b"]
    band = Options(band=(0.3, 0.85))
    assert select("unknown_diverse", signals, 3, 0, band).ids == ["c", "d", "b"]  # then the nearest outside


def test_unknown_diverse_with_near_copies() -> None:
    signals, of = blob_signals([40] * 6, p_unknown=np.full(240, 0.9, dtype=np.float32))
    for seed in range(5):
        kinds = blobs_of(select("unknown_diverse", signals, 12, seed, Options(near_copy=0.7)), of)
        assert sorted(kinds[:6]) == [0, 1, 2, 3, 4, 5]  # then near-copies, since nothing else is left
