"""Content keys and plans of configurations, without a run: what lies outside them is a fake of ten strings."""

from collections.abc import Sequence
from typing import NamedTuple

from ka2l.config import recipes
from ka2l.config.run_config import RunConfig
from ka2l.pipeline import content_keys
from ka2l.pipeline.stage_list import plan_of


class Known(NamedTuple):
    """Implements `ka2l.pipeline.stage.Identities`."""

    source: str = "questions-1"
    model: str = "tiny@1"
    labels: str = ""
    imported: str = ""
    judge: str = ""
    probe: str = ""
    state: str = ""
    decoder: str = ""
    encoder: str = ""
    sentences: str = ""


OUTSIDE = Known()
SENSE = ["load", "sample", "measure", "probe", "map"]
MAIN_ARM = ["select", "annotate", "finetune"]
BASELINE_ARM = ["select@random", "annotate@random", "finetune@random"]
END = ["evaluate", "report"]
BOTH_ARMS = MAIN_ARM + BASELINE_ARM
ALL = SENSE + BOTH_ARMS + END
REPLAYED = ["replay", "replay@random"]
SAMPLED = ["pool_answers", "pool_entropy"]
AUGMENT = ["questions.source=geonames", "augment.per_question=3"]
# Labels and fine-tuning of the main arm, and what follows.
TAUGHT_ANEW = ["annotate", "finetune", *END]
NEW = ["decoder_states", "decoder", "candidates", "augment"]
BLACK_BOX = [
    "sample.engine=server",
    "server.url=http://localhost/v1",
    "server.model=gpt",
    "sample.states=none",
]
STAND_IN = [*BLACK_BOX[:3], "sample.states=surrogate"]
IMPORTED = ["sample.engine=imported", "sample.states=none"]
# The stages of a run with a stand-in: nothing is fine-tuned.
TAUGHT = ["load", "sample", "measure", "probe", "map", "select", "annotate", "report"]
ANSWERS = ["load", "sample", "measure", "report"]


def load_config(path: None, changes: Sequence[str] = ()) -> RunConfig:
    """A run that replays nothing, unless a change says so: fewer stages to name in the tables."""
    return recipes.load_config(path, ["select.strategy=unknown", "finetune.replay=0", *changes])


def keys(config: RunConfig, known: Known) -> dict[str, str]:
    """The content key of every stage of this configuration."""
    return content_keys.keys(config, plan_of(config), known)


def all_stages(config: RunConfig) -> list[str]:
    """Every stage of this configuration, in order."""
    return list(plan_of(config).stages)
