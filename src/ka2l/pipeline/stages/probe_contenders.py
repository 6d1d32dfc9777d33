"""The comparison of the paper's Table 9: every probe and score, for both targets, on the same test rows; and Table 10.

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
# Columns of entropy.parquet, in the order of the table.
SCORES = (
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
# Target of `probe.target` → name of the linear probe that is trained for it, if the run's own target is another.
_BASELINES = {"label": "label_probe", "value": "entropy_probe", "correct": "accuracy_probe"}
SE_LABEL, WRONG = "se_label", "wrong_answer"
# Shifts of the threshold in nats, from the paper's Table 10.
PERTURBATIONS = (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2)


class Measured(NamedTuple):
    """The input of the stage `probe`."""

    # The columns of entropy.parquet.
    table: dict[str, list[Any]]
    # [questions, layers + 1, width]
    states: NDArray[np.float32]
    unknown: NDArray[np.bool_]
    # 1 wrong, 0 right, NaN not judged.
    wrong: NDArray[np.float64]
    # Row numbers of the three splits.
    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]

    @property
    def entropies(self) -> NDArray[np.float64]:
        """Semantic entropy, nats."""
        return np.array(self.table["semantic_entropy"], dtype=np.float64)


class Contender(NamedTuple):
    """A probe or a score that is compared."""

    name: str
    # Layer of a probe; None for a score.
    layer: int | None
    # [questions]; NaN if it is undefined.
    score: NDArray[np.floating]


def contenders(
    kept: Probe, fits: Sequence[ProbeFit], data: Measured, config: ProbeConfig, seed: int
) -> list[Contender]:
    """The kept probe, the best probe of each kind, a linear probe for each other target, and the scores of
    `measure`.
    """
    compared = [Contender(KEPT, kept.layer, kept.predict(kept.inputs(data.states)))]
    for kind in config.kinds:
        best = choose([fit for fit in fits if fit.probe.kind == kind], config.choice)
        compared.append(_probe_contender(f"{kind}_probe", best, data))
    compared += _probes_of_other_targets(data, config, seed)
    for name in SCORES:
        score = np.array([np.nan if v is None else v for v in data.table.get(name, [])], dtype=np.float64)
        if np.isfinite(score).any():
            compared.append(Contender(name, None, score))
    return compared


def _probes_of_other_targets(data: Measured, config: ProbeConfig, seed: int) -> list[Contender]:
    """A linear probe for each target that the run's own probe is not trained for."""
    compared: list[Contender] = []
    samples = len(data.table["cluster_ids"][0])
    for target, name in _BASELINES.items():
        if target == config.target:
            continue
        values, event = probe_target(target, data.unknown, data.entropies, data.wrong, samples)
        settings = config.model_copy(update={"kinds": ["linear"], "target": target})
        try:
            fits = fit_probes(
                data.states,
                values,
                data.train,
                data.validation,
                settings,
                seed,
                event=event,
                groups=data.table["group"],
            )
        except DegenerateError:
            # No gold answers, or all answers right or all wrong: this probe cannot be trained.
            continue
        compared.append(_probe_contender(name, choose(fits, config.choice), data))
    return compared


def score_tables(
    compared: Sequence[Contender], kept: Probe, data: Measured, config: ProbeConfig, seed: int
) -> dict[str, dict[str, Any]]:
    """Contender → target → metric → value, low, high, n; None for a target that it defines or that has no rows here."""
    tables: dict[str, dict[str, Any]] = {one.name: {SE_LABEL: None, WRONG: None} for one in compared}
    judged = np.isfinite(data.wrong)
    for target, event, usable in (
        (SE_LABEL, data.unknown, np.ones_like(judged)),
        (WRONG, data.wrong == 1, judged),
    ):
        rows = data.test[usable[data.test]]
        # The label is semantic entropy cut at the threshold, so for that target it would be perfect by construction.
        scored = [one for one in compared if (target, one.name) != (SE_LABEL, "semantic_entropy")]
        scored = [one for one in scored if np.isfinite(one.score[rows]).any()]
        if not rows.size:
            continue
        validation = data.validation[usable[data.validation]]
        own = _own_target(kept)
        probabilities = {
            one.name: p[rows]
            for one in scored
            if (p := _probability(one, event, validation, given=one.name == KEPT and own == target)) is not None
        }
        table = evaluate_scores(
            {one.name: one.score[rows] for one in scored},
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
    """The paper's Table 10: test AUROC for labels cut at γ* + δ, of a probe trained again and of the kept probe.

    Args:
        kept: the kept probe; its kind and layer are trained again.
        data: input of the stage.
        threshold: γ*, nats.
        config: settings of the stage.
        seed: of the run.
    """
    states = kept.inputs(data.states)
    layer_states = data.states if kept.layer < 0 else data.states[:, [kept.layer]]
    settings = config.model_copy(update={"kinds": [kept.kind], "target": "label", "layers": None})
    groups = [data.table["group"][row] for row in data.test]
    rows = []
    for delta in PERTURBATIONS:
        labels = data.entropies >= threshold + delta
        row: dict[str, Any] = {"delta": delta, "threshold": threshold + delta}
        row["relabelled"] = int((labels != data.unknown).sum())
        predicted = kept.predict(states[data.test])
        row["auroc_kept"] = _interval(predicted, labels[data.test], groups, config, seed)
        try:
            fit = fit_probes(
                layer_states, labels, data.train, data.validation, settings, seed, groups=data.table["group"]
            )[0]
        except DegenerateError:
            # All labels are the same at this threshold.
            row["auroc"] = None
        else:
            predicted = fit.probe.logits(fit.probe.inputs(layer_states[data.test]))
            row["auroc"] = _interval(predicted, labels[data.test], groups, config, seed)
        rows.append(row)
    return rows


def _probe_contender(name: str, fit: ProbeFit, data: Measured) -> Contender:
    return Contender(name, fit.probe.layer, fit.probe.logits(fit.probe.inputs(data.states)))


def _own_target(kept: Probe) -> str | None:
    """The target whose probability the probe predicts; None if it is not calibrated."""
    if kept.calibration == "none":
        return None
    return {"label": SE_LABEL, "value": SE_LABEL, "correct": WRONG}.get(kept.target)


def _probability(
    contender: Contender, event: NDArray[np.bool_], validation: NDArray[np.intp], *, given: bool
) -> NDArray[np.floating] | None:
    """The contender's probability of the event, [questions]; None if it cannot be fitted on the validation rows.

    Args:
        contender: the probe or score.
        event: whether the event occurred, [questions].
        validation: row numbers to fit Platt scaling on.
        given: whether the score is this probability already.
    """
    if given:
        return contender.score
    rows = validation[np.isfinite(contender.score[validation])]
    if not 0 < event[rows].sum() < rows.size:
        return None
    score = contender.score.astype(np.float32)
    return apply_calibration("platt", platt(score[rows], event[rows].astype(np.float64)), score)


def _interval(
    score: NDArray[np.floating], labels: NDArray[np.bool_], groups: list[str], config: ProbeConfig, seed: int
) -> dict[str, Any] | None:
    interval = auroc_interval(score, labels, groups, config.bootstrap, seed)
    if not np.isfinite(interval.value):
        return None
    return {name: value if np.isfinite(value) else None for name, value in interval._asdict().items()}
