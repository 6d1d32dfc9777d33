"""Settings of `select`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ka2l.common.settings_section import Fraction, PathOr, Positive, Section

Strategy = Literal[
    "unknown",
    "unknown_diverse",
    "known",
    "combine",
    "random",
    "entropy",
    "least_confidence",
    "margin",
    "likelihood",
    "semantic_entropy",
    "coreset",
    "badge",
    "badge_gradient",
    "typiclust",
    "probcover",
    "kmeans",
    "facility_location",
]


class SelectConfig(Section):
    """Which questions to buy."""

    strategy: Strategy = "unknown_diverse"
    """The query strategy."""
    budget: Positive = 100
    """Labels to buy."""
    draw: Literal["top", "random"] = "top"
    """`unknown` and `known`: the surest first, or an even draw among those called so (paper)."""
    known_fraction: Fraction | None = None
    """Exact share of known questions in what `unknown`, `unknown_diverse` and `combine` buy; none: half of `combine`."""
    band: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.0, 1.0)
    """Buy unknown questions whose p_unknown lies in here (`unknown`, `combine`: 0 stands for 0.5); the nearest outside fill up."""
    near_copy: Annotated[float, Field(gt=0, le=1)] | None = None
    """Cosine (in `space`, about the pool's mean) above which two questions are near-copies; none: not looked at."""
    space: Literal["state", "sentence"] = "state"
    """Where questions are near each other: the judged hidden state, or an embedding of their text by `encoder`."""
    encoder: Annotated[str, PathOr("minilm")] = "minilm"
    """Sentence embeddings, for `space=sentence`: `minilm` (installed with ka2l[embedding]), a folder or a Hub id."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of what a strategy draws; none: the run's."""
    baseline: Strategy | None = "random"
    """A second strategy that gets the same budget, taught and evaluated beside the first; none: skip."""

    @field_validator("band")
    @classmethod
    def _low_to_high(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError("a band goes from low to high, for example [0.5, 0.9]")
        return value
