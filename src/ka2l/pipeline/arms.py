"""The arms of a run: the main strategy and the baseline beside it, and how stages are named per arm."""

from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_stand_in
from ka2l.selection.options import Options
from ka2l.selection.select import needs

MAIN = "main"  # the arm of select.strategy; select.baseline has its own folder under arms/


def arms(config: RunConfig) -> list[str]:
    """The main arm and, where a baseline is asked for and will be taught, its arm."""
    baseline = config.select.baseline
    alone = baseline is None or baseline == config.select.strategy or has_stand_in(config)
    return [MAIN] if baseline is None or alone else [MAIN, baseline]


def strategy_of(config: RunConfig, arm: str) -> str:
    """The query strategy of an arm."""
    return config.select.strategy if arm == MAIN else arm


def options_of(config: RunConfig) -> Options:
    """The settings of query strategies; what a strategy does not read changes nothing."""
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
    """The stage that trains a probe; none where one trained before takes the place of all Stage 1."""
    return [] if config.map.probe else ["probe"]


def split_stage(stage: str) -> tuple[str, str]:
    """`select@random` → (`select`, `random`); `select` → (`select`, `main`)."""
    name, _, arm = stage.partition("@")
    return name, arm or MAIN


def arm_stage(name: str, arm: str) -> str:
    """`select`, `random` → `select@random`; `select`, `main` → `select`."""
    return name if arm == MAIN else f"{name}@{arm}"
