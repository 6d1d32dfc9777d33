"""From presets, a recipe file and overrides to a validated RunConfig.

A recipe is a YAML file of the config's sections; `section.key=value` on the command line overrides it:

    ka2l run recipes/geo-smollm2.yaml sample.n=5 probe.mlp_width=128 --out runs/mine

Later wins: defaults, preset, recipe, overrides.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ka2l.config.presets import PRESETS
from ka2l.config.run_config import RunConfig
from ka2l.errors import ConfigError


def load_config(
    recipe: Path | None, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> RunConfig:
    """Merge preset, `base`, the recipe file and `section.key=value` overrides into a validated RunConfig.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown or a value is not allowed; the message
            names the key's full path and what is allowed there.
    """
    values: dict[str, Any] = dict(base or {})
    if recipe is not None:
        values = _merge(values, _read_recipe(recipe))
    for override in overrides:
        values = _merge(values, _parse_override(override))
    preset = values.get("preset", "default")
    values = _merge(PRESETS.get(preset, {}) if isinstance(preset, str) else {}, values)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, recipe)) from None


def override(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A configuration with `section.key=value` overrides on top, checked as a whole.

    Raises:
        ConfigError: as `load_config`.
    """
    return load_config(None, overrides, config.model_dump(mode="json"))


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML, every key spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 wants 1.0e-4 and reads 1e-4 as text; people mean the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the recipe ({error.strerror or error}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, not {type(values).__name__}.")
    return values


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"'{text}': an override reads section.key=value, for example sample.n=5.")
    if _is_text(key.strip()):
        # `my #1 file.jsonl` and `Rivers: what it knows` are text, whatever YAML makes of them.
        value: Any = None if raw.strip() in ("null", "none", "~") else raw
    else:
        value = _yaml_value(text, raw)
    first, *inner = key.strip().split(".")
    for part in reversed(inner):
        value = {part: value}
    return {first: value}


def _yaml_value(text: str, raw: str) -> Any:
    try:
        return yaml.load(raw, _Loader) if raw else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"'{text}': the value is not valid YAML: {error}") from None


def _is_text(key: str) -> bool:
    """Whether the setting at this path is text."""
    section: Any = RunConfig
    for part in key.split("."):
        field = section.model_fields.get(part) if hasattr(section, "model_fields") else None
        if field is None:
            return False
        section = field.annotation
    return section in (str, str | None)


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError, recipe: Path | None) -> str:
    wrong: dict[str, list[str]] = {}  # a value that fits none of several types has a message for each
    got: dict[str, str] = {}
    for item in error.errors(include_url=False):
        path = _key_path(item["loc"])
        if item["type"] == "extra_forbidden":
            wrong[path] = [f"no such key. Allowed here: {', '.join(_siblings(item['loc']))}"]
        else:
            wrong.setdefault(path, []).append(item["msg"])
            # A key that was put into the wrong setting is not repeated on the screen.
            got[path] = (
                ""
                if path.startswith(("server.", "judge_server.")) or not item["loc"]
                else f" (got {item['input']!r})"
            )
    lines = [f"{recipe or 'configuration'}: {len(wrong)} wrong value(s)"]
    lines += [f"  {path}: {', or: '.join(messages)}{got.get(path, '')}." for path, messages in wrong.items()]
    return "\n".join(lines)


def _key_path(location: tuple[int | str, ...]) -> str:
    """`measure.threshold`, without the names pydantic adds for the types it tried; list places as numbers."""
    section: Any = RunConfig
    parts: list[str] = []
    for part in location:
        if section is None and isinstance(part, str):
            break
        parts.append(str(part))
        if section is not None:
            field = section.model_fields.get(str(part))
            kind = field.annotation if field is not None else None
            section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return ".".join(parts) or "(top)"


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    section: Any = RunConfig
    for part in location[:-1]:
        field = section.model_fields.get(str(part))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            break
        section = field.annotation
    return list(section.model_fields)
