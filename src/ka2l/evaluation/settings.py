"""Configuration section `evaluate`."""

from typing import Annotated

from pydantic import Field

from ka2l.common.settings_section import Section


class EvaluateConfig(Section):
    """What the fine-tuned model has learned and forgotten."""

    temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.0
    """Temperature of the evaluated answer; 0 is greedy (paper: 0.1)."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 24
    """Longest answer in tokens."""
    rewordings: Annotated[int, Field(ge=0)] = 1
    """Other wordings of each bought question that are asked too."""
    unbought: Annotated[int, Field(ge=0)] = 200
    """Pool questions that were not bought and are asked too, drawn by seed."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples of the intervals."""
