"""How far a run can go with answers alone, with answers and another model's hidden states, or with the model itself.

The answers of a closed model behind a server are enough for semantic entropy, but a probe needs hidden states. Another
model's states may stand in for them; fine-tuning that model would not change the model that answered.
"""

from typing import NamedTuple

from ka2l.config.run_config import RunConfig


class Limit(NamedTuple):
    """Where a run has to end: the last possible verb besides `report`, the reason, and what to do about it."""

    last: str
    reason: str
    cure: str

    @property
    def why(self) -> str:
        """The reason, and what to do about it."""
        return f"{self.reason} {self.cure}"


def has_model(config: RunConfig) -> bool:
    """Whether the run uses `model.name`; if not, the model is never loaded."""
    return config.sample.states != "none"


def samples_locally(config: RunConfig) -> bool:
    """Whether the model in this process answers."""
    return config.sample.engine == "local"


def samples_from_server(config: RunConfig) -> bool:
    """Whether a server answers."""
    return config.sample.engine == "server"


def has_imported_answers(config: RunConfig) -> bool:
    """Whether the answers were generated elsewhere and imported."""
    return config.sample.engine == "imported"


def has_own_states(config: RunConfig) -> bool:
    """Whether `model.name` is the model that answers, so that its hidden states are that model's own."""
    return config.sample.states == "same"


def asks_model(config: RunConfig) -> bool:
    """Whether `measure` needs the model that answered for more than its answers."""
    return bool({"p_true", "ambiguity", "eigenscore"} & set(config.measure.scores))


def has_stand_in(config: RunConfig) -> bool:
    """Whether the hidden states are those of another model than the one that answers."""
    return config.sample.states == "surrogate"


def answered_by(config: RunConfig) -> str:
    """Name of the model whose knowledge is measured."""
    if samples_from_server(config):
        return config.server.model
    if has_imported_answers(config) and not has_own_states(config):
        return "the model behind the imported answers"
    return config.model.name


def limit(config: RunConfig) -> Limit | None:
    """The last verb that is possible with this configuration, and why; None if all are."""
    if not has_model(config):
        return Limit(
            "measure",
            "A probe reads hidden states, and this run has none (sample.states=none).",
            "Semantic entropy needs only answers. For a probe and the map give an open model: model.name=… with "
            "sample.states=same if it is the model that answered, or sample.states=surrogate to let its states stand "
            "in.",
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
