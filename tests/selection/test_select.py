"""The table of strategies: each by the suite that all must pass, and the one check of what they return."""

import numpy as np
import pytest

from ka2l.errors import ConfigError, DataError
from ka2l.selection.options import Options
from ka2l.selection.select import Strategy, needs, select
from ka2l.selection.signals import Picks, Pool
from selection_pools import make_signals, with_signal
from strategy_suite import TestEveryStrategy as TestEveryStrategy  # the suite itself


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
