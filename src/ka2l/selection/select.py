"""Query strategies: which questions to label with a budget. Pure functions over arrays with ids.

    select("unknown", Signals(ids, p_unknown=p), budget=100, seed=0)

Every selection passes one check: unique ids, inside the pool, none labelled before, exactly min(budget, unlabelled)
many. To add a strategy, write the function and list it in STRATEGIES with the signals it needs (docs/strategies.md).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from ka2l.errors import ConfigError
from ka2l.selection.options import SPACES, Options
from ka2l.selection.signals import Picks, Pool, Selection, Signals, prepared
from ka2l.selection.strategies import diversity, ranking

__all__ = ["STRATEGIES", "Options", "Picks", "Pool", "Selection", "Signals", "Strategy", "needs", "select"]


@dataclass(frozen=True)
class Strategy:
    """A query strategy: the function, the signals it needs, and the options it reads.

    The function is called with a pool, a number of questions from 1 to the number of free rows, a random generator and
    options. It returns that many different free rows and changes nothing.
    """

    function: Callable[[Pool, int, np.random.Generator, Options], Picks]
    signals: tuple[str, ...] = ()  # "embedding" stands for the embedding that Options.space names
    options: tuple[str, ...] = ()  # names of the fields of Options it reads
    # Signal → a signal that is used in its place if it is given.
    instead: Mapping[str, str] = field(default_factory=dict)


_MIX = ("known_fraction", "band", "near_copy", "space")

STRATEGIES: dict[str, Strategy] = {
    "unknown": Strategy(ranking.unknown, ("p_unknown",), ("draw", *_MIX)),
    "unknown_diverse": Strategy(ranking.unknown_diverse, ("p_unknown", "embedding"), _MIX),
    "known": Strategy(ranking.known, ("p_unknown",), ("draw", "near_copy", "space")),
    "combine": Strategy(ranking.combine, ("p_unknown",), _MIX),
    "random": Strategy(ranking.random),
    "entropy": Strategy(ranking.entropy, ("next_token_entropy",)),
    "least_confidence": Strategy(ranking.least_confidence, ("top_probability",)),
    "margin": Strategy(ranking.margin, ("margin",)),
    "likelihood": Strategy(ranking.likelihood, ("sequence_log_likelihood",)),
    "semantic_entropy": Strategy(ranking.semantic_entropy, ("semantic_entropy",)),
    "coreset": Strategy(diversity.coreset, ("embedding",), ("space",)),
    "badge": Strategy(diversity.badge, ("embedding", "next_token_entropy"), ("space",)),
    "badge_gradient": Strategy(
        diversity.badge_gradient,
        ("embedding", "p_unknown"),
        ("space",),
        instead={"p_unknown": "class_probabilities"},
    ),
    "typiclust": Strategy(diversity.typiclust, ("embedding",), ("space",)),
    "probcover": Strategy(diversity.probcover, ("embedding",), ("space",)),
    "kmeans": Strategy(diversity.kmeans, ("embedding",), ("space",)),
    "facility_location": Strategy(diversity.facility_location, ("embedding",), ("space",)),
}


def select(
    strategy: str | Strategy,
    signals: Signals,
    budget: int,
    seed: int,
    options: Options | None = None,
    labelled: Collection[str] = (),
) -> Selection:
    """Select min(budget, unlabelled questions) questions.

    Args:
        strategy: a name in STRATEGIES, or a strategy of your own.
        signals: at least those that `needs` names; the others are not read.
        budget: how many questions to select, at least 1.
        seed: of all random draws.
        options: settings of single strategies.
        labelled: ids labelled before, in the pool or not: never selected again. Strategies that spread over an
            embedding start from those that are in it.

    Raises:
        ConfigError: no such strategy; a budget below 1.
        DegenerateError: the pool is empty, or all of it is labelled.
        DataError: a duplicate id in the pool; a signal is missing, has another number of rows, or holds NaN or
            infinite values.
    """
    chosen = _strategy_of(strategy)
    name = strategy if isinstance(strategy, str) else chosen.function.__name__
    options = options or Options()
    if budget < 1:
        raise ConfigError(f"A budget of {budget} selects nothing: give at least 1.")
    # A signal that can take the place of another is read if it is given.
    names = {
        chosen.instead[needed]
        if needed in chosen.instead and getattr(signals, chosen.instead[needed]) is not None
        else needed
        for needed in needs(chosen, options)
    }
    pool = prepared(signals, sorted(names), labelled, name)
    wanted = min(budget, len(pool.free))
    picks = chosen.function(pool, wanted, np.random.default_rng(seed), options)
    ids = [str(pool.ids[row]) for row in picks.rows]
    if len(set(ids)) != wanted or len(ids) != wanted or np.isin(picks.rows, pool.labelled).any():
        raise AssertionError(
            f"{name} picked {len(ids)} questions, {len(set(ids))} of them different, not {wanted} free ones"
        )
    return Selection(ids, [float(score) for score in picks.scores], list(picks.reason))


def needs(strategy: str | Strategy, options: Options | None = None) -> tuple[str, ...]:
    """The signals a strategy reads with these options, sorted by name.

    Raises:
        ConfigError: no such strategy.
    """
    chosen, options = _strategy_of(strategy), options or Options()
    names = set(chosen.signals)
    if "near_copy" in chosen.options and options.near_copy is not None:
        names.add("embedding")
    if "embedding" in names:
        names = (names - {"embedding"}) | {SPACES[options.space]}
    return tuple(sorted(names))


def _strategy_of(strategy: str | Strategy) -> Strategy:
    if isinstance(strategy, Strategy):
        return strategy
    if strategy not in STRATEGIES:
        raise ConfigError(f"No query strategy {strategy!r}; there are: {', '.join(sorted(STRATEGIES))}.")
    return STRATEGIES[strategy]
