"""Probes: from a hidden state to the probability that the question is unknown (paper, Section 3.2.3).

    fits = fit_probes(states, unknown, train, validation, ProbeConfig(), seed=0)
    best = choose(fits)
    best.probe.predict(new_states)        # p_unknown, [rows]

Two kinds: the paper's SwiGLU network, score(down(SiLU(gate x) ⊙ up x)), all layers trained in one batched
computation; and a standardised logistic regression run to convergence. Layer, kind and epoch are chosen on
validation rows; test rows are never looked at here.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.config import ProbeConfig
from ka2l.errors import DegenerateError
from ka2l.statistics import auroc

Floats = NDArray[np.float32]
LINEAR_C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse L2 strengths tried on validation rows


@dataclass(frozen=True)
class Probe:
    """One trained probe.

    `weights` are float32: `mean` and `scale` [width], then `weight` [width] and `bias` [1] for kind linear, or
    `gate`, `up` [width, hidden], `down` [hidden, width], `score` [width, 2] and `bias` [2] for kind mlp.
    """

    kind: str
    layer: int
    weights: dict[str, Floats]

    def predict(self, states: NDArray[np.floating]) -> Floats:
        """p_unknown, [rows] in [0, 1], from states at this probe's layer, [rows, width]."""
        w = self.weights
        x = (np.asarray(states, dtype=np.float32) - w["mean"]) / w["scale"]
        if self.kind == "linear":
            logit = x @ w["weight"] + w["bias"][0]
        else:
            gate = x @ w["gate"]
            logits = ((gate * _sigmoid(gate) * (x @ w["up"])) @ w["down"]) @ w["score"] + w["bias"]
            logit = logits[:, 1] - logits[:, 0]
        return _sigmoid(logit)


class ProbeFit(NamedTuple):
    """A probe and how it does on validation rows."""

    probe: Probe
    validation_auroc: float  # NaN where validation rows are of one class
    validation_loss: float  # mean cross-entropy, nats
    epochs: int  # the epoch that was kept; 0 for linear


def fit_probes(
    states: NDArray[np.floating],
    unknown: NDArray[np.bool_],
    train: NDArray[np.intp],
    validation: NDArray[np.intp],
    config: ProbeConfig,
    seed: int,
    on_fitted: Callable[[int], None] = lambda _count: None,
) -> list[ProbeFit]:
    """Fit every kind at every layer.

    Args:
        states: [questions, layers + 1, width].
        unknown: labels, [questions].
        train, validation: row numbers; rows in neither are not read.
        config: kinds and hyper-parameters.
        seed: of initial weights and batch order.
        on_fitted: told how many probes have been fitted since the last call.

    Raises:
        DegenerateError: the training rows are all known or all unknown, or a split is empty.
    """
    if train.size == 0 or validation.size == 0:
        raise DegenerateError(
            f"The probe has {train.size} training and {validation.size} validation questions; it needs both. "
            "Give more questions the role probe."
        )
    positive = int(unknown[train].sum())
    if positive in (0, train.size):
        raise DegenerateError(
            f"All {train.size} training questions are {'unknown' if positive else 'known'} at this threshold, so "
            "there is nothing to separate. Use more or other questions, or another measure.threshold."
        )
    fits: list[ProbeFit] = []
    if "linear" in config.kinds:
        for layer in range(states.shape[1]):
            fits.append(_fit_linear(states[:, layer], layer, unknown, train, validation))
            on_fitted(1)
    if "mlp" in config.kinds:
        from ka2l.knowledge.mlp import fit_mlps

        fits += fit_mlps(states, unknown, train, validation, config, seed, on_fitted)
    return fits


def choose(fits: Sequence[ProbeFit]) -> ProbeFit:
    """The fit with the best validation AUROC; ties, and a validation set of one class, go to the lower loss."""
    return max(fits, key=lambda fit: (np.nan_to_num(fit.validation_auroc, nan=-1.0), -fit.validation_loss))


def evaluate_fit(
    probe: Probe, states: NDArray[np.floating], unknown: NDArray[np.bool_], epochs: int = 0
) -> ProbeFit:
    """A probe with its AUROC and cross-entropy on rows it was not trained on."""
    p = np.clip(probe.predict(states).astype(np.float64), 1e-7, 1 - 1e-7)
    loss = float(-np.mean(np.where(unknown, np.log(p), np.log1p(-p))))
    return ProbeFit(probe, auroc(p, unknown), loss, epochs)


def standardization(rows: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and scale of training rows [rows, width]; a constant feature gets scale 1, so that it becomes 0."""
    mean = rows.mean(axis=0, dtype=np.float64)
    scale = rows.std(axis=0, dtype=np.float64)
    # Rounding leaves a constant column with a tiny deviation; dividing by it would turn noise into signal.
    scale[scale <= 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0
    return mean.astype(np.float32), scale.astype(np.float32)


def _fit_linear(
    states: NDArray[np.floating],
    layer: int,
    unknown: NDArray[np.bool_],
    train: NDArray[np.intp],
    validation: NDArray[np.intp],
) -> ProbeFit:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = standardization(states[train])
    x = (states[train] - mean) / scale
    fits = []
    for strength in LINEAR_C:
        with warnings.catch_warnings():
            # Where a layer separates the rows perfectly, the search for the last digit ends in a warning.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=strength, max_iter=5000, tol=1e-6).fit(x, unknown[train])
        weights = {
            "mean": mean,
            "scale": scale,
            "weight": model.coef_[0].astype(np.float32),
            "bias": model.intercept_.astype(np.float32),
        }
        fits.append(evaluate_fit(Probe("linear", layer, weights), states[validation], unknown[validation]))
    return choose(fits)


def _sigmoid(x: NDArray[np.floating]) -> Floats:
    return (0.5 * (1.0 + np.tanh(0.5 * x))).astype(np.float32)
