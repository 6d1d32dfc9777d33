"""The arms of a run (the main strategy and the baseline), and the names of their stages."""

from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_stand_in
from ka2l.selection.options import Options
from ka2l.selection.select import needs

# The arm of select.strategy. The arm of select.baseline has its own folder under arms/.
MAIN = "main"


def arms(config: RunConfig) -> list[str]:
    """The main arm and, if a baseline is set and will be fine-tuned, its arm."""
    baseline = config.select.baseline
    alone = baseline is None or baseline == config.select.strategy or has_stand_in(config)
    return [MAIN] if baseline is None or alone else [MAIN, baseline]


def strategy_of(config: RunConfig, arm: str) -> str:
    """The query strategy of an arm."""
    return config.select.strategy if arm == MAIN else arm


def options_of(config: RunConfig) -> Options:
    """The settings of query strategies. A strategy ignores those it does not read."""
    chosen = config.select
    return Options(
        draw=chosen.draw,
        known_fraction=chosen.known_fraction,
        band=chosen.band,
        near_copy=chosen.near_copy,
        space=chosen.space,
    )


def signals_of(config: RunConfig, arm: str) -> tuple[str, ...]:
    """The signals of the pool that an arm's strategy reads."""
    return needs(strategy_of(config, arm), options_of(config))


def augments(config: RunConfig) -> bool:
    """Whether new questions are decoded from hidden states."""
    return config.augment.per_question > 0


def own_probe(config: RunConfig) -> list[str]:
    """The stage that trains a probe; empty if a probe trained before (`map.probe`) replaces Stage 1."""
    return [] if config.map.probe else ["probe"]


def split_stage(stage: str) -> tuple[str, str]:
    """`select@random` → (`select`, `random`); `select` → (`select`, `main`)."""
    name, _, arm = stage.partition("@")
    return name, arm or MAIN


def arm_stage(name: str, arm: str) -> str:
    """`select`, `random` → `select@random`; `select`, `main` → `select`."""
    return name if arm == MAIN else f"{name}@{arm}"
