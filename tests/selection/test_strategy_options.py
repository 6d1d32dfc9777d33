"""Options of strategies: what is allowed, in a recipe and for a caller."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from ka2l.errors import ConfigError
from ka2l.selection.options import Options
from ka2l.selection.select import STRATEGIES
from ka2l.selection.settings import SelectConfig


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"draw": "best"}, "draw='best': one of top, random"),
        ({"space": "token"}, "space='token': one of state, sentence"),
        ({"known_fraction": 1.5}, "known_fraction=1.5: from 0 to 1"),
        ({"band": (0.9, 0.2)}, "band=.*0 <= low <= high <= 1"),
        ({"near_copy": 2.0, "draw": "best"}, "draw=.*near_copy=2.0"),
    ],
)
def test_options_outside_what_is_allowed(settings_: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Options(**settings_)


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("draw", ["top", "random"], ["best"]),
        ("space", ["state", "sentence"], ["token"]),
        ("known_fraction", [None, 0.0, 1.0], [-0.1, 1.1]),
        ("band", [(0.0, 1.0), (0.7, 0.7)], [(0.9, 0.2), (-0.1, 0.5), (0.5, 1.1)]),
        ("near_copy", [None, -0.5, 1.0], [-1.0, 1.1]),
    ],
)
def test_a_recipe_and_a_caller_may_give_the_same_values(name: str, allowed: list[Any], refused: list[Any]) -> None:
    for value in allowed:
        given: Mapping[str, Any] = {name: value}
        assert getattr(SelectConfig(**given), name) == getattr(Options(**given), name) == value
    for value in refused:
        given = {name: value}
        with pytest.raises(ValidationError):
            SelectConfig(**given)
        with pytest.raises(ConfigError, match=name):
            Options(**given)


def test_a_recipe_may_name_every_strategy_and_no_other() -> None:
    for name in STRATEGIES:
        config = SelectConfig(strategy=name, baseline=name)
        assert config.strategy == config.baseline == name
    assert SelectConfig(baseline=None).baseline is None
    for field in ("strategy", "baseline"):
        with pytest.raises(ValidationError, match="no such query strategy") as caught:
            SelectConfig.model_validate({field: "badger"})
        assert all(repr(name) in str(caught.value) for name in STRATEGIES)
    defaults = SelectConfig()
    assert {defaults.strategy, defaults.baseline} <= set(STRATEGIES)


def test_the_configuration_does_not_load_numpy() -> None:
    code = "import sys, ka2l.selection.settings as s; s.SelectConfig(); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
