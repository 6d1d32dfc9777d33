"""Fit probes of every kind and layer.

Usage:

    fits = fit_probes(states, unknown, train, validation, config, seed)      # all of them
    fitted = fit_probe(states, unknown, groups)                              # split, fit, choose, calibrate
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.errors import ConfigError, DataError, DegenerateError
from ka2l.knowledge.group_splits import TRAIN, VALIDATION, assign_folds, assign_split
from ka2l.knowledge.probes.probe import Examples, Probe, ProbeFit
from ka2l.knowledge.settings import ProbeConfig

# Target → the names of its two classes: event false, event true.
_CLASSES = {
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
    """Fit every kind at every layer, or at the layers in `config.layers`.

    With choice `robust` the linear probes' strengths and `choice_loss` come from five-fold cross-validation over
    training and validation rows; everything else, and everything with `best`, from validation rows.

    Args:
        states: [questions, layers + 1, width].
        target: labels, or values in [0, 1] (see `ka2l.knowledge.probes.targets`), [questions]; rows that are NaN are
            left out.
        train, validation: row numbers; rows in neither are not read.
        config: kinds and hyper-parameters.
        seed: of initial weights, batch order and folds.
        on_fitted: called with the number of probes fitted since the last call; a mix and an ensemble count as one.
        event: what the score should rank high, [questions]; None: target >= 0.5.
        groups: rows of one group (wordings of one question) lie in one fold, [questions]; None: each row alone.

    Returns:
        linear by layer, mlp by layer, mix, ensemble: the requested kinds.

    Raises:
        DegenerateError: the training rows are all of one class, or a split is empty.
        DataError: a state that is read is not a finite number.
        ConfigError: the model has no such layer.
        ValueError: a target outside [0, 1].
    """
    layers = None if config.layers is None else _existing_layers(config.layers, states.shape[1])
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
        # If all rows are of one group there is one fold, and no cross-validation.
        data = data._replace(folds=folds if folds.any() else None)
    fits = _fit_kinds(data, config, seed, on_fitted)
    if layers is None:
        return fits
    # Fitted as if there were no other layers; the probes get the model's own layer numbers.
    return [fit._replace(probe=replace(fit.probe, layer=layers[fit.probe.layer])) for fit in fits]


def _fit_kinds(data: Examples, config: ProbeConfig, seed: int, on_fitted: Callable[[int], None]) -> list[ProbeFit]:
    """The requested kinds at all layers of the data."""
    fits: list[ProbeFit] = []
    if "linear" in config.kinds or "ensemble" in config.kinds:
        from ka2l.knowledge.probes.linear import fit_linear

        requested = "linear" in config.kinds
        linear = fit_linear(data, on_fitted if requested else lambda _count: None)
        fits += linear if requested else []
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
    return fits


def _existing_layers(requested: Sequence[int], n_states: int) -> list[int]:
    """The layers to train at, ascending; refuses layers that the model does not have."""
    layers = sorted(requested)
    if layers[-1] >= n_states:
        raise ConfigError(
            f"probe.layers={layers}: this model has layers 0 (the embedding) to {n_states - 1}. Choose among these."
        )
    return layers


class FittedProbe(NamedTuple):
    """The result of `fit_probe`."""

    probe: Probe  # chosen and calibrated
    fits: list[ProbeFit]  # of every layer and kind, not calibrated
    split: list[str]  # train, validation or test, for each row


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
        groups: rows of one group (wordings of one question) lie on one side of the split and in one fold.
        config: kinds, choice and calibration.
        shares: of train, validation and test rows; test rows are not read.
        seed: of the split and the training.

    Raises:
        DegenerateError, DataError, ConfigError, ValueError: as `fit_probes`.
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
            f"The probe has {train.size} training and {validation.size} validation questions, but needs both. "
            "Give more questions the role probe."
        )
    if (data.values[train] < 0).any() or (data.values[train] > 1).any():
        raise ValueError("targets of probes must lie in [0, 1]")
    positive = int(data.event[train].sum())
    if positive in (0, train.size):
        classes = _CLASSES[data.target]
        raise DegenerateError(
            f"All {train.size} training questions are {classes[bool(positive)]} at this threshold, so there are no two "
            "classes to separate. Use more or other questions, or another measure.threshold."
        )
    rows = np.concatenate([train, validation])
    for layer in range(data.states.shape[1]):
        if not np.isfinite(data.states[rows, layer]).all():
            bad = rows[~np.isfinite(data.states[rows, layer]).all(axis=1)]
            raise DataError(
                f"States at layer {layer}: {bad.size} of {rows.size} rows hold NaN or infinity (the first is row "
                f"{bad[0]}). Sample them again, in float32 or bfloat16 if the model overflows in float16."
            )
