"""The section `select` of the configuration."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from ka2l.common.settings_section import Positive, Section
from ka2l.selection.options import Draw, Space, option_problem


class SelectConfig(Section):
    """Which questions to buy."""

    strategy: str = "unknown_diverse"
    """The query strategy."""
    budget: Positive = 100
    """Labels to buy."""
    draw: Draw = "top"
    """`unknown` and `known`: the surest first, or an even draw among those called so (paper)."""
    known_fraction: float | None = None
    """Exact share of known questions in what `unknown`, `unknown_diverse` and `combine` buy; none: half of `combine`."""
    band: Annotated[tuple[float, float], Field(strict=False)] = (0.0, 1.0)
    """Buy unknown questions whose p_unknown lies in here (`unknown`, `combine`: 0 stands for 0.5); the nearest outside fill up."""
    near_copy: float | None = None
    """Cosine (in `space`, about the pool's mean) above which two questions are near-copies; none: not looked at."""
    space: Space = "state"
    """Where questions are near each other: the judged hidden state, or an embedding of their text by `encoder`."""
    encoder: str = "minilm"
    """Sentence embeddings, for `space=sentence`: `minilm` (installed with ka2l[embedding]), a folder or a Hub id."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed of what a strategy draws; none: the run's."""
    baseline: str | None = "random"
    """A second strategy that gets the same budget, taught and evaluated beside the first; none: skip."""

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
