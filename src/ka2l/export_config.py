"""The section of the configuration for what other training programs read (`ka2l export`). It changes no artifact of a run."""

from typing import Annotated

from pydantic import Field

from ka2l.source_config import Section


class ExportConfig(Section):
    """The same training elsewhere."""

    llama_factory_template: Annotated[str, Field(pattern=r"^\w*$")] = ""
    """LLaMA-Factory's name of the model's chat template, such as llama3; empty: the tokenizer's own, or plain prompts."""
