"""The stages in order: the picture of the program.

    questions → sample → measure → probe → map → select → augment → annotate → finetune → evaluate → report

`map` also computes the signals of the pool that strategies read; `augment` decodes new questions from hidden states.
"""

from ka2l.config.run_config import RunConfig
from ka2l.pipeline.context import Context
from ka2l.pipeline.stage import Stage
from ka2l.pipeline.stage_graph import Plan, plan
from ka2l.pipeline.stages import (
    annotate,
    augment,
    candidates,
    decoder,
    evaluate,
    finetune,
    load,
    map,
    measure,
    pool_signals,
    probe,
    replay,
    report,
    sample,
    select,
)

STAGES: tuple[Stage[Context], ...] = (
    load.STAGE,
    sample.SAMPLE,
    measure.STAGE,
    probe.STAGE,
    map.STAGE,
    pool_signals.SIGNALS,
    sample.POOL_ANSWERS,
    pool_signals.POOL_ENTROPY,
    pool_signals.POOL_LIKELIHOOD,
    pool_signals.SENTENCES,
    select.STAGE,
    decoder.DECODER_STATES,
    decoder.DECODER,
    candidates.STAGE,
    augment.STAGE,
    annotate.STAGE,
    replay.STAGE,
    finetune.STAGE,
    evaluate.STAGE,
    report.STAGE,
)
# The commands that run stages, in order.
VERBS = tuple(dict.fromkeys(stage.verb for stage in STAGES))


def plan_of(config: RunConfig) -> Plan[Context]:
    """Every stage this configuration needs, in the order they run, and what each reads."""
    return plan(STAGES, config)
