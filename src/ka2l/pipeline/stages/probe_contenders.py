"""The fair comparison (the paper's Table 9): every probe and score, against both targets, on the same test rows.

A contender is a number per question, higher = more uncertain. Brier score and calibration error need probabilities, so
each contender is also fitted to each target with Platt scaling on validation rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.common.intervals import auroc_interval
from ka2l.errors import DegenerateError
from ka2l.knowledge.probes.calibration import platt
from ka2l.knowledge.probes.calibration_curves import apply_calibration
from ka2l.knowledge.probes.fit import fit_probes
from ka2l.knowledge.probes.layer_choice import choose
from ka2l.knowledge.probes.probe import Probe, ProbeFit
from ka2l.knowledge.probes.targets import probe_target
from ka2l.knowledge.score_metrics import evaluate_scores
from ka2l.knowledge.settings import ProbeConfig

KEPT = "probe"
SCORES = (  # columns of entropy.parquet, in the order of the table
    "semantic_entropy",
    "semantic_entropy_rao",
    "semantic_entropy_length_normalized",
    "kernel_entropy",
    "n_clusters",
    "negative_log_likelihood",
    "predictive_entropy",
    "normalized_entropy",
    "p_false",
    "eigenscore",
    "lexical_dissimilarity",
    "answer_length",
)
_BASELINES = {"label": "label_probe", "value": "entropy_probe", "correct": "accuracy_probe"}
SE_LABEL, WRONG = "se_label", "wrong_answer"
PERTURBATIONS = (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2)  # nats; the paper's Table 10


class Measured(NamedTuple):
    """What the stage `probe` reads."""

    table: dict[str, list[Any]]  # entropy.parquet by column
    states: NDArray[np.float32]  # [questions, layers + 1, width]
    unknown: NDArray[np.bool_]
    wrong: NDArray[np.float64]  # 1 wrong, 0 right, NaN not judged
    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]

    @property
    def entropies(self) -> NDArray[np.float64]:
        """Semantic entropy, nats."""
        return np.array(self.table["semantic_entropy"], dtype=np.float64)


class Contender(NamedTuple):
    """One way of telling; `layer` of a probe, None of a score."""

    name: str
    layer: int | None
    score: NDArray[np.floating]  # [questions]; NaN where it is undefined


def contenders(
    kept: Probe, fits: Sequence[ProbeFit], data: Measured, config: ProbeConfig, seed: int
) -> list[Contender]:
    """The kept probe, the best of each kind, a linear probe for each other target, and the scores that are there."""
    found = [Contender(KEPT, kept.layer, kept.predict(kept.inputs(data.states)))]
    for kind in config.kinds:
        best = choose([fit for fit in fits if fit.probe.kind == kind], config.choice)
        found.append(_of(f"{kind}_probe", best, data))
    samples = len(data.table["cluster_ids"][0])
    for target, name in _BASELINES.items():
        if target == config.target:
            continue
        values, event = probe_target(target, data.unknown, data.entropies, data.wrong, samples)
        settings = config.model_copy(update={"kinds": ["linear"], "target": target})
        try:
            made = fit_probes(
                data.states,
                values,
                data.train,
                data.validation,
                settings,
                seed,
                event=event,
                groups=data.table["group"],
            )
        except DegenerateError:  # no gold answers, or all right or all wrong: there is no such probe
            continue
        found.append(_of(name, choose(made, config.choice), data))
    for name in SCORES:
        score = np.array([np.nan if v is None else v for v in data.table.get(name, [])], dtype=np.float64)
        if np.isfinite(score).any():
            found.append(Contender(name, None, score))
    return found


def score_tables(
    rivals: Sequence[Contender], kept: Probe, data: Measured, config: ProbeConfig, seed: int
) -> dict[str, dict[str, Any]]:
    """Contender → target → metric → value, low, high, n; None for a target it defines or that cannot be told here."""
    tables: dict[str, dict[str, Any]] = {rival.name: {SE_LABEL: None, WRONG: None} for rival in rivals}
    judged = np.isfinite(data.wrong)
    for target, event, usable in (
        (SE_LABEL, data.unknown, np.ones_like(judged)),
        (WRONG, data.wrong == 1, judged),
    ):
        rows = data.test[usable[data.test]]
        # Against its own cut semantic entropy is perfect by construction: that says nothing.
        taking = [r for r in rivals if (target, r.name) != (SE_LABEL, "semantic_entropy")]
        taking = [r for r in taking if np.isfinite(r.score[rows]).any()]
        if not rows.size:
            continue
        validation = data.validation[usable[data.validation]]
        own = _own_target(kept)
        probabilities = {
            r.name: p[rows]
            for r in taking
            if (p := _probability(r, event, validation, given=r.name == KEPT and own == target)) is not None
        }
        table = evaluate_scores(
            {r.name: r.score[rows] for r in taking},
            event[rows],
            [data.table["group"][row] for row in rows],
            probabilities=probabilities,
            resamples=config.bootstrap,
            seed=seed,
            reference=KEPT,
        ).as_dict()
        for name, metrics in table.items():
            tables[name][target] = metrics
    return tables


def moved_thresholds(
    kept: Probe, data: Measured, threshold: float, config: ProbeConfig, seed: int
) -> list[dict[str, Any]]:
    """The paper's Table 10: labels cut at γ* + δ, the kept kind and layer trained and tested anew, and as it is."""
    states = kept.inputs(data.states)
    alone = data.states if kept.layer < 0 else data.states[:, [kept.layer]]
    settings = config.model_copy(update={"kinds": [kept.kind], "target": "label", "layers": None})
    groups = [data.table["group"][row] for row in data.test]
    found = []
    for delta in PERTURBATIONS:
        labels = data.entropies >= threshold + delta
        row: dict[str, Any] = {"delta": delta, "threshold": threshold + delta}
        row["relabelled"] = int((labels != data.unknown).sum())
        as_it_is = kept.predict(states[data.test])
        row["auroc_kept"] = _interval(as_it_is, labels[data.test], groups, config, seed)
        try:
            fit = fit_probes(
                alone, labels, data.train, data.validation, settings, seed, groups=data.table["group"]
            )[0]
        except DegenerateError:  # so far off that one side is empty
            row["auroc"] = None
        else:
            anew = fit.probe.logits(fit.probe.inputs(alone[data.test]))
            row["auroc"] = _interval(anew, labels[data.test], groups, config, seed)
        found.append(row)
    return found


