"""Presets, a recipe file and overrides, merged into a validated RunConfig.

A recipe is a YAML file of the config's sections; `section.key=value` on the command line overrides it:

    ka2l run recipes/geo-smollm2.yaml sample.n=5 probe.mlp_width=128 --out runs/mine

Order of precedence, lowest first: defaults, preset, recipe, overrides.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from ka2l.config.presets import PRESETS
from ka2l.config.run_config import RunConfig
from ka2l.errors import ConfigError


def load_config(recipe: Path | None, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None) -> RunConfig:
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
    """The configuration with `section.key=value` overrides applied, validated as a whole.

    Raises:
        ConfigError: as `load_config`.
    """
    return load_config(None, overrides, config.model_dump(mode="json"))


def to_yaml(config: RunConfig) -> str:
    """The complete configuration as YAML, with every key."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """A safe loader that reads 1e-4 as a number; YAML 1.1 requires 1.0e-4 and reads 1e-4 as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        # the loader is a SafeLoader
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
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
    """`section.key=value` as a nested mapping."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"'{text}': an override has the form section.key=value, for example sample.n=5.")
    if field_at(key.strip().split(".")).annotation in (str, str | None):
        # `my #1 file.jsonl` and `Rivers: what it knows` are text, although YAML reads them differently.
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


class FieldPlace(NamedTuple):
    """A place in the configuration.

    Attributes:
        keys: the keys on the way, list places as numbers; without the names that pydantic adds for the types it tried.
        section: the innermost section on the way.
        annotation: the type of the setting; None if there is no such setting.
    """

    keys: tuple[str, ...]
    section: type[BaseModel]
    annotation: Any


def field_at(path: Sequence[int | str]) -> FieldPlace:
    """Follow a path of keys, or a location in a pydantic error, from the top of the configuration."""
    keys: list[str] = []
    section: type[BaseModel] = RunConfig
    annotation: Any = RunConfig
    for part in path:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
            field = section.model_fields.get(str(part))
            annotation = field.annotation if field is not None else None
        elif isinstance(part, str):
            return FieldPlace(tuple(keys), section, None)
        else:
            annotation = None
        keys.append(str(part))
    return FieldPlace(tuple(keys), section, annotation)


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping `base` with the values of `top`, section by section."""
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError, recipe: Path | None) -> str:
    """The error message: one line per wrong key, with its full path and what is allowed."""
    # a value that fits none of several types has a message for each
    wrong: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    for item in error.errors(include_url=False):
        place = field_at(item["loc"])
        path = ".".join(place.keys) or "(top)"
        if item["type"] == "extra_forbidden":
            wrong[path] = [f"no such key. Allowed here: {', '.join(place.section.model_fields)}"]
        else:
            wrong.setdefault(path, []).append(item["msg"])
            # An API key that was put into the wrong setting is not printed.
            got[path] = (
                "" if path.startswith(("server.", "judge_server.")) or not item["loc"] else f" (got {item['input']!r})"
            )
    lines = [f"{recipe or 'configuration'}: {len(wrong)} wrong value(s)"]
    lines += [f"  {path}: {', or: '.join(messages)}{got.get(path, '')}." for path, messages in wrong.items()]
    return "\n".join(lines)
