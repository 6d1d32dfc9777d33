"""Stage `select`: which questions to label with the budget."""

from ka2l.common import atomic_files
from ka2l.pipeline.arms import options_of, split_stage, strategy_of
from ka2l.pipeline.context import Context
from ka2l.pipeline.shared.artifact_tables import as_table
from ka2l.pipeline.shared.pool_signal_files import pool_signals
from ka2l.selection.select import needs, select


def select_questions(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """Choose what to buy with the budget."""
    config, run = context.config, context.run
    _, arm = split_stage(stage)
    strategy = strategy_of(config, arm)
    chosen, options = config.select, options_of(config)
    signals = pool_signals(context, needs(strategy, options))
    seed = config.seed if chosen.seed is None else chosen.seed
    if config.select.budget > len(signals.ids):
        context.reporter.say(
            f"select: the budget of {config.select.budget} is more than the pool of {len(signals.ids)}; all of it is taken."
        )
    with run.stage(stage, key, inputs) as record:
        selection = select(strategy, signals, chosen.budget, seed, options)
        rows = [
            {"question_id": i, "rank": rank, "score": score, "strategy": strategy, "reason": reason}
            for rank, (i, score, reason) in enumerate(zip(*selection, strict=True), start=1)
        ]
        atomic_files.write_table(run.file("selection.parquet", arm), as_table(rows))
        record.counts = {"bought": len(rows), "pool": len(signals.ids)}