def _of(name: str, fit: ProbeFit, data: Measured) -> Contender:
    return Contender(name, fit.probe.layer, fit.probe.logits(fit.probe.inputs(data.states)))


def _own_target(kept: Probe) -> str | None:
    """The target a probe's prediction is the probability of."""
    if kept.calibration == "none":
        return None
    return {"label": SE_LABEL, "value": SE_LABEL, "correct": WRONG}.get(kept.target)


def _probability(
    rival: Contender, event: NDArray[np.bool_], validation: NDArray[np.intp], *, given: bool
) -> NDArray[np.floating] | None:
    """The contender's probability of the event, [questions]; None where validation rows cannot fit one."""
    if given:
        return rival.score
    rows = validation[np.isfinite(rival.score[validation])]
    if not 0 < event[rows].sum() < rows.size:
        return None
    score = rival.score.astype(np.float32)
    return apply_calibration("platt", platt(score[rows], event[rows].astype(np.float64)), score)


def _interval(
    score: NDArray[np.floating], labels: NDArray[np.bool_], groups: list[str], config: ProbeConfig, seed: int
) -> dict[str, Any] | None:
    interval = auroc_interval(score, labels, groups, config.bootstrap, seed)
    if not np.isfinite(interval.value):
        return None
    return {name: value if np.isfinite(value) else None for name, value in interval._asdict().items()}
