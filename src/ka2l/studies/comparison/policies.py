"""Policies, the rows of a comparison: a query strategy by its name, or with settings of its own.

Usage:

    unknown                                             a strategy
    full                                                the whole pool
    careful: select.strategy=unknown finetune.replay=1  a name with its settings
"""

import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from ka2l.config.recipes import override
from ka2l.config.run_config import RunConfig
from ka2l.errors import ConfigError
from ka2l.selection.select import STRATEGIES
from ka2l.studies.comparison.summary import WHOLE

FULL = WHOLE  # the whole pool, however large
# A name is part of a folder's name, followed by a dash and the budget.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+]*")
_SECTIONS = ("select", "finetune")


class Policy(NamedTuple):
    """A row of the tables: how to select and how to fine-tune."""

    name: str
    config: RunConfig


def parse_policies(config: RunConfig, strategies: Sequence[str], texts: Sequence[str]) -> list[Policy]:
    """Policies from the text of a command line, strategies first.

    Args:
        config: the settings that the policies change.
        strategies: names of strategies, or `full`.
        texts: `NAME: section.key=value …`.

    Raises:
        ConfigError: no such strategy, a name that is given twice or has other characters, a setting of another section.
    """
    policies = [_strategy(config, name.strip()) for name in strategies if name.strip()]
    policies += [_named(config, text) for text in texts]
    names = [policy.name for policy in policies]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"Two policies are called {', '.join(twice)}. Give each policy its own name.")
    if not policies:
        raise ConfigError("Nothing to compare. Name strategies, for example --strategies unknown,random")
    return policies


def _strategy(config: RunConfig, name: str) -> Policy:
    if name == FULL:
        return Policy(name, override(config, ["select.strategy=random"]))
    if name not in STRATEGIES:
        raise ConfigError(f"--strategies: no strategy {name!r}. Available: {', '.join((*STRATEGIES, FULL))}.")
    return Policy(name, override(config, [f"select.strategy={name}"]))


def _named(config: RunConfig, text: str) -> Policy:
    name, colon, rest = text.partition(":")
    name = name.strip()
    if not colon or not _NAME.fullmatch(name) or name == FULL:
        raise ConfigError(
            f"--policy {text!r}: a policy has the form 'NAME: section.key=value …' with a name of letters, digits, "
            "dots, underscores and plus signs, for example 'careful: select.strategy=unknown finetune.replay=1'."
        )
    try:
        settings = shlex.split(rest)
    except ValueError as error:
        raise ConfigError(f"--policy {name}: {error} in {rest.strip()!r}.") from None
    foreign = [setting for setting in settings if setting.partition(".")[0] not in _SECTIONS]
    fixed = ("select.encoder", "select.budget", "select.seed", "select.baseline", "finetune.seed")
    foreign += [setting for setting in settings if setting.partition("=")[0] in fixed]
    if foreign:
        raise ConfigError(
            f"--policy {name}: {foreign[0]} cannot differ between policies, which share Stage 1 and the evaluated "
            "questions; budgets and seeds are those of the grid (--budgets, --seeds). Set select.* and finetune.* only."
        )
    return Policy(name, override(config, settings))
