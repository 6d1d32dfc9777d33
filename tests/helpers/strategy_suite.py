"""The tests that every query strategy must pass; a strategy enters them by being listed in STRATEGIES.

A test module runs them by importing the class: `from strategy_suite import TestEveryStrategy as TestEveryStrategy`.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ka2l.errors import ConfigError, DataError, DegenerateError
from ka2l.selection.options import Options
from ka2l.selection.select import STRATEGIES, needs, select
from ka2l.selection.signals import SIGNALS, Signals
from selection_pools import POOL, WIDTH, make_signals, only, rearranged, with_signal

every_strategy = pytest.mark.parametrize("strategy", sorted(STRATEGIES))
OPTIONS = {
    "plain": Options(),
    "random": Options(draw="random"),
    "all": Options(known_fraction=0.3, band=(0.2, 0.9), near_copy=0.8, space="sentence"),
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def needed_by(strategy: str, options: Options) -> tuple[str, ...]:
    """In these tests `badge_gradient` gets the classes' probabilities, which it takes in place of the probe's."""
    instead = STRATEGIES[strategy].instead
    return tuple(instead.get(name, name) for name in needs(strategy, options))


class TestEveryStrategy:
    """Every strategy, with every set of options."""

    @every_strategy
    @every_option
    def test_right_count_unique_and_inside_the_pool(self, strategy: str, options: Options) -> None:
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
    def test_what_is_bought_is_not_bought_again(self, strategy: str, options: Options) -> None:
        """Round after round until nothing is left; ids bought elsewhere are allowed among those given."""
        signals = make_signals()
        bought: list[str] = []
        for left in (60, 40, 20):
            bought_now = select(strategy, signals, 20, 0, options, [*bought, "bought elsewhere"]).ids
            assert len(bought_now) == 20
            bought += bought_now
            assert len(set(bought)) == len(bought) == POOL - left + 20
        assert len(select(strategy, signals, 20, 0, options, bought[:55]).ids) == 5
        with pytest.raises(DegenerateError, match="All 60 questions of the pool are labelled"):
            select(strategy, signals, 20, 0, options, set(bought))

    @every_strategy
    @every_option
    def test_an_empty_labelled_set_and_one_from_elsewhere_change_nothing(self, strategy: str, options: Options) -> None:
        """SPEC item 12: a crash on an empty labelled set."""
        signals = make_signals()
        expected = select(strategy, signals, 20, 0, options)
        nothing: list[Collection[str]] = [(), [], set(), {"bought elsewhere"}, ["q-"]]
        for labelled in nothing:
            assert select(strategy, signals, 20, 0, options, labelled) == expected

    @every_strategy
    @every_option
    def test_seeded_and_by_nothing_else(self, strategy: str, options: Options) -> None:
        signals = make_signals()
        np.random.seed(1)
        one = select(strategy, signals, 20, 3, options)
        np.random.seed(2)
        assert select(strategy, signals, 20, 3, options) == one

    @every_strategy
    @every_option
    def test_independent_of_the_order_of_the_rows(self, strategy: str, options: Options) -> None:
        """Also where ties must be broken, and with questions bought before."""
        signals = make_signals()
        tied = with_signal(signals, "p_unknown", np.arange(POOL, dtype=np.float32) % 4 / 4)
        tied = with_signal(tied, "embedding", np.arange(POOL * WIDTH).reshape(POOL, WIDTH) % 7 * 1.0)
        for arranged in (signals, tied):
            for labelled in (list[str](), signals.ids[:7].tolist()):
                expected = select(strategy, arranged, 20, 1, options, labelled)
                for seed in range(2):
                    order = np.random.default_rng(seed).permutation(POOL)
                    assert select(strategy, rearranged(arranged, order), 20, 1, options, labelled[::-1]) == expected

    @every_strategy
    @every_option
    def test_constant_signals(self, strategy: str, options: Options) -> None:
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
    def test_questions_with_equal_signals_are_different_questions(self, strategy: str, options: Options) -> None:
        fourfold = rearranged(make_signals(POOL // 4), np.repeat(np.arange(POOL // 4), 4))
        ids = np.array([f"q{i:03d}" for i in range(len(fourfold.ids))])
        for budget in (20, 40, POOL):
            bought = select(strategy, replace(fourfold, ids=ids), budget, 0, options, ids[:3].tolist())
            assert len(set(bought.ids)) == min(budget, POOL - 3)

    @every_strategy
    @every_option
    def test_a_pool_of_one_and_of_two(self, strategy: str, options: Options) -> None:
        signals = make_signals(1)
        assert select(strategy, signals, 5, 0, options).ids == signals.ids.tolist()
        signals = make_signals(2)
        assert sorted(select(strategy, signals, 5, 0, options).ids) == sorted(signals.ids.tolist())
        assert select(strategy, signals, 5, 0, options, signals.ids[:1].tolist()).ids == [signals.ids[1]]

    @every_strategy
    def test_an_empty_pool_and_a_budget_of_nothing(self, strategy: str) -> None:
        with pytest.raises(DegenerateError, match="pool is empty"):
            select(strategy, make_signals(0), 5, 0)
        with pytest.raises(ConfigError, match="budget of 0"):
            select(strategy, make_signals(), 0, 0)

    @every_strategy
    def test_an_id_that_stands_twice(self, strategy: str) -> None:
        signals = make_signals()
        signals.ids[7] = signals.ids[3]
        with pytest.raises(DataError, match=rf"more than once.*{signals.ids[3]}"):
            select(strategy, signals, 5, 0)

    @every_strategy
    @every_option
    def test_signals_that_are_not_numbers_are_reported_with_their_ids(self, strategy: str, options: Options) -> None:
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
    def test_what_needs_names_is_needed_and_nothing_else_is(self, strategy: str, options: Options) -> None:
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
    def test_options_that_are_not_listed_are_not_read(self, strategy: str, options: Options) -> None:
        """A stage's key leaves them out."""
        signals, listed = make_signals(), STRATEGIES[strategy].options
        read: dict[str, Any] = {name: getattr(options, name) for name in listed}
        assert select(strategy, signals, 20, 0, options) == select(strategy, signals, 20, 0, Options(**read))
        assert needs(strategy, options) == needs(strategy, Options(**read))

    @every_strategy
    @every_option
    def test_memory_maps_give_the_same(self, strategy: str, options: Options, tmp_path: Path) -> None:
        signals = rearranged(make_signals(), np.argsort(make_signals().ids))
        mapped: dict[str, Any] = {}
        for name in SIGNALS:
            np.save(tmp_path / f"{name}.npy", getattr(signals, name))
            mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
        for labelled in (list[str](), signals.ids[5:9].tolist()):
            expected = select(strategy, signals, 20, 0, options, labelled)
            assert select(strategy, Signals(signals.ids, **mapped), 20, 0, options, labelled) == expected
