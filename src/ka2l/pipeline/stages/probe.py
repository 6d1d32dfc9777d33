"""Stage `probe`: train a probe per layer and kind, keep one, and measure it on test rows.

    ka2l probe runs/mine probe.target=correct

Everything is chosen on training and validation rows. The test rows are read once, here, for the numbers in the card.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ka2l.common import atomic_files
from ka2l.common.intervals import Interval, auroc
from ka2l.common.number_format import finite_or_none
from ka2l.common.version import __version__
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import answered_by, has_stand_in
from ka2l.errors import DegenerateError
from ka2l.evaluation.evaluation_json import interval_from
from ka2l.knowledge.group_splits import TEST, TRAIN, VALIDATION
from ka2l.knowledge.probes.calibration import calibrate
from ka2l.knowledge.probes.fit import fit_probes
from ka2l.knowledge.probes.layer_choice import choose
from ka2l.knowledge.probes.probe import Probe, ProbeFit
from ka2l.knowledge.probes.probe_folder import ALL_LAYERS
from ka2l.knowledge.probes.targets import TargetValues, probe_target
from ka2l.knowledge.reliability import ReliabilityBin, reliability_curve
from ka2l.knowledge.score_titles import score_title
from ka2l.pipeline.content_keys import values
from ka2l.pipeline.context import Context
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.pipeline.shared.artifact_tables import as_table, read_states
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.pipeline.stages.probe_contenders import Measured, contenders, moved_thresholds, score_tables
from ka2l.report.run_page_data import LayerScore, PerturbedThreshold, ScoreRow

# Points in the scatter plot of the report.
POINTS = 2000


class _Kept(NamedTuple):
    """The chosen probe, and what it was chosen from."""

    # The chosen probe, calibrated.
    probe: Probe
    fit: ProbeFit
    fits: list[ProbeFit]
    target: TargetValues


def probe(context: Context, attempt: Attempt) -> None:
    """Train probes, choose one, calibrate it, and score it on test rows."""
    with attempt.begin() as record:
        _probe(context, record)


def _probe(context: Context, record: StageRecord) -> None:
    config, run = context.config, context.run
    data = _read_measured(context)
    kept = _train(context, data)
    compared = contenders(kept.probe, kept.fits, data, config.probe, config.seed)
    tables = score_tables(compared, kept.probe, data, config.probe, config.seed)
    threshold = atomic_files.read_json(run.file("threshold.json"))
    test_aurocs = [_test_auroc(fit.probe, data, kept.target) for fit in kept.fits]
    card = {
        **_card(context, data),
        "threshold": threshold,
        "validation_auroc": finite_or_none(float(kept.fit.validation_auroc)),
        "scores": tables,
        "layers": {one.name: one.layer for one in compared if one.layer is not None},
        "perturbed": moved_thresholds(kept.probe, data, threshold["value"], config.probe, config.seed),
        "reliability": _reliability(kept, data),
        "layer_0": _layer_0_check(context, data, _layer_0_auroc(kept, test_aurocs)),
    }
    folder = run.file("probe")
    replace(kept.probe, card=card).save_pretrained(folder)
    atomic_files.write_table(folder / "layers.parquet", as_table(_layer_rows(kept, test_aurocs)))
    record.counts = {"probes": len(kept.fits)} | ({"layer": kept.probe.layer} if kept.probe.layer >= 0 else {})


def _read_measured(context: Context) -> Measured:
    """The results of `measure` and the hidden states of the same questions."""
    table = atomic_files.read_table(context.run.file("entropy.parquet")).to_pydict()
    states = read_states(context.run.file("states"), table["question_id"])
    split = np.array(table["split"])
    wrong = [np.nan if value is None else 1.0 - float(value) for value in table["correct"]]
    rows = [np.flatnonzero(split == name) for name in (TRAIN, VALIDATION, TEST)]
    return Measured(table, states, np.array(table["unknown"], dtype=bool), np.array(wrong), *rows)


def _train(context: Context, data: Measured) -> _Kept:
    """Train all probes, choose one on validation rows, and calibrate it.

    Raises:
        DegenerateError: the target needs right and wrong answers, and none is known.
    """
    config = context.config
    settings = config.probe
    target = probe_target(settings.target, data.unknown, data.entropies, data.wrong, config.sample.n)
    if not np.isfinite(target.values).any():
        raise DegenerateError(
            f"probe.target={settings.target} is trained on right and wrong answers, and none of the "
            f"{len(target.values)} probe questions has both a gold answer and a low-temperature answer. Give gold "
            "answers (questions.columns.answers), or use probe.target=label."
        )
    n_layers = len(settings.layers) if settings.layers is not None else data.states.shape[1]
    n_fits = sum(1 if kind in ("mix", "ensemble") else n_layers for kind in settings.kinds)
    with context.reporter.bar("probe", n_fits) as advance:
        fits = fit_probes(
            data.states,
            target.values,
            data.train,
            data.validation,
            settings,
            config.seed,
            advance,
            event=target.event,
            groups=data.table["group"],
        )
    fit = choose(fits, settings.choice)
    # A probe of target `value` predicts the entropy; the map needs the probability that it is above the threshold.
    outcome = target.event if settings.target == "value" else target.values
    rows = data.validation
    probe = calibrate(fit.probe, fit.probe.inputs(data.states[rows]), outcome[rows].astype(float), settings.calibration)
    return _Kept(probe, fit, fits, target)


def _card(context: Context, data: Measured) -> dict[str, Any]:
    """The card values that identify the states a probe accepts, and how it was trained."""
    config, prompts = context.config, context.prompts
    return {
        "ka2l": __version__,
        # The model whose states the probe reads.
        "model": context.resolved.name,
        "answered_by": answered_by(config),
        "stand_in": has_stand_in(config),
        "revision": context.resolved.revision,
        "n_layers": data.states.shape[1] - 1,
        "width": data.states.shape[2],
        "position": config.probe.position,
        "prompt": prompts.sensing_card,
        "sensing_hash": prompts.sensing_hash,
        "samples": config.sample.n,
        "choice": config.probe.choice,
        "split": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
    }


def _layer_rows(kept: _Kept, test_aurocs: list[float]) -> list[dict[str, Any]]:
    """layers.parquet, one row per trained probe."""
    return [
        {
            "layer": fit.probe.layer,
            "kind": fit.probe.kind,
            "validation_auroc": fit.validation_auroc,
            "validation_loss": fit.validation_loss,
            "epochs": fit.epochs,
            "test_auroc": test_auroc,
            "chosen": fit is kept.fit,
        }
        for fit, test_auroc in zip(kept.fits, test_aurocs, strict=True)
    ]


def _test_auroc(probe: Probe, data: Measured, target: TargetValues) -> float:
    rows = data.test[np.isfinite(target.values[data.test])]
    return auroc(probe.logits(probe.inputs(data.states[rows])), target.event[rows])


def _reliability(kept: _Kept, data: Measured) -> list[dict[str, float]]:
    """The reliability curve of the kept probe on test rows: predicted probability and frequency of its event."""
    rows = data.test[np.isfinite(kept.target.values[data.test])]
    if not rows.size:
        return []
    curve = reliability_curve(kept.probe.predict(kept.probe.inputs(data.states[rows])), kept.target.event[rows])
    return [point._asdict() for point in curve]


def _layer_0_auroc(kept: _Kept, test_aurocs: list[float]) -> float:
    """Test AUROC of the probe of layer 0; NaN if no such probe was trained."""
    scores = (score for fit, score in zip(kept.fits, test_aurocs, strict=True) if fit.probe.layer == 0)
    return next(scores, float("nan"))


def _layer_0_check(context: Context, data: Measured, test_auroc: float) -> dict[str, Any]:
    """The constant-token check: the last prompt token has the same embedding in every question, so a probe of it
    guesses.

    In models that add positions to the embedding it differs with the prompt's length. That is noted and is not an
    error.
    """
    constant = bool(np.ptp(data.states[:, 0], axis=0).max() == 0)
    if context.config.probe.position == "tbg" and not constant:
        context.reporter.say(
            "note       layer 0 differs between questions at the last prompt token: the model adds positions to its "
            "embedding,\n           or not all prompts end in the same token. A probe of layer 0 may then read the "
            "prompt's length."
        )
    return {"constant": constant, "test_auroc": finite_or_none(float(test_auroc))}


def _shows(context: Context, _done: frozenset[str]) -> dict[str, Any]:
    card = atomic_files.read_json(context.run.file("probe") / "probe.json")
    event = "wrong" if card["target"] == "correct" else "unknown"
    kept = card["scores"]["probe"]["wrong_answer" if event == "wrong" else "se_label"]
    return {
        "layers": _layer_scores(context),
        "scores": [_score_row(name, row, card["layers"]) for name, row in card["scores"].items()],
        "probe_auroc": _interval(kept and kept["auroc"]),
        "probe_position": card["position"],
        "probe_kind": card["kind"],
        "probe_layer": card["layer"],
        "probe_target": card["target"],
        "probe_event": event,
        "calibration": card["calibration"],
        "perturbed": [
            PerturbedThreshold(
                row["delta"],
                row["threshold"],
                row["relabelled"],
                _interval(row["auroc"]),
                _interval(row["auroc_kept"]),
            )
            for row in card["perturbed"]
        ],
        "reliability": [ReliabilityBin(**point) for point in card["reliability"]],
        **_scatter(context, card),
    }


def _layer_scores(context: Context) -> list[LayerScore]:
    rows = atomic_files.read_table(context.run.file("probe") / "layers.parquet").to_pylist()
    return [
        LayerScore(row["layer"], row["kind"], row["validation_auroc"], row["test_auroc"], bool(row["chosen"]))
        for row in rows
    ]


def _score_row(name: str, targets: dict[str, Any], layers: dict[str, int]) -> ScoreRow:
    title = score_title(name, layers.get(name))
    metrics = {
        target: {metric: interval_from(value) for metric, value in (scores or {}).items() if metric != "difference"}
        for target, scores in targets.items()
    }
    p_values = {
        target: scores["difference"]["p"]
        for target, scores in targets.items()
        if scores and scores.get("difference") and scores["difference"]["p"] is not None
    }
    return ScoreRow(title, metrics, p_values)


def _scatter(context: Context, card: dict[str, Any]) -> dict[str, Any]:
    """The scatter plot of the states at the probe's layer; at the last layer if the probe reads all of them."""
    run = context.run
    table = atomic_files.read_table(run.file("entropy.parquet"), ["question_id", "unknown"]).to_pydict()
    layer = card["n_layers"] if card["layer"] == ALL_LAYERS else card["layer"]
    states = read_states(run.file("states"), table["question_id"][:POINTS], [layer])[:, 0]
    points, variance = _pca(states)
    return {
        "pca": [(float(x), float(y), u) for (x, y), u in zip(points, table["unknown"][:POINTS], strict=True)],
        "pca_variance": variance,
    }


def _pca(states: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Two principal components of the standardised states, and the share of variance each explains."""
    from sklearn.decomposition import PCA

    from ka2l.knowledge.probes.probe import standardization

    mean, scale = standardization(states)
    pca = PCA(n_components=2, svd_solver="full")
    points = pca.fit_transform((states - mean) / scale)
    first, second = (float(share) for share in pca.explained_variance_ratio_)
    return points, (first, second)


def _interval(value: dict[str, Any] | None) -> Interval | None:
    return None if value is None else interval_from(value)


def _settings(config: RunConfig, _arm: str, _known: Identities) -> list[Any]:
    unread = ("layers",) if config.probe.layers is None else ()
    return [values(config.probe, without=unread), config.sample.states, config.seed]


STAGE = Stage(
    "probe",
    verb="probe",
    work=probe,
    reads=lambda config, arm: ["sample", "measure"],
    settings=_settings,
    writes=(Written("probe"),),
    costs=lambda sizes, arm: Cost(sizes.of_role("probe")),
    shows=_shows,
)
