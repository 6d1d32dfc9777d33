"""Questions: what they are. Loading, validation, duplicates and roles are added here (see the docstring below)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `answers` are all accepted gold answers, empty where nobody knows yet."""

    id: str
    question: str
    answers: tuple[str, ...] = ()
    role: str = ""
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rewordings(self) -> tuple[str, ...]:
        """Other wordings of the same question, never asked before teaching."""
        return tuple(self.meta.get("rewordings", ()))
