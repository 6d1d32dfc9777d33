"""Stage `select`: choose the questions to label, within the budget."""

from typing import Any

from ka2l.common import atomic_files
from ka2l.config.run_config import RunConfig
from ka2l.pipeline.arms import options_of, signals_of, strategy_of
from ka2l.pipeline.context import Context
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.artifact_tables import as_table
from ka2l.pipeline.shared.pool_signal_files import pool_signals
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.selection.select import STRATEGIES, needs, select


def select_questions(context: Context, attempt: Attempt) -> None:
    """Select questions within the budget, with the strategy of the arm."""
    config = context.config
    strategy = strategy_of(config, attempt.arm)
    chosen, options = config.select, options_of(config)
    signals = pool_signals(context, needs(strategy, options))
    if config.select.budget > len(signals.ids):
        context.reporter.say(
            f"select: the budget of {config.select.budget} is larger than the pool of {len(signals.ids)}; all of the "
            "pool is selected."
        )
    with attempt.begin() as record:
        selection = select(strategy, signals, chosen.budget, config.selection_seed, options)
        rows = [
            {"question_id": i, "rank": rank, "score": score, "strategy": strategy, "reason": reason}
            for rank, (i, score, reason) in enumerate(zip(*selection, strict=True), start=1)
        ]
        atomic_files.write_table(attempt.file("selection.parquet"), as_table(rows))
        record.counts = {"bought": len(rows), "pool": len(signals.ids)}


# A setting with this value has no effect and is not hashed.
_OFF = {"known_fraction": None, "band": (0.0, 1.0), "near_copy": None, "space": "state"}


def _settings(config: RunConfig, arm: str, _known: Identities) -> list[Any]:
    """The strategy and the settings it reads. The encoder is in the key of the stage `sentences`."""
    strategy = strategy_of(config, arm)
    read = {"budget", *STRATEGIES[strategy].options}
    in_space = {"embedding", "sentence_embedding"} & set(signals_of(config, arm))
    read -= set() if in_space else {"space"}
    read -= {name for name in _OFF if name in read and getattr(config.select, name) == _OFF[name]}
    return [strategy, config.select.model_dump(mode="json", include=read), config.selection_seed]


STAGE = Stage(
    "select",
    verb="select",
    work=select_questions,
    reads=lambda config, arm: ["map"],
    settings=_settings,
    writes=(Written("selection.parquet"),),
    signals=signals_of,
    costs=lambda sizes, arm: Cost(sizes.selected),
)
