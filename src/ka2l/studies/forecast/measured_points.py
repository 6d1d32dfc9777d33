"""Points of learning curves from KA2L's own results: the cells of a comparison, or finished runs."""

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
    """Points by strategy, and where they come from.

    `source` is text for people; `price` is the mean cost of a label, None if the source does not contain it.
    """

    source: str
    score: str
    points: Mapping[str, Points]
    price: float | None = None


def from_cells(cells: Sequence[CellResult], source: str, score: str) -> Collected:
    """One curve per policy; the whole pool is a point of all policies that fine-tune in the same way and without
    replay.

    The spread between seeds is estimated from all policies together, because three seeds alone measure it poorly.

    Raises:
        RunError: a cell lacks the score, or the cells do not share the questions and the base model.
    """
    sets = [cell.sets.get(score) for cell in cells]
    outcomes = [rows for rows in sets if rows is not None and len(rows.ids)]
    if len(outcomes) < len(cells):
        raise RunError(f"{source}: some cells were not evaluated on {score}. Choose another --score.")
    order = [np.argsort(np.asarray(rows.ids, dtype=str), kind="stable") for rows in outcomes]
    ids = [np.asarray(rows.ids, dtype=str)[by_id] for rows, by_id in zip(outcomes, order, strict=True)]
    before = [rows.before[by_id] for rows, by_id in zip(outcomes, order, strict=True)]
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
            # the whole pool's answers belong to all policies and count once
            if not any(id(answers) in known for answers in repeated)
        ]
        stacked = {labels: np.array(repeated) for labels, repeated in own.items()}
        points[name] = from_answers({0.0: before[0][None], **stacked}, groups, others)
    price = cost / bought if cost and bought else None
    return Collected(f"the comparison in {source}", score, points, price)


def _by_policy(
    cells: Sequence[CellResult], outcomes: Sequence[Outcomes], order: Sequence[NDArray[np.intp]]
) -> dict[str, dict[float, list[Answers]]]:
    """The answers of each policy's trainings, by the number of its labels (the mean over seeds)."""
    labels: dict[tuple[str, int], list[int]] = defaultdict(list)
    for cell in cells:
        labels[cell.policy, cell.budget].append(cell.labels)
    teaching = {cell.policy: cell.teaching for cell in cells}
    replays = {cell.policy for cell in cells if cell.replayed}
    names = list(dict.fromkeys(cell.policy for cell in cells if cell.policy != WHOLE)) or [WHOLE]
    right: dict[str, dict[float, list[Answers]]] = {name: defaultdict(list) for name in names}
    for cell, rows, by_id in zip(cells, outcomes, order, strict=True):
        mean_labels = float(np.mean(labels[cell.policy, cell.budget]))
        answers = rows.after[by_id]
        # The whole pool is a point of every policy with the same fine-tuning settings and no replay.
        alike = [name for name in names if name not in replays and teaching[name] == cell.teaching]
        for name in alike if cell.policy == WHOLE else [cell.policy]:
            right[name][mean_labels].append(answers)
    return right


def from_runs(sources: Sequence[Path]) -> Collected:
    """Held-out exact match of the base model and of each arm; runs may differ in strategy, budget and seed only.

    All scores were measured on the same questions, so their errors are correlated; the correlation is estimated from
    the interval of the difference between base and tuned model.

    Raises:
        RunError: a run has no held-out questions, or runs differ in their held-out questions or base model.
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
                    f"{source}: the run was not evaluated on held-out questions, so there is no score to forecast."
                )
            base, tuned = (interval_from(held_out[side]["exact_match"]) for side in ("base", "tuned"))
            bases[run.config.model.name, base.value, held_out["n"]] = source
            key = (arm["strategy"], float(arm["labels"]))
            scores[key[0]][key[1]].append(tuned.value)
            deviations[_BASE], deviations[key] = _deviation(base), _deviation(tuned)
            # with another definition of `correct` the difference is not one of exact match
            if evaluation["correct"] == "exact_match":
                alike += _correlation(deviations[_BASE], deviations[key], held_out["difference"])
            cost, labels = cost + arm["cost"], labels + arm["labels"]
    if len(bases) > 1:
        scored = "; ".join(f"{path}: {model} scores {value:.3f} of {n:,}" for (model, value, n), path in bases.items())
        raise RunError(
            "These runs do not start from the same base model and held-out questions, so their scores cannot be on one "
            f"curve. {scored}."
        )
    correlation = float(np.mean(alike)) if alike else 0.0
    points = {}
    for strategy, by_labels in scores.items():
        sd = np.array([deviations[_BASE]] + [deviations[strategy, at] for at in sorted(by_labels)])
        shared = (correlation + (1 - correlation) * np.eye(len(sd))) * np.outer(sd, sd)
        points[strategy] = from_scores({0.0: [next(iter(bases))[1]], **by_labels}, shared)
    named = ", ".join(map(str, sources))
    return Collected(f"evaluation.json of {named}", "held_out", points, cost / labels if cost and labels else None)


def _deviation(interval: Any) -> float:
    """Standard deviation from a 95 % interval; 0 without an interval."""
    width = interval.high - interval.low
    return float(width) / (2 * 1.96) if np.isfinite(width) else 0.0


def _correlation(base: float, tuned: float, difference: Any) -> list[float]:
    """Correlation of the errors of two scores, from the deviations of both and of their difference.

    Returns:
        One number, or none if it is not defined.
    """
    if not base or not tuned:
        return []
    shared = (base**2 + tuned**2 - _deviation(interval_from(difference)) ** 2) / 2
    return [float(np.clip(shared / (base * tuned), 0.0, 0.95))]
