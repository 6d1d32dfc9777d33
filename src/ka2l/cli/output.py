"""How commands print values: as JSON for programs, or one name and value per line."""

import json
from collections.abc import Mapping
from typing import Any


def print_json(values: Any) -> None:
    """Print values as JSON."""
    print(json.dumps(values, ensure_ascii=False, indent=1))


def print_values(values: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one name and value per line, or JSON."""
    if as_json:
        print_json(values)
        return
    width = max(len(name) for name in values) + 2
    for name, value in values.items():
        print(f"{name + ':':<{width}} {value}")
