"""Settings that name files and folders, made absolute so that a run continues from any working directory."""

from typing import Any, TypeVar

from ka2l.common.settings_section import PathOr, Section
from ka2l.config.run_config import RunConfig

S = TypeVar("S", bound=Section)


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The configuration with every setting of type `PathOr` made absolute; names and Hub ids stay as they are."""
    return _absolute(config)


def _absolute(section: S) -> S:
    changed: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        marks = [mark for mark in field.metadata if isinstance(mark, PathOr)]
        new = _absolute(value) if isinstance(value, Section) else marks[0].absolute(value) if marks else value
        if new != value:
            changed[name] = new
    return section.model_copy(update=changed) if changed else section
