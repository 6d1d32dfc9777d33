"""Content keys: what decides whether a stage's artifacts are up to date.

A stage's key hashes the settings it declares and the keys of its inputs. Batch and part sizes are left out: they change
the order of rounding, not the meaning of a result. Where the questions are stored is left out too: their content
counts.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ka2l.common.settings_section import Section
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_imported_answers, has_model, samples_from_server
from ka2l.pipeline.arms import split_stage
from ka2l.pipeline.stage import Identities
from ka2l.pipeline.stage_graph import Plan


def keys(config: RunConfig, plan: Plan[Any], known: Identities) -> dict[str, str]:
    """The content key of every stage of a plan."""
    key_of: dict[str, str] = {}
    for stage, declared in plan.stages.items():
        name, arm = split_stage(stage)
        content = {
            "stage": name,
            "settings": declared.settings(config, arm, known),
            "inputs": {needed: key_of[needed] for needed in plan.inputs[stage] if needed not in declared.unhashed},
        }
        key_of[stage] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    return key_of


# The functions below return parts of the keys of several stages.


def values(section: Section, *, without: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """The settings of a section as JSON values."""
    dumped: dict[str, Any] = section.model_dump(mode="json", exclude=set(without))
    return dumped


def prompted_model(config: RunConfig, known: Identities) -> list[Any]:
    """The model in this process and the settings of its prompts."""
    return [known.model, values(config.prompt)]


def given_probe(config: RunConfig, known: Identities) -> str:
    """The hash of a probe trained before (`map.probe`), whose worked examples are those of the sensing prompt."""
    return known.probe if config.map.probe else ""


def answers(config: RunConfig, known: Identities, *unread: str) -> list[Any]:
    """What determines the answers to a question.

    The number of answers is left out, because more samples are added to those that exist. So are the address of a
    server, its retries and the number of its parallel requests.

    Args:
        config, known: of the run.
        unread: settings of `sample` that are not used for these answers.
    """
    settings = values(config.sample, without=("n", "part_size", "engine", "states", *unread))
    hashed: list[Any] = [config.sample.engine]
    if has_imported_answers(config):
        hashed += [known.imported]
    else:
        hashed += [settings, values(config.prompt), config.seed]
    if samples_from_server(config):
        hashed += [config.server.model, config.server.endpoint, config.server.logprobs]
    return hashed


def pool_answers(config: RunConfig, known: Identities, unread: str) -> list[Any]:
    """What determines the answers to questions of the pool: no hidden states, and one of the two temperatures.

    Args:
        config, known: as for `answers`.
        unread: the setting of the other temperature.
    """
    model = [prompted_model(config, known)] if has_model(config) else []
    return [answers(config, known, unread), model, given_probe(config, known)]


def unread_of_measure(config: RunConfig) -> tuple[str, ...]:
    """Settings of `measure` that this judge, these scores and this rule do not use, and those that change only
    speed.
    """
    measure = config.measure
    read_by = {
        "equivalence": measure.judge in ("nli", "llm"),
        "clusters": measure.judge != "lexical",
        "embedding_threshold": measure.judge == "embedding",
        "p_true_shots": bool({"p_true", "ambiguity"} & set(measure.scores)),
        "quantile": measure.threshold == "quantile",
    }
    # The judge's name and revision are hashed instead of the folder it is in, see `Identities.judge`.
    places = ("nli_model", "embedding_model", "llm_model", "batch_tokens", "cache")
    return (*places, *(name for name, read in read_by.items() if not read))
