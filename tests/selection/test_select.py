"""Every strategy by one suite, which it enters by being listed; then what is particular to each."""

import tracemalloc
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ka2l.errors import ConfigError, DataError, DegenerateError
from ka2l.selection.near_copies import Apart, Directions
from ka2l.selection.select import STRATEGIES, Options, Selection, Signals, Strategy, needs, select
from ka2l.selection.signals import SIGNALS, Picks, Pool, prepared
from ka2l.selection.strategies import diversity

POOL, WIDTH = 60, 5
every_strategy = pytest.mark.parametrize("strategy", sorted(STRATEGIES))
OPTIONS = {
    "plain": Options(),
    "random": Options(draw="random"),
    "all": Options(known_fraction=0.3, band=(0.2, 0.9), near_copy=0.8, space="sentence"),
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


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


def needed_by(strategy: str, options: Options) -> tuple[str, ...]:
    """In these tests `badge_gradient` gets the classes' probabilities, which it takes in place of the probe's."""
    instead = STRATEGIES[strategy].instead
    return tuple(instead.get(name, name) for name in needs(strategy, options))


def values_of(signals: Signals, name: str, bought: Selection) -> NDArray[np.floating]:
    """The signal of each bought question, looked up by id."""
    by_id = dict(zip(signals.ids.tolist(), getattr(signals, name), strict=True))
    return np.array([by_id[question_id] for question_id in bought.ids])


# The suite ------------------------------------------------------------------------------------------------------


@every_strategy
@every_option
def test_right_count_unique_and_inside_the_pool(strategy: str, options: Options) -> None:
    signals = make_signals()
    for budget in (1, 2, 17, POOL - 1, POOL, POOL + 1, 10 * POOL):
        bought = select(strategy, signals, budget, 0, options)
        assert len(bought.ids) == len(bought.scores) == len(bought.reason) == min(budget, POOL)
        assert len(set(bought.ids)) == len(bought.ids)
        assert set(bought.ids) <= set(signals.ids.tolist())
        assert all(type(question_id) is str for question_id in bought.ids)
        assert np.isfinite(bought.scores).all()
        assert all(bought.reason)


@every_strategy
@every_option
def test_what_is_bought_is_not_bought_again(strategy: str, options: Options) -> None:
    """Round after round until nothing is left; ids bought elsewhere are allowed among those given."""
    signals = make_signals()
    bought: list[str] = []
    for left in (60, 40, 20):
        bought_now = select(strategy, signals, 20, 0, options, [*bought, "bought elsewhere"]).ids
        assert len(bought_now) == 20
        bought += bought_now
        assert len(set(bought)) == len(bought) == POOL - left + 20
    assert len(select(strategy, signals, 20, 0, options, bought[:55]).ids) == 5
    with pytest.raises(DegenerateError, match="All 60 questions of the pool are bought"):
        select(strategy, signals, 20, 0, options, set(bought))


@every_strategy
@every_option
def test_an_empty_labelled_set_and_one_from_elsewhere_change_nothing(strategy: str, options: Options) -> None:
    """SPEC item 12: a crash on an empty labelled set."""
    signals = make_signals()
    expected = select(strategy, signals, 20, 0, options)
    nothing: list[Collection[str]] = [(), [], set(), {"bought elsewhere"}, ["q-"]]
    for labelled in nothing:
        assert select(strategy, signals, 20, 0, options, labelled) == expected


@every_strategy
@every_option
def test_seeded_and_by_nothing_else(strategy: str, options: Options) -> None:
    signals = make_signals()
    np.random.seed(1)
    one = select(strategy, signals, 20, 3, options)
    np.random.seed(2)
    assert select(strategy, signals, 20, 3, options) == one


@every_strategy
@every_option
def test_independent_of_the_order_of_the_rows(strategy: str, options: Options) -> None:
    """Also where ties must be broken, and with questions bought before."""
    signals = make_signals()
    tied = with_signal(signals, "p_unknown", np.arange(POOL, dtype=np.float32) % 4 / 4)
    tied = with_signal(tied, "embedding", np.arange(POOL * WIDTH).reshape(POOL, WIDTH) % 7 * 1.0)
    for arranged in (signals, tied):
        for labelled in (list[str](), signals.ids[:7].tolist()):
            expected = select(strategy, arranged, 20, 1, options, labelled)
            for seed in range(2):
                order = np.random.default_rng(seed).permutation(POOL)
                assert (
                    select(strategy, rearranged(arranged, order), 20, 1, options, labelled[::-1]) == expected
                )


@every_strategy
@every_option
def test_constant_signals(strategy: str, options: Options) -> None:
    signals = make_signals()
    for value in (0.0, 0.5, 1.0):
        constant = Signals(
            signals.ids,
            **{
                name: np.full_like(getattr(signals, name), value)
                for name in SIGNALS
                if name != "class_probabilities"
            },
        )
        assert len(set(select(strategy, constant, 25, 0, options).ids)) == 25


@every_strategy
@every_option
def test_questions_with_equal_signals_are_different_questions(strategy: str, options: Options) -> None:
    fourfold = rearranged(make_signals(POOL // 4), np.repeat(np.arange(POOL // 4), 4))
    ids = np.array([f"q{i:03d}" for i in range(len(fourfold.ids))])
    for budget in (20, 40, POOL):
        bought = select(strategy, replace(fourfold, ids=ids), budget, 0, options, ids[:3].tolist())
        assert len(set(bought.ids)) == min(budget, POOL - 3)


@every_strategy
@every_option
def test_a_pool_of_one_and_of_two(strategy: str, options: Options) -> None:
    signals = make_signals(1)
    assert select(strategy, signals, 5, 0, options).ids == signals.ids.tolist()
    signals = make_signals(2)
    assert sorted(select(strategy, signals, 5, 0, options).ids) == sorted(signals.ids.tolist())
    assert select(strategy, signals, 5, 0, options, signals.ids[:1].tolist()).ids == [signals.ids[1]]


@every_strategy
def test_an_empty_pool_and_a_budget_of_nothing(strategy: str) -> None:
    with pytest.raises(DegenerateError, match="pool is empty"):
        select(strategy, make_signals(0), 5, 0)
    with pytest.raises(ConfigError, match="budget of 0"):
        select(strategy, make_signals(), 0, 0)


@every_strategy
def test_an_id_that_stands_twice(strategy: str) -> None:
    signals = make_signals()
    signals.ids[7] = signals.ids[3]
    with pytest.raises(DataError, match=rf"more than once.*{signals.ids[3]}"):
        select(strategy, signals, 5, 0)


@every_strategy
@every_option
def test_signals_that_are_not_numbers_are_reported_with_their_ids(strategy: str, options: Options) -> None:
    signals = make_signals()
    for name in needed_by(strategy, options):
        for bad in (np.nan, np.inf, -np.inf):
            values = np.array(getattr(signals, name))
            values[[4, 9]] = bad
            with pytest.raises(DataError, match=rf"{name} holds NaN or infinite .* 2 questions") as caught:
                select(strategy, with_signal(signals, name, values), 5, 0, options)
            assert all(question_id in str(caught.value) for question_id in signals.ids[[4, 9]])


@every_strategy
@every_option
def test_what_needs_names_is_needed_and_nothing_else_is(strategy: str, options: Options) -> None:
    signals, needed = make_signals(), needed_by(strategy, options)
    alone = only(signals, needed)
    for name in needed:
        with pytest.raises(DataError, match=rf"{name} has 3 rows for {POOL}"):
            select(strategy, with_signal(alone, name, getattr(signals, name)[:3]), 5, 0, options)
        missing = "p_unknown" if name == "class_probabilities" else name
        with pytest.raises(DataError, match=rf"{strategy} needs the signal {missing}.*ka2l map"):
            select(strategy, with_signal(alone, name, None), 5, 0, options)
    assert select(strategy, alone, 20, 0, options) == select(strategy, signals, 20, 0, options)


@every_strategy
@every_option
def test_options_that_are_not_listed_are_not_read(strategy: str, options: Options) -> None:
    """A stage's key leaves them out."""
    signals, listed = make_signals(), STRATEGIES[strategy].options
    read: dict[str, Any] = {name: getattr(options, name) for name in listed}
    assert select(strategy, signals, 20, 0, options) == select(strategy, signals, 20, 0, Options(**read))
    assert needs(strategy, options) == needs(strategy, Options(**read))


@every_strategy
@every_option
def test_memory_maps_give_the_same(strategy: str, options: Options, tmp_path: Path) -> None:
    signals = rearranged(make_signals(), np.argsort(make_signals().ids))
    mapped: dict[str, Any] = {}
    for name in SIGNALS:
        np.save(tmp_path / f"{name}.npy", getattr(signals, name))
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    for labelled in (list[str](), signals.ids[5:9].tolist()):
        expected = select(strategy, signals, 20, 0, options, labelled)
        assert select(strategy, Signals(signals.ids, **mapped), 20, 0, options, labelled) == expected


# What all share -------------------------------------------------------------------------------------------------


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


def test_names_and_needs() -> None:
    with pytest.raises(ConfigError, match=r"No query strategy 'badger'; there are: badge, badge_gradient"):
        needs("badger")
    assert needs("badge") == ("embedding", "next_token_entropy")
    assert needs("badge", Options(space="sentence")) == ("next_token_entropy", "sentence_embedding")
    assert needs("unknown") == ("p_unknown",)
    assert needs("unknown", Options(space="sentence")) == ("p_unknown",)
    assert needs("unknown", Options(near_copy=0.9)) == ("embedding", "p_unknown")
    assert needs("known", Options(near_copy=0.9, space="sentence")) == ("p_unknown", "sentence_embedding")
    assert needs("random", Options(near_copy=0.9)) == ()


def test_recipes_know_every_strategy() -> None:
    from ka2l.selection import settings as settings_module

    assert set(get_args(settings_module.Strategy)) == set(STRATEGIES)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"draw": "best"}, "draw='best': one of top, random"),
        ({"space": "token"}, "space='token': one of state, sentence"),
        ({"known_fraction": 1.5}, "known_fraction=1.5: from 0 to 1"),
        ({"band": (0.9, 0.2)}, "band=.*0 <= low <= high <= 1"),
        ({"near_copy": 2.0, "draw": "best"}, "draw=.*near_copy=2.0"),
    ],
)
def test_options_outside_what_is_allowed(settings_: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Options(**settings_)


def contested(pool: Pool, k: int, _rng: np.random.Generator, _options: Options) -> Picks:
    assert pool.p_unknown is not None
    doubt = -np.abs(pool.p_unknown - 0.5)
    rows = pool.free[np.argsort(-doubt[pool.free], kind="stable")][:k]
    return Picks(rows, doubt[rows], ["near the border"] * k)


def test_a_strategy_of_ones_own() -> None:
    signals = make_signals()
    assert signals.p_unknown is not None
    order = np.argsort(np.abs(signals.p_unknown - 0.5))
    bought = select(Strategy(contested, ("p_unknown",)), signals, 7, 0, labelled=[signals.ids[order[2]]])
    assert bought.ids == signals.ids[np.delete(order, 2)][:7].tolist()
    with pytest.raises(DataError, match="Strategy contested needs the signal p_unknown"):
        select(Strategy(contested, ("p_unknown",)), with_signal(signals, "p_unknown", None), 7, 0)


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 1], [0, 1, 2, 3], [0, 1, 5]])
def test_a_strategy_that_miscounts_or_buys_again_is_caught(rows: list[int]) -> None:
    wrong = Strategy(lambda *_: Picks(np.array(rows), np.zeros(len(rows)), ["" for _ in rows]))
    labelled = [np.sort(make_signals().ids)[5]]
    with pytest.raises(AssertionError, match="not 3"):
        select(wrong, make_signals(), 3, 0, labelled=labelled)


