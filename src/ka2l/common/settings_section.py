"""The base of every configuration section, and the types their fields share.

A setting that is a path says so in its type, and `config/absolute_paths.py` makes it absolute:

    name: Annotated[str, PathOr("smollm2-135m")] = "smollm2-135m"
"""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class PathOr:
    """Marks a text setting as the path of a file or folder, or one of `names`, which have a meaning of their own.

    Args:
        names: values that are never paths, besides the empty text.
        created: whether the run creates the file, so that the setting is a path also if the file does not exist yet.
            Otherwise a value that is not the path of an existing file or folder is a name, for example a Hub id.
    """

    def __init__(self, *names: str, created: bool = False):
        self.names, self.created = ("", *names), created

    def absolute(self, value: str) -> str:
        """The value with its path made absolute; unchanged if it is a name."""
        path = Path(value).expanduser()
        is_path = value not in self.names and (self.created or path.exists())
        return str(path.resolve()) if is_path else value


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, and a value never changes after validation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
