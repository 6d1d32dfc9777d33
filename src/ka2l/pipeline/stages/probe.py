"""Stage `probe`: train a probe per layer and kind, keep one, and say how far it can be trusted.

    ka2l probe runs/mine probe.target=correct

What is chosen is chosen on training and validation rows; test rows are read once, here, for the numbers in the card.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.common import atomic_files
from ka2l.common.intervals import Interval, auroc
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
from ka2l.pipeline.shared.artifact_tables import as_table, read_layer, read_states
from ka2l.pipeline.stage import Cost, Identities, Stage
from ka2l.pipeline.stages.probe_contenders import Measured, contenders, moved_thresholds, score_tables
from ka2l.report.run_page_data import LayerScore, PerturbedThreshold, ScoreRow

# Points in the scatter plot of the report.
POINTS = 2000


class _Kept(NamedTuple):
    probe: Probe  # calibrated
    fit: ProbeFit
    fits: list[ProbeFit]
    target: TargetValues


def probe(context: Context, attempt: Attempt) -> None:
    """Train, choose, calibrate, and score on test rows."""
    with attempt.begin() as record:
        _probe(context, record)


def _probe(context: Context, record: StageRecord) -> None:
    config, run = context.config, context.run
    data = _measured(context)
    kept = _train(context, data)
    rivals = contenders(kept.probe, kept.fits, data, config.probe, config.seed)
    tables = score_tables(rivals, kept.probe, data, config.probe, config.seed)
    threshold = atomic_files.read_json(run.file("threshold.json"))
    test_aurocs = [_test_auroc(fit.probe, data, kept.target) for fit in kept.fits]
    card = {
        **_card(context, data),
        "threshold": threshold,
        "validation_auroc": _finite(kept.fit.validation_auroc),
        "scores": tables,
        "layers": {rival.name: rival.layer for rival in rivals if rival.layer is not None},
        "perturbed": moved_thresholds(kept.probe, data, threshold["value"], config.probe, config.seed),
        "reliability": _reliability(kept, data),
        "layer_0": _layer_0(context, data, _at_layer_0(kept, test_aurocs)),
    }
    folder = run.file("probe")
    replace(kept.probe, card=card).save_pretrained(folder)
    atomic_files.write_table(folder / "layers.parquet", as_table(_layers(kept, test_aurocs)))
    record.counts = {"probes": len(kept.fits)} | (
        {"layer": kept.probe.layer} if kept.probe.layer >= 0 else {}
    )


def _measured(context: Context) -> Measured:
    table = atomic_files.read_table(context.run.file("entropy.parquet")).to_pydict()
    states = read_states(context.run.file("states"), table["question_id"])
    split = np.array(table["split"])
    wrong = [np.nan if value is None else 1.0 - float(value) for value in table["correct"]]
    rows = [np.flatnonzero(split == name) for name in (TRAIN, VALIDATION, TEST)]
    return Measured(table, states, np.array(table["unknown"], dtype=bool), np.array(wrong), *rows)


def _train(context: Context, data: Measured) -> _Kept:
    config = context.config
    settings = config.probe
    target = probe_target(settings.target, data.unknown, data.entropies, data.wrong, config.sample.n)
    if not np.isfinite(target.values).any():
        raise DegenerateError(
            f"probe.target={settings.target} learns from right and wrong answers, and none of the "
            f"{len(target.values)} probe questions has a gold answer and a low-temperature one. Give them "
            "(questions.columns.answers), or use probe.target=label."
        )
    depth = len(settings.layers) if settings.layers is not None else data.states.shape[1]
    each = sum(1 if kind in ("mix", "ensemble") else depth for kind in settings.kinds)
    with context.reporter.bar("probe", each) as advance:
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
    # A probe of entropy says how high it is; what the map needs is how likely it is above the threshold.
    outcome = target.event if settings.target == "value" else target.values
    rows = data.validation
    probe = calibrate(
        fit.probe, fit.probe.inputs(data.states[rows]), outcome[rows].astype(float), settings.calibration
    )
    return _Kept(probe, fit, fits, target)


def _card(context: Context, data: Measured) -> dict[str, Any]:
    """What a probe must know to refuse states that are not its own, and what it is worth."""
    config, prompts = context.config, context.prompts
    return {
        "ka2l": __version__,
        "model": context.resolved.name,  # whose states the probe reads
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


def _layers(kept: _Kept, test_aurocs: list[float]) -> list[dict[str, Any]]:
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
    """What the kept probe says on test rows against what came true, for the event it gives the probability of."""
    rows = data.test[np.isfinite(kept.target.values[data.test])]
    if not rows.size:
        return []
    curve = reliability_curve(
        kept.probe.predict(kept.probe.inputs(data.states[rows])), kept.target.event[rows]
    )
    return [point._asdict() for point in curve]


def _at_layer_0(kept: _Kept, test_aurocs: list[float]) -> float:
    """NaN where only probes of all layers were asked for."""
    found = (score for fit, score in zip(kept.fits, test_aurocs, strict=True) if fit.probe.layer == 0)
    return next(found, float("nan"))


def _layer_0(context: Context, data: Measured, test_auroc: float) -> dict[str, Any]:
    """The constant-token check: a fixed prompt position has the same embedding in every question, so its probe guesses.

    Models that add positions to the embedding differ by the prompt's length there, which is said and no error.
    """
    constant = bool(np.ptp(data.states[:, 0], axis=0).max() == 0)
    if context.config.probe.position == "tbg" and not constant:
        context.reporter.say(
            "note       layer 0 differs between questions at the last prompt token: the model adds positions to its "
            "embedding,\n           or prompts do not all end alike. Then a probe there may read the prompt's length."
        )
    return {"constant": constant, "test_auroc": _finite(test_auroc)}


def _finite(value: float | NDArray[np.floating]) -> float | None:
    return float(value) if np.isfinite(value) else None


def _shows(context: Context, _done: frozenset[str]) -> dict[str, Any]:
    run = context.run
    card = atomic_files.read_json(run.file("probe") / "probe.json")
    layers = atomic_files.read_table(run.file("probe") / "layers.parquet").to_pylist()
    table = atomic_files.read_table(run.file("entropy.parquet")).to_pydict()
    # Of a probe that reads all layers, the last one is shown.
    layer = card["n_layers"] if card["layer"] == ALL_LAYERS else card["layer"]
    states = read_layer(run.file("states"), table["question_id"][:POINTS], layer)
    points, variance = _pca(states)
    event = "wrong" if card["target"] == "correct" else "unknown"
    kept = card["scores"]["probe"]["wrong_answer" if event == "wrong" else "se_label"]
    return {
        "layers": [
            LayerScore(
                row["layer"], row["kind"], row["validation_auroc"], row["test_auroc"], bool(row["chosen"])
            )
            for row in layers
        ],
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
        "pca": [(float(x), float(y), u) for (x, y), u in zip(points, table["unknown"][:POINTS], strict=True)],
        "pca_variance": variance,
    }


def _score_row(name: str, targets: dict[str, Any], layers: dict[str, int]) -> ScoreRow:
    title = score_title(name, layers.get(name))
    metrics = {
        target: {
            metric: interval_from(value) for metric, value in (found or {}).items() if metric != "difference"
        }
        for target, found in targets.items()
    }
    p_values = {
        target: found["difference"]["p"]
        for target, found in targets.items()
        if found and found.get("difference") and found["difference"]["p"] is not None
    }
    return ScoreRow(title, metrics, p_values)


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
