"""A model's tokenizer without its weights: for looking at prompts before anything is computed."""

from pathlib import Path
from typing import Any

from ka2l.config import ModelConfig
from ka2l.errors import ModelError
from ka2l.models.load import ResolvedModel, first_line, quiet_transformers


def load_tokenizer(config: ModelConfig, resolved: ResolvedModel) -> Any:
    """The tokenizer of this model.

    Raises:
        ModelError: its files are missing or cannot be read.
    """
    from transformers import AutoTokenizer

    arguments: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if not Path(resolved.path).is_dir():
        arguments["revision"] = resolved.revision
    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(resolved.path, **arguments)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{config.name}: cannot load this model's tokenizer: {first_line(error)}"
            ) from error
