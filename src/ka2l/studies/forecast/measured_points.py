"""Points of learning curves from what KA2L itself has measured: the cells of a comparison, or finished runs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ka2l.common import atomic_files
from ka2l.errors import RunError
from ka2l.evaluation.evaluation_json import interval_from
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.studies.comparison.cell_results import CellResult, Outcomes
from ka2l.studies.comparison.summary import WHOLE
from ka2l.studies.forecast.curve_points import Points, from_answers, from_scores

_BASE = ("", 0.0)  # strategy and labels of the base model
Answers = NDArray[np.bool_]  # [questions], which of them were answered right


@dataclass(frozen=True)
class Collected:
    """Points by strategy, and where they are from."""

    source: str  # in words
    score: str
    points: Mapping[str, Points]
    price: float | None = None  # what a label cost on average, where the source knows


def from_cells(cells: Sequence[CellResult], source: str, score: str) -> Collected:
    """One curve a policy; the whole pool is a point of all policies that teach nothing but what they bought.

    How much a score varies with the seed is taken from all policies together: three seeds say little alone.

    Raises:
        RunError: a cell lacks the score, or the cells do not share the questions and the base model.
    """
    sets = [cell.sets.get(score) for cell in cells]
    outcomes = [found for found in sets if found is not None and len(found.ids)]
    if len(outcomes) < len(cells):
        raise RunError(f"{source}: some cells were not evaluated on {score}. Choose another --score.")
    order = [np.argsort(np.asarray(found.ids, dtype=str), kind="stable") for found in outcomes]
    ids = [np.asarray(found.ids, dtype=str)[rows] for found, rows in zip(outcomes, order, strict=True)]
    before = [found.before[rows] for found, rows in zip(outcomes, order, strict=True)]
    if any(len(other) != len(ids[0]) or (other != ids[0]).any() for other in ids):
        raise RunError(f"{source}: the cells were not evaluated on the same {score} questions.")
    if any((other != before[0]).any() for other in before):
        raise RunError(f"{source}: the cells do not start from the same base model.")
    right = _by_policy(cells, outcomes, order)
    groups = [outcomes[0].groups[row] for row in order[0]]
    cost, bought = sum(cell.cost for cell in cells), sum(cell.labels for cell in cells)
    points = {}
    for name, own in right.items():
        known = {id(answers) for repeated in own.values() for answers in repeated}
        others = [
            [float(answers.mean()) for answers in repeated]
            for other, by_labels in right.items()
            if other != name
            for repeated in by_labels.values()
            if not any(id(answers) in known for answers in repeated)  # the whole pool is all policies' own
        ]
        stacked = {labels: np.array(repeated) for labels, repeated in own.items()}
        points[name] = from_answers({0.0: before[0][None], **stacked}, groups, others)
    price = cost / bought if cost and bought else None
    return Collected(f"the comparison in {source}", score, points, price)


def _by_policy(
    cells: Sequence[CellResult], outcomes: Sequence[Outcomes], order: Sequence[NDArray[np.intp]]
) -> dict[str, dict[float, list[Answers]]]:
    """The answers of each policy's trainings by the labels that were bought (the mean over seeds)."""
    labels: dict[tuple[str, int], list[int]] = defaultdict(list)
    for cell in cells:
        labels[cell.policy, cell.budget].append(cell.labels)
    taught = {cell.policy: cell.teaching for cell in cells}
    replays = {cell.policy for cell in cells if cell.replayed}
    names = list(dict.fromkeys(cell.policy for cell in cells if cell.policy != WHOLE)) or [WHOLE]
    right: dict[str, dict[float, list[Answers]]] = {name: defaultdict(list) for name in names}
    for cell, found, rows in zip(cells, outcomes, order, strict=True):
        bought = float(np.mean(labels[cell.policy, cell.budget]))
        answers = found.after[rows]
        whole = cell.policy == WHOLE
        # The whole pool is a point of every policy that teaches as it was taught.
        alike = [name for name in names if name not in replays and taught[name] == cell.teaching]
        for name in alike if whole else [cell.policy]:
            right[name][bought].append(answers)
    return right


def from_runs(sources: Sequence[Path]) -> Collected:
    """Held-out exact match of the base model and of each arm; runs may differ in strategy, budget and seed only.

    All were measured on the same questions: how alike that makes their errors is read off the interval of the
    difference between base and tuned model.

    Raises:
        RunError: a run has no held-out questions, or they do not share them and the base model.
    """
    scores: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    deviations: dict[tuple[str, float], float] = {}
    bases: dict[tuple[str, float, int], Path] = {}
    alike: list[float] = []
    cost = labels = 0.0
    for source in sources:
        run = RunDirectory.open(source)
        evaluation = atomic_files.read_json(run.file("evaluation.json"))
        for arm in evaluation["arms"].values():
            held_out = arm["sets"].get("held_out")
            if held_out is None:
                raise RunError(
                    f"{source}: no held-out questions were asked, so there is no score to forecast."
                )
            base, tuned = (interval_from(held_out[side]["exact_match"]) for side in ("base", "tuned"))
            bases[run.config.model.name, base.value, held_out["n"]] = source
            key = (arm["strategy"], float(arm["labels"]))
            scores[key[0]][key[1]].append(tuned.value)
            deviations[_BASE], deviations[key] = _deviation(base), _deviation(tuned)
            if evaluation["correct"] == "exact_match":  # else the difference is one of another score
                alike += _correlation(deviations[_BASE], deviations[key], held_out["difference"])
            cost, labels = cost + arm["cost"], labels + arm["labels"]
    if len(bases) > 1:
        told = "; ".join(
            f"{path}: {model} scores {value:.3f} of {n:,}" for (model, value, n), path in bases.items()
        )
        raise RunError(
            "These runs do not start from the same base model and held-out questions, so their scores do not stand on one "
            f"curve. {told}."
        )
    correlation = float(np.mean(alike)) if alike else 0.0
    points = {}
    for strategy, by_labels in scores.items():
        sd = np.array([deviations[_BASE]] + [deviations[strategy, at] for at in sorted(by_labels)])
        shared = (correlation + (1 - correlation) * np.eye(len(sd))) * np.outer(sd, sd)
        points[strategy] = from_scores({0.0: [next(iter(bases))[1]], **by_labels}, shared)
    named = ", ".join(map(str, sources))
    return Collected(
        f"evaluation.json of {named}", "held_out", points, cost / labels if cost and labels else None
    )


def _deviation(interval: Any) -> float:
    """Standard deviation from a 95 % interval; 0 where there is none."""
    width = interval.high - interval.low
    return float(width) / (2 * 1.96) if np.isfinite(width) else 0.0


def _correlation(base: float, tuned: float, difference: Any) -> list[float]:
    """Of the errors of two scores, from the deviations of both and of their difference; none where it is not defined."""
    if not base or not tuned:
        return []
    shared = (base**2 + tuned**2 - _deviation(interval_from(difference)) ** 2) / 2
    return [float(np.clip(shared / (base * tuned), 0.0, 0.95))]
