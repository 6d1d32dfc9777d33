"""Probes: from a hidden state to the probability that the question is unknown (paper, Section 3.2.3).

    fitted = fit_probe(states, unknown, groups)          # split, fit, choose, calibrate
    fitted.probe.predict(new_states[:, fitted.probe.layer])        # p_unknown, [rows]

Four kinds: the paper's SwiGLU network, score(down(SiLU(gate x) ⊙ up x)); a standardised logistic regression run to
convergence; a linear probe on a learned mix of layers; and the mean of the linear probes of the deeper layers. What is
chosen is chosen on training and validation rows; test rows are never looked at here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.config import ProbeConfig
from ka2l.errors import ConfigError, DataError, DegenerateError
from ka2l.knowledge.calibration import apply_calibration
from ka2l.knowledge.folds import assign_folds
from ka2l.knowledge.split import TRAIN, VALIDATION, assign_split

Floats = NDArray[np.float32]
_ROWS_AT_ONCE = 1024  # that are read in float32: all layers of 8,000 rows of a 7B model are 4 GB
ALL_LAYERS = -1  # the layer of a probe that reads all of them
_CLASSES = {  # of a target's event: where it is false, where it is true
    "label": ("known", "unknown"),
    "value": ("known", "unknown"),
    "correct": ("answered right", "answered wrong"),
    "both": ("known and answered right", "unknown or answered wrong"),
}


@dataclass(frozen=True)
class Probe:
    """One trained probe.

    `weights` are float32. All kinds have `mean` and `scale` [width]; kind linear has `weight` [width] and `bias` [1];
    kind mlp `gate`, `up` [width, hidden], `down` [hidden, width], `score` [width, 2] and `bias` [2]; kind mix is linear
    with `mean` and `scale` [layers + 1, width] and `layers` [layers + 1], the share of each layer; kind ensemble is
    linear with `mean`, `scale` and `weight` [layers + 1, width]. The arrays of the calibration are those of
    `ka2l.knowledge.calibration`.
    """

    kind: str
    layer: int  # -1 for kinds mix and ensemble: all
    weights: dict[str, Floats]
    target: str = "label"
    calibration: str = "none"
    card: Mapping[str, Any] = field(default_factory=dict, compare=False)  # where it comes from, for JSON

    def predict(self, states: NDArray[np.floating]) -> Floats:
        """p_unknown (or the probability of its target's event), calibrated, [rows] in [0, 1].

        Args:
            states: at this probe's layer, [rows, width]; of all layers where that is -1, [rows, layers + 1, width].
        """
        return apply_calibration(self.calibration, self.weights, self.logits(states))

    def score(self, states: NDArray[np.floating]) -> Floats:
        """What the probe was trained to give, before calibration, [rows] in [0, 1]."""
        return apply_calibration("none", self.weights, self.logits(states))

    def logits(self, states: NDArray[np.floating]) -> Floats:
        """Log-odds of `score`, [rows]."""
        import torch  # its products, for numpy's threads take milliseconds to meet where other processes work

        w = {
            name: torch.from_numpy(np.require(array, requirements="W"))
            for name, array in self.weights.items()
        }
        found = [np.zeros(0, dtype=np.float32)]
        for start in range(0, len(states), _ROWS_AT_ONCE):
            rows = np.asarray(states[start : start + _ROWS_AT_ONCE], dtype=np.float32)
            x = torch.from_numpy((rows - self.weights["mean"]) / self.weights["scale"])
            if self.kind == "mix":
                x = w["layers"] @ x
            if self.kind == "mlp":
                hidden = torch.nn.functional.silu(x @ w["gate"]) * (x @ w["up"])
                two = hidden @ w["down"] @ w["score"] + w["bias"]
                logits = two[:, 1] - two[:, 0]
            else:
                logits = x.flatten(1) @ w["weight"].flatten() + w["bias"]
            found.append(logits.numpy())
        return np.concatenate(found)

    def inputs(self, states: NDArray[np.floating]) -> NDArray[np.floating]:
        """What this probe reads of states at all layers, [rows, layers + 1, width]."""
        return states if self.layer == ALL_LAYERS else states[:, self.layer]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), card (JSON) and a README into a folder."""
        from ka2l import probe_folder

        probe_folder.save(self, self.card, Path(folder))

    @classmethod
    def from_pretrained(cls, name: str, revision: str | None = None) -> "Probe":
        """Read a probe from a folder or the Hub; its card is in `card`."""
        from ka2l import probe_folder

        probe, card = probe_folder.load(name, revision)
        return replace(probe, card=card)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Upload what `save_pretrained` writes; options go to the Hub's client."""
        from ka2l import probe_folder

        return probe_folder.push(self, self.card, repo_id, **options)


class ProbeFit(NamedTuple):
    """A probe, not calibrated, and how it does on validation rows."""

    probe: Probe
    validation_auroc: float  # for the target's event; NaN where validation rows are of one class
    validation_se: float  # its standard error
    validation_loss: float  # mean cross-entropy with the target, nats
    epochs: int  # the epoch that was kept; 0 for linear and ensemble
    choice_loss: (
        float  # what a layer is chosen by: validation_loss, or a linear probe's loss in cross-validation
    )


class Examples(NamedTuple):
    """What the kinds of probes are fitted on."""

    states: NDArray[np.floating]  # [questions, layers + 1, width]
    values: NDArray[np.float64]  # targets in [0, 1], [questions]
    event: NDArray[np.bool_]  # what scores should rank high
    train: NDArray[np.intp]  # row numbers
    validation: NDArray[np.intp]
    target: str  # its name
    folds: NDArray[np.intp] | None = (
        None  # of train, then validation, if linear probes are chosen by cross-validation
    )


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
        target: labels, or values in [0, 1] (see `ka2l.knowledge.targets`), [questions]; rows that are NaN are left out.
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
        from ka2l.knowledge.linear import fit_linear

        asked = "linear" in config.kinds
        linear = fit_linear(data, on_fitted if asked else lambda _count: None)
        fits += linear if asked else []
    if "mlp" in config.kinds:
        from ka2l.knowledge.mlp import fit_mlps

        fits += fit_mlps(data, config, seed, on_fitted)
    if "mix" in config.kinds:
        from ka2l.knowledge.mix import fit_mix

        fits.append(fit_mix(data, config, seed))
        on_fitted(1)
    if "ensemble" in config.kinds:
        from ka2l.knowledge.ensemble import average

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
    from ka2l.knowledge.calibration import calibrate
    from ka2l.knowledge.choice import choose

    config = config or ProbeConfig()
    split = assign_split(groups, shares, seed)
    names = np.array(split)
    train, validation = np.flatnonzero(names == TRAIN), np.flatnonzero(names == VALIDATION)
    fits = fit_probes(states, target, train, validation, config, seed, event=event, groups=groups)
    probe = choose(fits, config.choice).probe
    outcome = np.asarray(target if event is None or config.target != "value" else event, dtype=np.float64)
    probe = calibrate(probe, probe.inputs(states[validation]), outcome[validation], config.calibration)
    return FittedProbe(probe, fits, split)


def standardization(rows: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and scale of training rows [rows, width]; a constant feature gets scale 1, so that it becomes 0."""
    mean = rows.mean(axis=0, dtype=np.float64)
    scale = rows.std(axis=0, dtype=np.float64)
    # Rounding leaves a constant column with a tiny deviation; dividing by it would turn noise into signal.
    scale[scale <= 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0
    return mean.astype(np.float32), scale.astype(np.float32)


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
