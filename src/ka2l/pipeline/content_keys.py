"""Content keys: what decides whether a stage's artifacts are up to date.

A stage's key hashes the settings it declares and the keys of its inputs. Batch and part sizes are left out: they change
the order of rounding, not the meaning of a result. Nor does it matter where the questions lie: their content counts.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ka2l.common.settings_section import Section
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_model
from ka2l.pipeline.arms import split_stage
from ka2l.pipeline.stage import Identities
from ka2l.pipeline.stage_graph import Plan


def keys(config: RunConfig, plan: Plan[Any], known: Identities) -> dict[str, str]:
    """The content key of every stage of a plan."""
    found: dict[str, str] = {}
    for stage, declared in plan.stages.items():
        name, arm = split_stage(stage)
        content = {
            "stage": name,
            "settings": declared.settings(config, arm, known),
            "inputs": {
                needed: found[needed] for needed in plan.inputs[stage] if needed not in declared.unhashed
            },
        }
        found[stage] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    return found


# What several stages hash.


def values(section: Section, *, without: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """The settings of a section as JSON values."""
    dumped: dict[str, Any] = section.model_dump(mode="json", exclude=set(without))
    return dumped


def prompted_model(config: RunConfig, known: Identities) -> list[Any]:
    """The model in this process and the prompts it gets."""
    return [known.model, values(config.prompt)]


def given_probe(config: RunConfig, known: Identities) -> str:
    """A probe trained before, whose worked examples are those of the sensing prompt."""
    return known.probe if config.map.probe else ""


def answers(config: RunConfig, known: Identities, *unread: str) -> list[Any]:
    """What decides the answers a question gets.

    Not how many there are: more samples are added to those that are there. Nor how a server is reached, or how often and
    how many requests it gets at once.
    """
    settings = values(config.sample, without=("n", "part_size", "engine", "states", *unread))
    found: list[Any] = [config.sample.engine]
    if config.sample.engine == "imported":
        found += [known.imported]
    else:
        found += [settings, values(config.prompt), config.seed]
    if config.sample.engine == "server":
        found += [config.server.model, config.server.endpoint, config.server.logprobs]
    return found


def pool_answers(config: RunConfig, known: Identities, unread: str) -> list[Any]:
    """The same for the pool: without hidden states, and at one of the two temperatures.

    Args:
        config, known: as for `answers`.
        unread: the setting of the other temperature.
    """
    asked_as = [prompted_model(config, known)] if has_model(config) else []
    return [answers(config, known, unread), asked_as, given_probe(config, known)]


def unread_of_measure(config: RunConfig) -> tuple[str, ...]:
    """Settings of `measure` that this judge, these scores and this rule do not read, and those that change only speed."""
    measure = config.measure
    read_by = {
        "equivalence": measure.judge in ("nli", "llm"),
        "clusters": measure.judge != "lexical",
        "embedding_threshold": measure.judge == "embedding",
        "p_true_shots": bool({"p_true", "ambiguity"} & set(measure.scores)),
        "quantile": measure.threshold == "quantile",
    }
    # Which model judges is known by name and revision, wherever it lies: `Identities.judge`.
    places = ("nli_model", "embedding_model", "llm_model", "batch_tokens", "cache")
    return (*places, *(name for name, read in read_by.items() if not read))
