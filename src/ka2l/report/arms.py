"""evaluation.json as the page shows it: readable names, `Interval` objects, None for missing values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ka2l.common.intervals import Interval
from ka2l.common.number_format import as_interval, difference_verdict, is_number, shorten

METRICS = {"exact_match": "Exact match", "f1": "Token F1", "rouge_l": "ROUGE-L", "bleu": "BLEU"}
_ARMS = {
    "unknown": "KA2L",
    "unknown_diverse": "KA2L",
    "known": "Known only",
    "combine": "Known + unknown",
    "random": "Random",
    "entropy": "Token entropy",
    "coreset": "Coreset",
    "badge": "BADGE",
}
_SETS = {
    "held_out": "Held-out questions",
    "bought": "Bought questions",
    "bought_reworded": "Bought, in other words",
    "decoded": "New questions",
    "unbought": "Pool, not bought",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One metric of the base and the tuned model; BLEU is a corpus score and has no interval."""

    base: Interval | float | None
    tuned: Interval | float | None

    @property
    def values(self) -> tuple[float | None, float | None]:
        """The two values without their intervals."""
        return _value(self.base), _value(self.tuned)

    @property
    def intervals(self) -> tuple[Interval | None, Interval | None]:
        """The two intervals; None for a value without one."""
        return as_interval(self.base), as_interval(self.tuned)

    @property
    def gain(self) -> float | None:
        """tuned − base."""
        base, tuned = self.values
        return None if base is None or tuned is None else tuned - base


@dataclass(frozen=True, slots=True)
class SetView:
    """Base against tuned on one set of questions."""

    name: str
    title: str
    n: int
    cells: Mapping[str, Cell]
    difference: Interval | None
    verdict: str


@dataclass(frozen=True, slots=True)
class ArmView:
    """One arm: its labels, their cost, and the results."""

    name: str
    title: str
    labels: int
    cost: float
    sets: tuple[SetView, ...]
    learned: Mapping[str, Any]
    per_label: Interval | None
    forgotten: Mapping[str, Any]
    forgotten_share: Interval | None
    decoded: Mapping[str, Any]
    """The part of `learned` for decoded questions; empty if there are none."""
    decoded_labels: int

    def set(self, name: str) -> SetView | None:
        """The set of that name; None if it was not evaluated."""
        return next((view for view in self.sets if view.name == name), None)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The whole evaluation."""

    correct: str
    """The rule by which an answer counts as right."""
    base_prompt: str
    prompts: Mapping[str, Interval | None]
    """Held-out exact match of the base model by prompt."""
    arms: tuple[ArmView, ...]


def arm_title(name: str) -> str:
    """The name of a query strategy on the page."""
    return _ARMS.get(name) or shorten(name, 24)


def read_evaluation(evaluation: Mapping[str, Any]) -> Comparison:
    """Read `dataclasses.asdict(Evaluation)`, or the same read from JSON."""
    base = evaluation.get("base") or {}
    arms = [_arm(name, arm) for name, arm in (evaluation.get("arms") or {}).items()]
    # Two arms with one title: their strategies' own names.
    if len({arm.title for arm in arms}) < len(arms):
        arms = [replace(arm, title=arm.name.replace("_", " ")) for arm in arms]
    return Comparison(
        correct=str(evaluation.get("correct") or "").replace("_", " "),
        base_prompt=str(evaluation.get("base_prompt") or ""),
        prompts={name: as_interval(scores.get("exact_match")) for name, scores in base.items()},
        arms=tuple(arms),
    )


def _arm(name: str, arm: Mapping[str, Any]) -> ArmView:
    sets: Mapping[str, Any] = arm.get("sets") or {}
    known_first = [key for key in _SETS if key in sets] + [key for key in sets if key not in _SETS]
    learned, forgotten = arm.get("learned") or {}, arm.get("forgotten") or {}
    decoded = learned.get("decoded") or {}
    return ArmView(
        name=name,
        title=arm_title(name),
        labels=int(arm.get("labels") or 0),
        cost=float(arm.get("cost") or 0.0),
        sets=tuple(_set(key, sets[key]) for key in known_first if sets[key]),
        learned=learned,
        per_label=as_interval(learned.get("per_label")),
        forgotten=forgotten,
        forgotten_share=as_interval(forgotten.get("share")),
        decoded=decoded,
        decoded_labels=int(decoded.get("labels") or 0),
    )


def _set(name: str, row: Mapping[str, Any]) -> SetView:
    base, tuned = row.get("base") or {}, row.get("tuned") or {}
    difference = as_interval(row.get("difference"))
    return SetView(
        name=name,
        title=_SETS.get(name) or name.replace("_", " "),
        n=int(row.get("n") or 0),
        cells={key: Cell(_score(base.get(key)), _score(tuned.get(key))) for key in METRICS},
        difference=difference,
        verdict=difference_verdict(difference),
    )


def _score(value: object) -> Interval | float | None:
    if isinstance(value, int | float):
        return float(value) if is_number(value) else None
    return as_interval(value)


def _value(score: Interval | float | None) -> float | None:
    return score.value if isinstance(score, Interval) else score
