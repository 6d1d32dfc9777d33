"""The measures of a cell: each with its title, the direction that is better, and a sentence that explains it.

    values(cell)["held_out"]        # 0.55

Most are ratios of sums over questions (right answers / questions), so they can be resampled by question.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.studies.comparison.cell_results import CellResult, Outcomes

_Column = Callable[[Outcomes], NDArray[Any]]
Unit = Literal["share", "number", "count", "money", "seconds"]  # a share is 0 to 1


@dataclass(frozen=True, slots=True)
class Measure:
    """One number per cell; with `of_set`, a ratio of two sums over the questions of that set.

    `higher`: whether a higher value is better. `per_label`: the denominator is the labels of the cell, spread over the
    rows.
    """

    title: str
    about: str
    unit: Unit
    higher: bool = True
    of_set: str = ""
    numerator: _Column | None = None
    denominator: _Column | None = None
    per_label: bool = False


def _ones(rows: Outcomes) -> NDArray[Any]:
    return np.ones(len(rows.ids))


MEASURES: Mapping[str, Measure] = {
    "held_out": Measure(
        "Held-out, right",
        "share of the held-out questions, which nobody bought or was taught, that the tuned model answers right",
        "share",
        of_set="held_out",
        numerator=lambda rows: rows.after,
        denominator=_ones,
    ),
    "f1": Measure(
        "Token F1",
        "mean token F1 of the held-out answers with the best alias",
        "share",
        of_set="held_out",
        numerator=lambda rows: rows.f1,
        denominator=_ones,
    ),
    "rouge_l": Measure(
        "ROUGE-L",
        "mean ROUGE-L of the held-out answers with the best alias",
        "share",
        of_set="held_out",
        numerator=lambda rows: rows.rouge_l,
        denominator=_ones,
    ),
    "meteor": Measure(
        "METEOR (exact, stem)",
        "mean METEOR of the held-out answers, exact and stem matches only (no synonyms); "
        "a right answer of one word scores 50 at most",
        "share",
        of_set="held_out",
        numerator=lambda rows: rows.meteor,
        denominator=_ones,
    ),
    "bleu": Measure(
        "BLEU", "corpus BLEU of the held-out answers; not tested, as it has no value per question", "share"
    ),
    "pool": Measure(
        "Pool, right",
        "share of a fixed sample of the pool, bought or not and the same for every policy, that is answered right",
        "share",
        of_set="pool",
        numerator=lambda rows: rows.after,
        denominator=_ones,
    ),
    "per_label": Measure(
        "Learned per label",
        "bought questions that were wrong before and are right now, per label",
        "number",
        of_set="bought",
        numerator=lambda rows: ~rows.before & rows.after,
        denominator=_ones,
        per_label=True,
    ),
    "reworded": Measure(
        "Bought, reworded",
        "share of the bought questions, asked in other words, that are answered right",
        "share",
        of_set="bought_reworded",
        numerator=lambda rows: rows.after,
        denominator=_ones,
    ),
    "forgotten": Measure(
        "Forgotten",
        "share of the held-out questions that were right before teaching and are wrong now; less is better",
        "share",
        higher=False,
        of_set="held_out",
        numerator=lambda rows: rows.before & ~rows.after,
        denominator=lambda rows: rows.before,
    ),
    "gain_held_out": Measure("Held-out, gain", "held-out share right now minus before teaching", "share"),
    "gain_pool": Measure("Pool, gain", "pool share right now minus before teaching", "share"),
    "learned": Measure("Learned", "bought questions that were wrong before and are right now", "count"),
    "labels": Measure("Labels", "answers bought", "count"),
    "replayed": Measure("Replayed", "known questions taught again with the model's own answers, at no label", "count"),
    "cost": Measure("Cost of labels", "what the labels cost, as the annotator counts it", "money", higher=False),
    "select_seconds": Measure("Choosing", "time of the strategy itself", "seconds", higher=False),
    "finetune_seconds": Measure("Fine-tuning", "time of the fine-tuning", "seconds", higher=False),
    "evaluate_seconds": Measure("Evaluating", "time of the evaluation", "seconds", higher=False),
}
TESTED = tuple(name for name, measure in MEASURES.items() if measure.numerator is not None)


def values(cell: CellResult) -> dict[str, float]:
    """Every measure of a cell; NaN if its set is missing or empty, or if no answer was right before fine-tuning."""
    measured = {name: _ratio(sums(cell, name)) for name in TESTED}
    held_out, pool, bought = (cell.sets.get(name) for name in ("held_out", "pool", "bought"))
    measured["bleu"] = held_out.bleu if held_out is not None and len(held_out.ids) else math.nan
    measured["gain_held_out"] = measured["held_out"] - before(held_out)
    measured["gain_pool"] = measured["pool"] - before(pool)
    measured["learned"] = math.nan if bought is None else float((~bought.before & bought.after).sum())
    for name in ("labels", "replayed", "cost", "select_seconds", "finetune_seconds", "evaluate_seconds"):
        measured[name] = float(getattr(cell, name))
    return {name: measured[name] for name in MEASURES}


def before(rows: Outcomes | None) -> float:
    """Share of a set that the base model answers right; NaN without rows."""
    return float(np.mean(rows.before)) if rows is not None and len(rows.ids) else math.nan


class Sums(NamedTuple):
    """What a tested measure sums over the rows of its set, [rows] each: the value is the ratio of the two sums."""

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]


def sums(cell: CellResult, name: str) -> Sums:
    """Numerator and denominator of a tested measure by row; empty if the cell lacks the set."""
    measure = MEASURES[name]
    rows = cell.sets.get(measure.of_set)
    if rows is None or measure.numerator is None or measure.denominator is None:
        return Sums(np.empty(0), np.empty(0))
    numerator, denominator = (
        np.asarray(part(rows), dtype=np.float64) for part in (measure.numerator, measure.denominator)
    )
    if measure.per_label and len(rows.ids):
        denominator = denominator * (cell.labels / len(rows.ids))
    return Sums(numerator, denominator)


def groups_of(cell: CellResult, name: str) -> Sequence[str]:
    """The question group of each row of `sums`."""
    rows = cell.sets.get(MEASURES[name].of_set)
    return () if rows is None else rows.groups


def _ratio(parts: Sums) -> float:
    denominator = float(parts.denominator.sum())
    return float(parts.numerator.sum()) / denominator if denominator else math.nan
