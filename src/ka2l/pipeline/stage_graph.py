"""Which stage depends on what: the picture of the house as a table. What makes a stage out of date: `content_keys`."""

from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import limit
from ka2l.pipeline.arms import MAIN, arm_stage, arms, augments, signals_of, split_stage

VERBS = (
    "load",
    "sample",
    "measure",
    "probe",
    "map",
    "select",
    "augment",
    "annotate",
    "finetune",
    "evaluate",
    "report",
)
_OF_SIGNAL = {  # which stage computes a signal of the pool
    "p_unknown": "map",
    "embedding": "map",
    "next_token_entropy": "signals",
    "top_probability": "signals",
    "margin": "signals",
    "semantic_entropy": "pool_entropy",
    "sequence_log_likelihood": "pool_likelihood",
    "sentence_embedding": "sentences",
}
_OF_MAP = ("map", "signals", "pool_answers", "pool_entropy", "pool_likelihood", "sentences")
_OF_VERB = {
    "map": _OF_MAP,
    "augment": ("decoder_states", "decoder", "candidates", "augment"),
    "annotate": ("annotate", "replay"),
}


def judges(config: RunConfig) -> bool:
    """Whether anything asks the judge of `measure`: itself, or a strategy that reads sampled entropies."""
    return not {"measure", "pool_entropy"}.isdisjoint(all_stages(config))


def inputs_of(stage: str, config: RunConfig) -> list[str]:
    """The stages whose artifacts this one reads."""
    name, arm = split_stage(stage)
    early = [] if config.map.probe else ["probe"]  # a probe trained before takes the place of all Stage 1
    table: dict[str, list[str]] = {
        "load": [],
        "sample": ["load"],
        "measure": ["sample"],
        "probe": ["sample", "measure"],
        "map": ["load", *early],
        "signals": ["load"],
        "pool_answers": ["load"],
        "pool_entropy": ["pool_answers", *(["measure"] if _fits_cosine(config) and early else [])],
        "pool_likelihood": ["load"],
        "sentences": ["load"],
        "select": sorted({"map", *(_OF_SIGNAL[name] for name in signals_of(config, arm))}, key=_rank),
        "decoder_states": ["load", *early],
        "decoder": ["decoder_states"],
        "candidates": [*early, "select", *([] if config.decoder.pretrained else ["decoder"])],
        "augment": ["map", "candidates"],
        "annotate": [arm_stage("select", arm), *(["augment"] if augments(config) and arm == MAIN else [])],
        "replay": ["load", *early, "map", arm_stage("annotate", arm)],
        "finetune": [
            arm_stage("annotate", arm),
            *([arm_stage("replay", arm)] if config.finetune.replay else []),
        ],
        "evaluate": [
            "load",
            *(arm_stage(s, a) for a in arms(config) for s in ("annotate", "finetune")),
        ],
        "report": {"measure": ["measure"], "annotate": [*early, "map", "annotate"]}.get(
            _last_verb(config), [*early, "map", "evaluate"]
        ),
    }
    return table[name]


def all_stages(config: RunConfig) -> list[str]:
    """Every stage this config can reach, in the order they run."""
    order: list[str] = []

    def visit(stage: str) -> None:
        for needed in inputs_of(stage, config):
            visit(needed)
        if stage not in order:
            order.append(stage)

    visit("report")
    return sorted(order, key=lambda stage: _rank(stage))


def stages_of(verb: str, config: RunConfig) -> list[str]:
    """The stages one verb runs: one per arm; `map` also computes the signals that strategies ask for.

    None where the answers and states of this config do not reach so far (see `reach`).
    """
    wanted = _OF_VERB.get(verb, (verb,))
    return [stage for stage in all_stages(config) if split_stage(stage)[0] in wanted]


def verb_of(stage: str) -> str:
    """The verb that runs a stage."""
    name, _ = split_stage(stage)
    return next((verb for verb, names in _OF_VERB.items() if name in names), name)


def _rank(stage: str) -> tuple[int, int]:
    name, arm = split_stage(stage)
    order = (
        "load",
        "sample",
        "measure",
        "probe",
        "map",
        *_OF_MAP[1:],
        "select",
        "decoder_states",
        "decoder",
        "candidates",
        "augment",
        "annotate",
        "replay",
        "finetune",
        "evaluate",
        "report",
    )
    return order.index(name), int(arm != MAIN)


def _fits_cosine(config: RunConfig) -> bool:
    return config.measure.judge == "embedding" and config.measure.embedding_threshold == "fit"


def _last_verb(config: RunConfig) -> str:
    end = limit(config)
    return "evaluate" if end is None else end.last