def test_which_strategies_draw() -> None:
    signals = make_signals()
    by_rank = (
        "unknown",
        "unknown_diverse",
        "known",
        "entropy",
        "least_confidence",
        "margin",
        "likelihood",
        "facility_location",
    )
    by_draw = (
        "combine",
        "random",
        "semantic_entropy",
        "coreset",
        "badge",
        "badge_gradient",
    )
    for strategy in (*by_rank, *by_draw):
        drawn = {tuple(select(strategy, signals, 20, seed).ids) for seed in range(6)}
        assert len(drawn) == (1 if strategy in by_rank else 6), strategy
    draw = Options(draw="random")
    for strategy in ("unknown", "known"):
        assert len({tuple(select(strategy, signals, 20, seed, draw).ids) for seed in range(6)}) == 6


# Strategies that rank -------------------------------------------------------------------------------------------


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
    counts = Counter(
        question_id for seed in range(600) for question_id in select("random", signals, 3, seed).ids
    )
    assert len(counts) == 12
    assert min(counts.values()) > 100  # 150 expected
    assert max(counts.values()) < 200


# Near-copies and directions -------------------------------------------------------------------------------------


def cosines(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Between all rows, relative to their mean; 0 for a row at the mean."""
    moved = x.astype(np.float64) - x.astype(np.float64).mean(0)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    unit = np.where(lengths > 1e-4, moved / np.maximum(lengths, 1e-4), 0)
    return unit @ unit.T


def suppressed_by_hand(
    similar: NDArray[np.float64], ranked: list[int], k: int, limit: float, start: list[int]
) -> list[int]:
    taken = list(start)
    out: list[int] = []
    for row in ranked:
        if len(out) < k and all(similar[row, other] <= limit for other in taken):
            taken.append(row)
            out.append(row)
    return out + [row for row in ranked if row not in out][: k - len(out)]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**6), st.sampled_from([-0.5, 0.1, 0.6, 0.95]), st.data())
def test_near_copies_are_passed_over_as_by_hand(n: int, seed: int, limit: float, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(n, 3)) + 100).astype(np.float32)
    similar = cosines(x)
    off_limit = np.abs(similar - limit).min() > 1e-4  # rounding may decide otherwise at the limit itself
    p = rng.permutation(n).astype(np.float32) / n
    ids = np.array([f"{i:03d}" for i in range(n)])
    k = data.draw(st.integers(1, n - 1))
    labelled = data.draw(st.lists(st.integers(0, n - 1), max_size=n - k, unique=True))
    bought = select(
        "known",
        Signals(ids, p, x),
        k,
        0,
        Options(near_copy=limit),
        [ids[i] for i in labelled],
    )
    ranked = [int(i) for i in np.argsort(p) if i not in labelled]
    if off_limit:
        assert [int(i) for i in bought.ids] == suppressed_by_hand(similar, ranked, k, limit, labelled)


def test_near_copies_over_more_rows_than_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from ka2l.selection import near_copies

    x = np.random.default_rng(0).normal(size=(53, 3)).astype(np.float32)
    ranked = np.random.default_rng(1).permutation(53)
    expected = Apart(Directions(x), 0.8, ranked[:7]).take(ranked[7:], 20)
    assert len(expected) > 5
    monkeypatch.setattr(near_copies, "_BLOCK", 4)
    monkeypatch.setattr(near_copies, "_CHUNK", 10)
    np.testing.assert_array_equal(Apart(Directions(x), 0.8, ranked[:7]).take(ranked[7:], 20), expected)
    # In several calls as in one.
    spread = Apart(Directions(x), 0.8, ranked[:7])
    parts = [spread.take(ranked[7:20], 20), spread.take(ranked[20:], 20)]
    np.testing.assert_array_equal(np.concatenate(parts)[: len(expected)], expected)


def test_states_are_compared_without_their_common_mean() -> None:
    """Raw cosines of last-prompt-token states are all near 1: everything would be a near-copy of everything."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(40, 8)) + 50).astype(np.float16)
    raw = x.astype(float) @ x.T.astype(float) / np.outer(*[np.linalg.norm(x.astype(float), axis=1)] * 2)
    assert raw.min() > 0.99
    x[39] = x[0]  # one real copy
    signals = Signals(
        np.array([f"{i:02d}" for i in range(40)]), np.linspace(1, 0.6, 40).astype(np.float32), x
    )
    bought = select("unknown", signals, 39, 0, Options(near_copy=0.99)).ids
    assert bought == [f"{i:02d}" for i in range(39)]
    signals = replace(signals, p_unknown=np.linspace(0.6, 1, 40).astype(np.float32))
    bought = select("unknown", signals, 40, 0, Options(near_copy=0.99)).ids
    assert bought == [
        *(f"{i:02d}" for i in range(39, 0, -1)),
        "00",
    ]  # it comes back when nothing else is left


def test_directions_by_hand() -> None:
    x = np.array([[11.0, 20.0], [9.0, 20.0], [10.0, 24.0], [10.0, 16.0], [10.0, 20.0]], dtype=np.float16)
    directions = Directions(x)
    expected = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(directions.matrix(), expected)
    assert directions.matrix().dtype == np.float16
    np.testing.assert_allclose(directions.of(np.array([3, 0])), expected[[3, 0]])
    np.testing.assert_allclose(directions.matrix(np.array([3, 0])), expected[[3, 0]])


# Ours -----------------------------------------------------------------------------------------------------------


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


# Spread over an embedding ---------------------------------------------------------------------------------------


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


def test_coreset_starts_anywhere_or_from_what_is_bought() -> None:
    signals = make_signals(10)
    firsts = {select("coreset", signals, 3, seed).ids[0] for seed in range(60)}
    assert len(firsts) > 7
    line = Signals(np.array(list("abcdef")), embedding=np.array([[0.0], [1], [2], [5], [9], [30]]))
    for seed in range(5):
        assert select("coreset", line, 3, seed, labelled=["f", "b"]).ids == ["e", "d", "a"]


def test_badge_prefers_entropy_and_starts_from_what_is_bought() -> None:
    signals = make_signals(10)
    entropy = np.zeros(10, dtype=np.float32)
    entropy[[2, 5, 8]] = [1.0, 2.0, 3.0]
    weighted = with_signal(signals, "next_token_entropy", entropy)
    for seed in range(5):
        assert set(select("badge", weighted, 3, seed).ids) == set(signals.ids[[2, 5, 8]].tolist())
    drawn = Counter(select("badge", weighted, 1, seed).ids[0] for seed in range(600))
    assert drawn[str(signals.ids[8])] == pytest.approx(300, abs=50)
    assert drawn[str(signals.ids[2])] == pytest.approx(100, abs=40)
    line = Signals(
        np.array(list("abcd")), embedding=np.array([[0.0], [1], [2], [4]]), next_token_entropy=np.ones(4)
    )
    counts = Counter(select("badge", line, 1, seed, labelled=["a"]).ids[0] for seed in range(1000))
    assert counts["b"] == pytest.approx(1000 / 21, abs=25)
    assert counts["d"] == pytest.approx(16000 / 21, abs=60)


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


def test_badge_gradient_is_the_gradient_and_not_minus_p() -> None:
    """SPEC item 12: −p ⊗ h in place of (onehot − p) ⊗ h makes the surest row of the longest state the first pick."""
    p = np.array([[0.99, 0.01], [0.5, 0.5], [0.6, 0.4], [1.0, 0.0]], dtype=np.float32)
    by_hand = np.array([[-0.01, 0.01], [-0.5, 0.5], [-0.4, 0.4], [0, 0]])
    np.testing.assert_allclose(diversity.hypothetical_gradient(p), by_hand, atol=1e-6)
    h = np.array([[10.0, 0], [1, 0], [0, 1], [50, 0]], dtype=np.float32)
    signals = Signals(np.array(list("abcd")), embedding=h, class_probabilities=p)
    # Norms of the gradients: 0.14, 0.71, 0.57, 0.
    for seed in range(20):
        assert select("badge_gradient", signals, 1, seed).ids == ["b"]


def test_badge_gradient_draws_as_if_the_gradients_were_there() -> None:
    rng = np.random.default_rng(3)
    p, h = rng.dirichlet(np.ones(3), 6).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
    one_hot = np.eye(3)[p.argmax(1)]
    gradients = ((p - one_hot)[:, :, None] * h[:, None, :]).reshape(6, 12)
    first = int(np.square(gradients).sum(1).argmax())
    chance = np.square(gradients - gradients[first]).sum(1)
    signals = Signals(np.array(list("abcdef")), embedding=h, class_probabilities=p)
    seconds: Counter[str] = Counter()
    for seed in range(1500):
        one, two = select("badge_gradient", signals, 2, seed).ids
        assert one == "abcdef"[first]
        seconds[two] += 1
    found = np.array([seconds[i] / 1500 for i in "abcdef"])
    np.testing.assert_allclose(found, chance / chance.sum(), atol=0.05)


def test_badge_gradient_takes_the_probe_where_there_is_no_classifier() -> None:
    signals = make_signals()
    p = signals.p_unknown
    assert p is not None
    probe = only(signals, ["embedding", "p_unknown"])
    heads = only(signals, ["embedding"])
    classes = with_signal(heads, "class_probabilities", np.stack([1 - p, p], axis=1))
    assert select("badge_gradient", probe, 20, 0) == select("badge_gradient", classes, 20, 0)
    logits = np.random.default_rng(0).normal(size=(POOL, 3))
    with pytest.raises(DataError, match=r"class_probabilities: 60 rows.*not logits"):
        select("badge_gradient", with_signal(heads, "class_probabilities", logits), 20, 0)


def typical_by_hand(points: Any, of: Any, blob: int) -> int:
    """The row of a blob with the least mean distance to its 20 nearest in it, in directions."""
    unit = Directions(points).matrix().astype(float)
    members = np.flatnonzero(of == blob)
    distances = np.linalg.norm(unit[members, None] - unit[None, members], axis=2)
    near = np.sort(distances, axis=1)[:, 1 : 1 + min(20, len(members) - 1)]
    return int(members[near.mean(1).argmin()])


def test_typiclust_buys_the_typical_one_of_each_cluster_the_largest_first() -> None:
    signals, of = blob_signals([10, 40, 25, 31])
    bought = select("typiclust", signals, 4, 0)
    assert blobs_of(bought, of) == [1, 3, 2, 0]
    assert [int(i) for i in bought.ids] == [
        typical_by_hand(signals.embedding, of, blob) for blob in (1, 3, 2, 0)
    ]


@pytest.mark.parametrize("strategy", ["typiclust", "kmeans"])
def test_clusters_without_a_bought_question_come_first(strategy: str) -> None:
    """Two rows alike in each blob but one, so that there can be no more clusters than blobs."""
    points = np.repeat(np.eye(5, dtype=np.float32), [2, 6, 4, 8, 3], axis=0)
    of = np.repeat(np.arange(5), [2, 6, 4, 8, 3])
    signals = Signals(np.array([f"{i:04d}" for i in range(23)]), embedding=points)
    labelled = [signals.ids[of == 3][0], signals.ids[of == 2][1]]
    for seed in range(5):
        bought = select(strategy, signals, 8, seed, labelled=labelled)
        assert blobs_of(bought, of) == [1, 4, 0, 3, 1, 2, 4, 0]


def test_turns_of_clusters_by_hand() -> None:
    pool = Pool(np.array(list("abcdefgh")), labelled=np.array([1]))
    cluster = np.array([4, 4, 4, 4, 2, 2, 7, 2], dtype=np.int32)
    quality = np.array([0.1, 9.0, 0.5, 0.5, 0.3, 0.2, 0.0, 0.3])
    # Cluster 2 (three rows) and 7 (one) have nothing bought; 4 has one. Within 2: e, h by row, then f.
    rows = diversity._round_robin(pool, cluster, quality, 7)
    assert [str(pool.ids[row]) for row in rows] == ["e", "g", "c", "h", "d", "f", "a"]


def test_typiclust_goes_round_when_the_budget_is_larger_than_the_clusters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diversity, "MOST_CLUSTERS", 4)
    signals, of = blob_signals([10, 40, 25, 31])
    for strategy in ("typiclust", "probcover"):
        counts = Counter(blobs_of(select(strategy, signals, 12, 0), of))
        assert set(counts) == {0, 1, 2, 3}
    assert Counter(blobs_of(select("typiclust", signals, 12, 0), of)) == {0: 3, 1: 3, 2: 3, 3: 3}


