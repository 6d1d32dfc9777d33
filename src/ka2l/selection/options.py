"""Options of query strategies and what is allowed for each: the same bounds for a configuration and for library use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ka2l.common.unknown_from import UNKNOWN_FROM
from ka2l.errors import ConfigError

Draw = Literal["top", "random"]
Space = Literal["state", "sentence"]
SPACES: Mapping[str, str] = {"state": "embedding", "sentence": "sentence_embedding"}  # space → its signal

# Option → whether a value is allowed, and the rule in words.
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "draw": (lambda draw: draw in get_args(Draw), f"one of {', '.join(get_args(Draw))}"),
    "known_fraction": (lambda share: share is None or 0 <= share <= 1, "from 0 to 1"),
    "band": (lambda band: 0 <= band[0] <= band[1] <= 1, "0 <= low <= high <= 1, for example [0.5, 0.9]"),
    "near_copy": (lambda cosine: cosine is None or -1 < cosine <= 1, "a cosine, above -1 and up to 1"),
    "space": (lambda space: space in get_args(Space), f"one of {', '.join(get_args(Space))}"),
}


@dataclass(frozen=True)
class Options:
    """Settings of single strategies; `docs/strategies.md` lists which strategy reads which.

    Raises:
        ConfigError: a value that is not allowed.
    """

    # top: the surest first; random: a uniform draw among those inside the band.
    draw: Draw = "top"
    # Share of known questions; None: 0.5 for `combine`, else 0.
    known_fraction: float | None = None
    # Range of p_unknown to select from; a lower end of 0 stands for 0.5 (see `interval`).
    band: tuple[float, float] = (0.0, 1.0)
    # Cosine above which two questions are near-copies; None: no check.
    near_copy: float | None = None
    # The embedding that distances are measured in: state or sentence.
    space: Space = "state"

    def __post_init__(self) -> None:
        problems = [problem for f in fields(self) if (problem := option_problem(f.name, getattr(self, f.name)))]
        if problems:
            raise ConfigError(f"Options of a query strategy: {'; '.join(problems)}.")

    @property
    def interval(self) -> tuple[float, float]:
        """The range of p_unknown to select from, both ends included.

        A lower end of 0 is the border between known and unknown: (0, 0.9) means unknown, but not above 0.9. Only a band
        wholly below the border starts at 0.
        """
        low, high = self.band
        return (UNKNOWN_FROM if low == 0 and high > UNKNOWN_FROM else low), high


def option_problem(name: str, value: Any) -> str | None:
    """What is wrong with the value of an option, or None if it is allowed."""
    allowed, rule = _ALLOWED[name]
    return None if allowed(value) else f"{name}={value!r}: {rule}"
