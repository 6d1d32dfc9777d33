"""A model's tokenizer without its weights, for prompts that are shown or counted before anything is computed."""

from typing import Any

from ka2l.errors import ModelError
from ka2l.models.loading import ResolvedModel, first_line, loading_arguments, quiet_transformers
from ka2l.models.settings import ModelConfig


def load_tokenizer(config: ModelConfig, resolved: ResolvedModel) -> Any:
    """The tokenizer of this model.

    Raises:
        ModelError: its files are missing or cannot be read.
    """
    from transformers import AutoTokenizer

    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(resolved.path, **loading_arguments(config, resolved))
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{config.name}: cannot load this model's tokenizer: {first_line(error)}") from error
