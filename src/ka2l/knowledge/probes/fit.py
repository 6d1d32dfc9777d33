"""Fit probes of every kind and layer; `probe.py` holds what is fitted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.errors import ConfigError, DataError, DegenerateError
from ka2l.knowledge.group_splits import TRAIN, VALIDATION, assign_folds, assign_split
from ka2l.knowledge.probes.probe import Examples, Probe, ProbeFit
from ka2l.knowledge.settings import ProbeConfig

_CLASSES = {  # of a target's event: where it is false, where it is true
    "label": ("known", "unknown"),
    "value": ("known", "unknown"),
    "correct": ("answered right", "answered wrong"),
    "both": ("known and answered right", "unknown or answered wrong"),
}


def fit_probes(
    states: NDArray[np.floating],
    target: NDArray[np.bool_] | NDArray[np.floating],
    train: NDArray[np.intp],
    validation: NDArray[np.intp],
    config: ProbeConfig,
    seed: int,
    on_fitted: Callable[[int], None] = lambda _count: None,
    event: NDArray[np.bool_] | None = None,
    groups: Sequence[str] | None = None,
) -> list[ProbeFit]:
    """Fit every kind at every layer, or at those `config.layers` names.

    With choice `robust` the linear probes' strengths and `choice_loss` come from five-fold cross-validation over
    training and validation rows; all else, and everything with `best`, from validation rows.

    Args:
        states: [questions, layers + 1, width].
        target: labels, or values in [0, 1] (see `ka2l.knowledge.probes.targets`), [questions]; rows that are NaN are left out.
        train, validation: row numbers; rows in neither are not read.
        config: kinds and hyper-parameters.
        seed: of initial weights, batch order and folds.
        on_fitted: told how many probes have been fitted since the last call; a mix and an ensemble count as one.
        event: what the score should rank high, [questions]; by default target >= 0.5.
        groups: rows of one group (wordings of one question) lie in one fold, [questions]; by default each row alone.

    Returns:
        linear by layer, mlp by layer, mix, ensemble: the kinds that are asked for.

    Raises:
        DegenerateError: the training rows are all of one class, or a split is empty.
        DataError: a state that is read is not a finite number.
        ConfigError: the model has no such layer.
    """
    layers = None if config.layers is None else _layers_there(config.layers, states.shape[1])
    if layers is not None:
        states = states[:, layers]
    values = np.asarray(target, dtype=np.float64)
    if event is None:
        event = values >= 0.5
    train, validation = (rows[np.isfinite(values[rows])] for rows in (train, validation))
    data = Examples(states, values, event, train, validation, config.target)
    _check(data)
    if config.choice == "robust":
        rows = np.concatenate([train, validation]).tolist()
        folds = assign_folds([str(row) if groups is None else groups[row] for row in rows], seed)
        data = data._replace(folds=folds if folds.any() else None)  # all of one group: there is one fold
    fits: list[ProbeFit] = []
    if "linear" in config.kinds or "ensemble" in config.kinds:
        from ka2l.knowledge.probes.linear import fit_linear

        asked = "linear" in config.kinds
        linear = fit_linear(data, on_fitted if asked else lambda _count: None)
        fits += linear if asked else []
    if "mlp" in config.kinds:
        from ka2l.knowledge.probes.mlp import fit_mlps

        fits += fit_mlps(data, config, seed, on_fitted)
    if "mix" in config.kinds:
        from ka2l.knowledge.probes.layer_mix import fit_mix

        fits.append(fit_mix(data, config, seed))
        on_fitted(1)
    if "ensemble" in config.kinds:
        from ka2l.knowledge.probes.layer_ensemble import average

        fits.append(average(linear, data))
        on_fitted(1)
    if layers is None:
        return fits
    # Fitted as if there were no other layers; the probes know theirs by the model's own numbers.
    return [fit._replace(probe=replace(fit.probe, layer=layers[fit.probe.layer])) for fit in fits]


def _layers_there(asked: Sequence[int], n_states: int) -> list[int]:
    """The layers to train at, in order; refuses those the model does not have."""
    layers = sorted(asked)
    if layers[-1] >= n_states:
        raise ConfigError(
            f"probe.layers={layers}: this model has layers 0 (the embedding) to {n_states - 1}. Name some of these."
        )
    return layers


class FittedProbe(NamedTuple):
    """What `fit_probe` gives."""

    probe: Probe  # chosen and calibrated
    fits: list[ProbeFit]  # of every layer and kind, not calibrated
    split: list[str]  # train, validation or test, of each row


def fit_probe(
    states: NDArray[np.floating],
    target: NDArray[np.bool_] | NDArray[np.floating],
    groups: Sequence[str],
    *,
    event: NDArray[np.bool_] | None = None,
    config: ProbeConfig | None = None,
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2),
    seed: int = 0,
) -> FittedProbe:
    """Split by group, fit every layer and kind, choose one without test rows and calibrate it on validation rows.

    Args:
        states: [questions, layers + 1, width].
        target, event: as in `fit_probes`: usually just which questions are unknown.
        groups: rows of one group (wordings of one question) stay on one side of the split and in one fold.
        config: kinds, choice and calibration.
        shares: of train, validation and test rows; test rows are not read.
        seed: of the split and the training.
    """
    from ka2l.knowledge.probes.calibration import calibrate
    from ka2l.knowledge.probes.layer_choice import choose

    config = config or ProbeConfig()
    split = assign_split(groups, shares, seed)
    names = np.array(split)
    train, validation = np.flatnonzero(names == TRAIN), np.flatnonzero(names == VALIDATION)
    fits = fit_probes(states, target, train, validation, config, seed, event=event, groups=groups)
    probe = choose(fits, config.choice).probe
    outcome = np.asarray(target if event is None or config.target != "value" else event, dtype=np.float64)
    probe = calibrate(probe, probe.inputs(states[validation]), outcome[validation], config.calibration)
    return FittedProbe(probe, fits, split)


def _check(data: Examples) -> None:
    train, validation = data.train, data.validation
    if train.size == 0 or validation.size == 0:
        raise DegenerateError(
            f"The probe has {train.size} training and {validation.size} validation questions; it needs both. "
            "Give more questions the role probe."
        )
    if (data.values[train] < 0).any() or (data.values[train] > 1).any():
        raise ValueError("targets of probes must lie in [0, 1]")
    positive = int(data.event[train].sum())
    if positive in (0, train.size):
        called = _CLASSES[data.target]
        raise DegenerateError(
            f"All {train.size} training questions are {called[bool(positive)]} at this threshold, so there is nothing "
            "to separate. Use more or other questions, or another measure.threshold."
        )
    rows = np.concatenate([train, validation])
    for layer in range(data.states.shape[1]):
        if not np.isfinite(data.states[rows, layer]).all():
            bad = rows[~np.isfinite(data.states[rows, layer]).all(axis=1)]
            raise DataError(
                f"States at layer {layer}: {bad.size} of {rows.size} rows hold NaN or infinity (the first is row "
                f"{bad[0]}). Sample them again, in float32 or bfloat16 if the model overflows in float16."
            )
