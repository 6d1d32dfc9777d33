"""How far a run can go with what it has: answers alone, answers and a stand-in's states, or the model itself.

A closed model behind a server is a black box: its answers have a semantic entropy, but a probe needs hidden states.
Another model's states may stand in for them; teaching that one would not teach the model that was asked.
"""

from typing import NamedTuple

from ka2l.config.run_config import RunConfig


class Limit(NamedTuple):
    """Where a run has to end."""

    last: str  # the last verb that works, apart from `report`
    reason: str  # a sentence
    cure: str  # what to do about it

    @property
    def why(self) -> str:
        """Reason and cure."""
        return f"{self.reason} {self.cure}"


def has_model(config: RunConfig) -> bool:
    """Whether `model.name` plays any part; where not, it is never looked for."""
    return config.sample.states != "none"


def asks_model(config: RunConfig) -> bool:
    """Whether `measure` asks the model that answered for more than its answers."""
    return bool({"p_true", "ambiguity", "eigenscore"} & set(config.measure.scores))


def has_stand_in(config: RunConfig) -> bool:
    """Whether the hidden states are another model's than the answers."""
    return config.sample.states == "surrogate"


def answered_by(config: RunConfig) -> str:
    """Name of the model whose knowledge is measured."""
    if config.sample.engine == "server":
        return config.server.model
    if config.sample.engine == "imported" and config.sample.states != "same":
        return "the model behind the imported answers"
    return config.model.name


def limit(config: RunConfig) -> Limit | None:
    """The last verb that makes sense with this config, and why; None where all of them do."""
    if config.sample.states == "none":
        return Limit(
            "measure",
            "A probe reads hidden states, and this run has none (sample.states=none).",
            "Semantic entropy needs only answers. For a probe and the map give an open model: model.name=… with "
            "sample.states=same if it is the model that answered, or sample.states=surrogate to let its states stand in.",
        )
    if has_stand_in(config):
        return Limit(
            "annotate",
            f"Fine-tuning would teach {config.model.name}, whose states only stand in for {answered_by(config)} "
            "(sample.states=surrogate).",
            "What was bought is in annotations.parquet, questions with answers: teach the model that answered with it, "
            "where it can be taught.",
        )
    return None
