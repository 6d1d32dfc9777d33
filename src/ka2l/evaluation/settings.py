"""Settings of `evaluate`."""

from typing import Annotated

from pydantic import Field

from ka2l.common.settings_section import Section


class EvaluateConfig(Section):
    """What was learned and what was forgotten."""

    temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.0
    """Temperature of the evaluated answer; 0 is greedy (paper: 0.1)."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 24
    """Longest answer."""
    rewordings: Annotated[int, Field(ge=0)] = 1
    """How many other wordings of each bought question are asked too."""
    unbought: Annotated[int, Field(ge=0)] = 200
    """How many pool questions that were not bought are asked too, drawn by seed."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of the intervals."""
