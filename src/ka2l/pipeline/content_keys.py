"""Content keys: what decides whether a stage's artifacts still hold.

A stage's key hashes the parts of the config it reads and the keys of its inputs. Batch and part sizes are left out:
they change the order of rounding, not the meaning of a result, and nobody wants to pay twice for a smaller batch. Nor
does it matter where the questions lie: their content counts.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import asks_model, has_model
from ka2l.pipeline.arms import signals_of, split_stage, strategy_of
from ka2l.pipeline.identities import Outside
from ka2l.pipeline.stage_graph import all_stages, inputs_of
from ka2l.selection.select import STRATEGIES

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


def _select(config: RunConfig, arm: str) -> list[Any]:
    """The strategy and the settings it reads; which embeddings `encoder` makes, its signal's key says."""
    strategy = strategy_of(config, arm)
    read = {"budget", *STRATEGIES[strategy].options}
    in_space = {"embedding", "sentence_embedding"} & set(signals_of(config, arm))
    read -= set() if in_space else {"space"}
    read -= {name for name in _OFF if name in read and getattr(config.select, name) == _OFF[name]}
    seed = config.seed if config.select.seed is None else config.select.seed
    return [strategy, config.select.model_dump(mode="json", include=read), seed]


_OFF = {
    "known_fraction": None,
    "band": (0.0, 1.0),
    "near_copy": None,
    "space": "state",
}  # as if it were not there


def _pool_entropy(config: RunConfig, outside: Outside) -> list[Any]:
    """What decides which answers mean the same; not how the threshold, or any other score, is found."""
    read = {"judge", "equivalence", "clusters", "embedding_threshold"} - set(_unused_measure(config))
    return [config.sample.n, config.measure.model_dump(mode="json", include=read), outside.judge]


def _finetune(config: RunConfig, outside: Outside) -> list[Any]:
    settings = _dump(config.finetune, without=("save_steps", "seed", "replay"))
    return [_model(config, outside), settings, _teaching_seed(config)]


def _replay(config: RunConfig, outside: Outside) -> list[Any]:
    sampling = [config.sample.low_temperature, config.sample.max_new_tokens, config.seed]
    given = _given_probe(config, outside)
    return [_model(config, outside), config.finetune.replay, sampling, given, _teaching_seed(config)]


def _teaching_seed(config: RunConfig) -> int:
    return config.seed if config.finetune.seed is None else config.finetune.seed


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


def _sampling(config: RunConfig, outside: Outside) -> list[Any]:
    """What decides answers and states. Not how many there are: more samples are added to those that are there.

    Nor how a server is reached, how hard and how often it is asked.
    """
    states = [_model(config, outside), config.probe.position] if has_model(config) else []
    return [_answers(config, outside), states]


def _pool_answers(config: RunConfig, outside: Outside, unread: str) -> list[Any]:
    """As for the probe questions, without their states, and of the two temperatures one."""
    asked_as = [_model(config, outside)] if has_model(config) else []
    return [_answers(config, outside, unread), asked_as, _given_probe(config, outside)]


def _given_probe(config: RunConfig, outside: Outside) -> str:
    """The worked examples of the sensing prompt come with a probe trained before."""
    return outside.probe if config.map.probe else ""


def _answers(config: RunConfig, outside: Outside, *unread: str) -> list[Any]:
    settings = _dump(config.sample, without=("n", "part_size", "engine", "states", *unread))
    answers: list[Any] = [config.sample.engine]
    if config.sample.engine == "imported":
        answers += [outside.imported]
    else:
        answers += [settings, _dump(config.prompt), config.seed]
    if config.sample.engine == "server":
        answers += [config.server.model, config.server.endpoint, config.server.logprobs]
    return answers


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
    "probe": lambda c, _arm, _o: [
        _dump(c.probe, without=("layers",) if c.probe.layers is None else ()),
        c.sample.states,
        c.seed,
    ],
    "map": lambda c, _arm, o: [_model(c, o), _given_probe(c, o)],
    "signals": lambda c, _arm, o: [_model(c, o), _given_probe(c, o)],
    "pool_answers": lambda c, _arm, o: _pool_answers(c, o, "low_temperature"),
    "pool_entropy": lambda c, _arm, o: _pool_entropy(c, o),
    "pool_likelihood": lambda c, _arm, o: _pool_answers(c, o, "temperature"),
    "sentences": lambda _c, _arm, o: [o.sentences],
    "select": lambda c, arm, _o: _select(c, arm),
    "decoder_states": lambda c, _arm, o: [_model(c, o), o.state],
    "decoder": lambda c, _arm, o: _decoder(c, o),
    "candidates": lambda c, _arm, o: _candidates(c, o),
    "augment": lambda c, _arm, o: _augment(c, o),
    "annotate": lambda c, _arm, o: [_dump(c.annotate), o.labels if c.annotate.annotator == "file" else ""],
    "replay": lambda c, _arm, o: _replay(c, o),
    "finetune": lambda c, _arm, o: _finetune(c, o),
    "evaluate": lambda c, _arm, o: [
        _model(c, o),
        _dump(c.evaluate),
        c.measure.correct,
        c.seed,
    ],
    "report": lambda c, _arm, _o: [_dump(c.report)],
}