def test_probcover_covers_all_blobs() -> None:
    """SPEC item 12: a peer's ProbCover stayed in one blob."""
    signals, of = blob_signals([80, 40, 25, 31, 12])
    for seed in range(5):
        bought = select("probcover", signals, 5, seed)
        assert set(blobs_of(bought, of)) == {0, 1, 2, 3, 4}
        assert blobs_of(bought, of)[0] == 0  # the ball that covers most
        labelled = [f"{int(np.flatnonzero(of == blob)[3]):04d}" for blob in (0, 2, 3)]
        assert set(blobs_of(select("probcover", signals, 2, seed, labelled=labelled), of)) == {1, 4}


def test_kmeans_buys_the_nearest_to_each_center() -> None:
    signals, of = blob_signals([10, 40, 25, 31])
    unit = Directions(np.asarray(signals.embedding)).matrix().astype(float)
    expected = []
    for blob in (1, 3, 2, 0):
        members = np.flatnonzero(of == blob)
        expected.append(int(members[np.linalg.norm(unit[members] - unit[members].mean(0), axis=1).argmin()]))
    assert [int(i) for i in select("kmeans", signals, 4, 0).ids] == expected


@pytest.mark.parametrize("start", [[], [3, 8]])
def test_facility_location_adds_most_with_each_pick(start: list[int]) -> None:
    for seed in range(6):
        points = (np.random.default_rng(seed).normal(size=(18, 3)) + 5).astype(np.float32)
        signals = Signals(np.array([f"{i:03d}" for i in range(18)]), embedding=points)
        similar = np.maximum(cosines(points), 0)
        bought = select("facility_location", signals, 6, 0, labelled=[f"{i:03d}" for i in start])
        have = list(start)
        for row in (int(i) for i in bought.ids):
            reached = {i: similar[:, [*have, i]].max(axis=1).sum() for i in range(18) if i not in have}
            assert reached[row] > max(reached.values()) - 1e-4  # equal but for rounding
            have.append(row)
