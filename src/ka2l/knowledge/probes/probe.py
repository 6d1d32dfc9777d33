"""Probes: from a hidden state to the probability that the question is unknown (paper, Section 3.2.3).

    fitted = fit_probe(states, unknown, groups)          # split, fit, choose, calibrate
    fitted.probe.predict(new_states[:, fitted.probe.layer])        # p_unknown, [rows]

Four kinds: the paper's SwiGLU network, score(down(SiLU(gate x) ⊙ up x)); a standardised logistic regression run to
convergence; a linear probe on a learned mix of layers; and the mean of the linear probes of the deeper layers. What is
chosen is chosen on training and validation rows; test rows are never looked at here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.knowledge.probes.calibration_curves import apply_calibration

Floats = NDArray[np.float32]
_ROWS_AT_ONCE = 1024  # that are read in float32: all layers of 8,000 rows of a 7B model are 4 GB
ALL_LAYERS = -1  # the layer of a probe that reads all of them


@dataclass(frozen=True)
class Probe:
    """One trained probe.

    `weights` are float32. All kinds have `mean` and `scale` [width]; kind linear has `weight` [width] and `bias` [1];
    kind mlp `gate`, `up` [width, hidden], `down` [hidden, width], `score` [width, 2] and `bias` [2]; kind mix is linear
    with `mean` and `scale` [layers + 1, width] and `layers` [layers + 1], the share of each layer; kind ensemble is
    linear with `mean`, `scale` and `weight` [layers + 1, width]. The arrays of the calibration are those of
    `ka2l.knowledge.probes.calibration`.
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
        from ka2l.knowledge.probes import probe_folder

        probe_folder.save(self, self.card, Path(folder))

    @classmethod
    def from_pretrained(cls, name: str, revision: str | None = None) -> "Probe":
        """Read a probe from a folder or the Hub; its card is in `card`."""
        from ka2l.knowledge.probes import probe_folder

        probe, card = probe_folder.load(name, revision)
        return replace(probe, card=card)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Upload what `save_pretrained` writes; options go to the Hub's client."""
        from ka2l.knowledge.probes import probe_folder

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


def standardization(rows: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and scale of training rows [rows, width]; a constant feature gets scale 1, so that it becomes 0."""
    mean = rows.mean(axis=0, dtype=np.float64)
    scale = rows.std(axis=0, dtype=np.float64)
    # Rounding leaves a constant column with a tiny deviation; dividing by it would turn noise into signal.
    scale[scale <= 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0
    return mean.astype(np.float32), scale.astype(np.float32)
