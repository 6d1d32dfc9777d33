"""Which stage depends on what: the picture of the house as a table, and the content keys that follow from it.

A stage's key hashes the parts of the config it reads and the keys of its inputs. Batch and part sizes are left out:
they change the order of rounding, not the meaning of a result, and nobody wants to pay twice for a smaller batch. Nor
does it matter where the questions lie: their content counts.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ka2l.config import RunConfig
from ka2l.reach import asks_model, has_model, has_stand_in, limit
from ka2l.selection.strategies import needs_next_token_entropy
from ka2l.store import MAIN, split_stage

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
_OF_VERB = {"map": ("map", "signals"), "augment": ("decoder_states", "decoder", "candidates", "augment")}


class Outside(NamedTuple):
    """What keys depend on besides the config."""

    source: str  # fingerprint of the questions' source
    model: str  # name and revision of the language model
    labels: str  # fingerprint of the answers people have given so far
    imported: str = ""  # fingerprint of answers made elsewhere
    judge: str = ""  # name and revision of the model that judges answers
    probe: str = ""  # revision of a probe trained before
    state: str = ""  # layer and position of the state the probe judges, once that is known
    decoder: str = ""  # revision of a decoder trained before, or of the T5 one is made of
    encoder: str = ""  # name and revision of the sentence embeddings that find near-copies


def arms(config: RunConfig) -> list[str]:
    """The main arm and, where a baseline is asked for and will be taught, its arm."""
    baseline = config.select.baseline
    alone = baseline is None or baseline == config.select.strategy or has_stand_in(config)
    return [MAIN] if baseline is None or alone else [MAIN, baseline]


def strategy_of(config: RunConfig, arm: str) -> str:
    """The query strategy of an arm."""
    return config.select.strategy if arm == MAIN else arm


def augments(config: RunConfig) -> bool:
    """Whether new questions are decoded from hidden states."""
    return config.augment.per_question > 0


def inputs_of(stage: str, config: RunConfig) -> list[str]:
    """The stages whose artifacts this one reads."""
    name, arm = split_stage(stage)
    suffix = "" if arm == MAIN else f"@{arm}"
    early = [] if config.map.probe else ["probe"]  # a probe trained before takes the place of all Stage 1
    table: dict[str, list[str]] = {
        "load": [],
        "sample": ["load"],
        "measure": ["sample"],
        "probe": ["sample", "measure"],
        "map": ["load", *early],
        "signals": ["load"],
        "select": ["map", "signals"] if needs_next_token_entropy(strategy_of(config, arm)) else ["map"],
        "decoder_states": ["load", *early],
        "decoder": ["decoder_states"],
        "candidates": [*early, "select", *([] if config.decoder.pretrained else ["decoder"])],
        "augment": ["map", "candidates"],
        "annotate": [f"select{suffix}", *(["augment"] if augments(config) and arm == MAIN else [])],
        "finetune": [f"annotate{suffix}"],
        "evaluate": [
            "load",
            *(f"{s}{'' if a == MAIN else '@' + a}" for a in arms(config) for s in ("annotate", "finetune")),
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


# What is read of these inputs is one fact, which is in `Outside`: a probe trained anew at the same layer judges the same
# states, and they need not be computed again, nor a decoder trained again on them.
_ONLY_A_FACT = {("decoder_states", "probe"), ("candidates", "probe")}


def keys(config: RunConfig, outside: Outside) -> dict[str, str]:
    """The content key of every stage."""
    found: dict[str, str] = {}
    for stage in all_stages(config):
        name, arm = split_stage(stage)
        content = {
            "stage": name,
            "settings": _SETTINGS[name](config, arm, outside),
            "inputs": {
                needed: found[needed]
                for needed in inputs_of(stage, config)
                if (name, needed) not in _ONLY_A_FACT
            },
        }
        found[stage] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    return found


def _rank(stage: str) -> tuple[int, int]:
    name, arm = split_stage(stage)
    order = (
        "load",
        "sample",
        "measure",
        "probe",
        "map",
        "signals",
        "select",
        "decoder_states",
        "decoder",
        "candidates",
        "augment",
        "annotate",
        "finetune",
        "evaluate",
        "report",
    )
    return order.index(name), int(arm != MAIN)


def _dump(section: Any, *, without: tuple[str, ...] = ()) -> Mapping[str, Any]:
    dumped: dict[str, Any] = section.model_dump(mode="json", exclude=set(without))
    return dumped


def _unused_questions(config: RunConfig) -> tuple[str, ...]:
    return ("source",) if config.questions.source == "geonames" else ("source", "geonames")


def _unused_measure(config: RunConfig) -> tuple[str, ...]:
    """Settings this judge, these scores and this rule do not read; how pairs are batched and kept changes nothing."""
    measure = config.measure
    read_by = {
        "equivalence": measure.judge in ("nli", "llm"),
        "clusters": measure.judge != "lexical",
        "embedding_threshold": measure.judge == "embedding",
        "p_true_shots": bool({"p_true", "ambiguity"} & set(measure.scores)),
        "quantile": measure.threshold == "quantile",
    }
    # Which model judges is known by name and revision, wherever it lies: `Outside.judge`.
    places = ("nli_model", "embedding_model", "llm_model", "batch_tokens", "cache")
    return (*places, *(name for name, read in read_by.items() if not read))


def _measure(config: RunConfig, outside: Outside) -> list[Any]:
    settings = [config.sample.n, _dump(config.measure, without=_unused_measure(config)), config.seed]
    settings += [outside.judge] if config.measure.judge != "lexical" else []
    return [*settings, _model(config, outside) if asks_model(config) else []]


def _unused_select(config: RunConfig, arm: str) -> tuple[str, ...]:
    """Settings only some strategies read."""
    strategy = strategy_of(config, arm)
    unused = ["strategy", "baseline"]
    unused += [] if strategy == "combine" else ["known_fraction"]
    unused += [] if strategy in ("unknown", "known") else ["draw"]
    return tuple(unused)


def _decoder(config: RunConfig, outside: Outside) -> list[Any]:
    """A T5 or a decoder is known by its revision, wherever it lies; each kind reads settings of its own."""
    unused = {"pretrained", "pretrained_revision", "t5", "t5_revision"}
    unused |= {"soft_tokens", "lora_rank"} if config.decoder.t5 else {"pseudo_tokens"}
    return [_dump(config.decoder, without=tuple(unused)), outside.decoder, config.seed]


_OF_SIFTING = ("embedding_model", "near_copy", "budget")


def _candidates(config: RunConfig, outside: Outside) -> list[Any]:
    given = outside.decoder if config.decoder.pretrained else ""
    settings = _dump(config.augment, without=_OF_SIFTING)
    return [_model(config, outside), outside.state, settings, given, config.seed]


def _augment(config: RunConfig, outside: Outside) -> list[Any]:
    """Who answers decides which questions nobody can answer."""
    augment = config.augment
    budget = config.select.budget if augment.budget is None else augment.budget
    return [augment.near_copy, budget, outside.encoder, config.annotate.annotator]


def _last_verb(config: RunConfig) -> str:
    end = limit(config)
    return "evaluate" if end is None else end.last


def _sampling(config: RunConfig, outside: Outside) -> list[Any]:
    """What decides answers and states. Not how many there are: more samples are added to those that are there.

    Nor how a server is reached, how hard and how often it is asked.
    """
    settings = _dump(config.sample, without=("n", "part_size", "engine", "states"))
    answers: list[Any] = [config.sample.engine]
    if config.sample.engine == "imported":
        answers += [outside.imported]
    else:
        answers += [settings, _dump(config.prompt), config.seed]
    if config.sample.engine == "server":
        answers += [config.server.model, config.server.endpoint, config.server.logprobs]
    return [answers, [_model(config, outside), config.probe.position] if has_model(config) else []]


def _model(config: RunConfig, outside: Outside) -> list[Any]:
    return [outside.model, _dump(config.prompt)]


_Settings = Callable[[RunConfig, str, Outside], Any]
_SETTINGS: dict[str, _Settings] = {
    "load": lambda c, _arm, o: [
        o.source,
        _dump(c.questions, without=_unused_questions(c)),
        c.prompt.shots,
        c.prompt.teaching_shots,
        c.seed,
    ],
    "sample": lambda c, _arm, o: _sampling(c, o),
    "measure": lambda c, _arm, o: _measure(c, o),
    "probe": lambda c, _arm, _o: [_dump(c.probe), c.sample.states, c.seed],
    "map": lambda c, _arm, o: [_model(c, o), o.probe if c.map.probe else ""],
    "signals": lambda c, _arm, o: [_model(c, o)],
    "select": lambda c, arm, _o: [
        strategy_of(c, arm),
        _dump(c.select, without=_unused_select(c, arm)),
        c.seed,
    ],
    "decoder_states": lambda c, _arm, o: [_model(c, o), o.state],
    "decoder": lambda c, _arm, o: _decoder(c, o),
    "candidates": lambda c, _arm, o: _candidates(c, o),
    "augment": lambda c, _arm, o: _augment(c, o),
    "annotate": lambda c, _arm, o: [_dump(c.annotate), o.labels if c.annotate.annotator == "file" else ""],
    "finetune": lambda c, _arm, o: [_model(c, o), _dump(c.finetune, without=("save_steps",)), c.seed],
    "evaluate": lambda c, _arm, o: [
        _model(c, o),
        _dump(c.evaluate),
        c.measure.correct,
        c.seed,
    ],
    "report": lambda c, _arm, _o: [_dump(c.report)],
}
