"""The stages in order."""

from collections.abc import Callable

from ka2l.pipeline.context import Context
from ka2l.pipeline.stages import (
    annotate,
    augment,
    candidates,
    decoder,
    evaluate,
    finetune,
    map,
    measure,
    pool_signals,
    probe,
    replay,
    report,
    sample,
    select,
)

_Stage = Callable[[Context, str, str, dict[str, str]], None]
_WORK: dict[str, _Stage] = {
    "sample": sample.sample,
    "measure": measure.measure,
    "probe": probe.probe,
    "map": map.map_pool,
    "signals": pool_signals.next_token,
    "pool_answers": sample.pool_answers,
    "pool_entropy": pool_signals.sampled_entropy,
    "pool_likelihood": pool_signals.answer_likelihood,
    "sentences": pool_signals.sentences,
    "select": select.select_questions,
    "decoder_states": decoder.decoder_states,
    "decoder": decoder.train_decoder,
    "candidates": candidates.decode,
    "augment": augment.augment,
    "annotate": annotate.annotate,
    "replay": replay.replay,
    "finetune": finetune.finetune,
    "evaluate": evaluate.evaluate_models,
    "report": report.report,
}
