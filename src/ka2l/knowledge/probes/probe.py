"""Probes: from a hidden state to the probability that the question is unknown (paper, Section 3.2.3).

    fitted = fit_probe(states, unknown, groups)                # split, fit, choose, calibrate
    fitted.probe.predict(new_states[:, fitted.probe.layer])    # p_unknown, [rows]

Four kinds: the paper's SwiGLU network, score(down(SiLU(gate x) ⊙ up x)); a standardised logistic regression run to
convergence; a linear probe on a learned mix of layers; and the mean of the linear probes of the deeper layers. Every
choice is made on training and validation rows; test rows are never read here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ka2l.knowledge.probes.calibration_curves import Floats, apply_calibration
from ka2l.knowledge.probes.probe_folder import ALL_LAYERS, ProbeFields, load, push, save

# Rows converted to float32 at a time: all layers of 8,000 rows of a 7B model are 4 GB.
_ROWS_AT_ONCE = 1024


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
    layer: int  # ALL_LAYERS for kinds mix and ensemble
    weights: dict[str, Floats]
    target: str = "label"
    calibration: str = "none"
    card: Mapping[str, Any] = field(default_factory=dict, compare=False)  # how it was made, as JSON values

    def predict(self, states: NDArray[np.floating]) -> Floats:
        """Calibrated p_unknown (or the probability of the target's event), float32 [rows] in [0, 1].

        Args:
            states: at this probe's layer, [rows, width]; for kinds mix and ensemble, [rows, layers + 1, width].
        """
        return apply_calibration(self.calibration, self.weights, self.logits(states))

    def score(self, states: NDArray[np.floating]) -> Floats:
        """The probe's output before calibration, float32 [rows] in [0, 1]."""
        return apply_calibration("none", self.weights, self.logits(states))

    def logits(self, states: NDArray[np.floating]) -> Floats:
        """Log-odds of `score`, float32 [rows]."""
        # torch for the products: NumPy's threads take milliseconds to synchronise on a busy machine.
        import torch

        w = {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in self.weights.items()}
        chunks = [np.zeros(0, dtype=np.float32)]
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
            chunks.append(logits.numpy())
        return np.concatenate(chunks)

    def inputs(self, states: NDArray[np.floating]) -> NDArray[np.floating]:
        """The part of states at all layers, [rows, layers + 1, width], that this probe reads."""
        return states if self.layer == ALL_LAYERS else states[:, self.layer]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), card (JSON) and a README into a folder.

        Raises:
            ModelError: the arrays do not fit together.
        """
        save(self._fields(), Path(folder))

    @classmethod
    def from_pretrained(
        cls, name: str, revision: str | None = None, *, token: str | None = None, endpoint: str | None = None
    ) -> "Probe":
        """Read a probe from a folder or the Hub; arguments and errors as for `probe_folder.load`."""
        return cls(**load(name, revision, token=token, endpoint=endpoint)._asdict())

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload what `save_pretrained` writes; options as for `probe_folder.push`. Returns the address."""
        return push(self._fields(), repo_id, **options)

    def _fields(self) -> ProbeFields:
        return ProbeFields(self.kind, self.layer, self.weights, self.target, self.calibration, self.card)


class ProbeFit(NamedTuple):
    """An uncalibrated probe and its quality on validation rows."""

    probe: Probe
    validation_auroc: float  # for the target's event; NaN if all validation rows are of one class
    validation_se: float  # its standard error
    validation_loss: float  # mean cross-entropy with the target, nats
    epochs: int  # the epoch that was kept; 0 for linear and ensemble
    # The loss a layer is chosen by, nats: validation_loss, or a linear probe's cross-validation loss.
    choice_loss: float


class Examples(NamedTuple):
    """The data that probes of all kinds are fitted on."""

    states: NDArray[np.floating]  # [questions, layers + 1, width]
    values: NDArray[np.float64]  # targets in [0, 1], [questions]
    event: NDArray[np.bool_]  # what scores should rank high, [questions]
    train: NDArray[np.intp]  # row numbers
    validation: NDArray[np.intp]  # row numbers
    target: str  # name of the target
    # Folds of the training, then the validation rows, if linear probes are chosen by cross-validation.
    folds: NDArray[np.intp] | None = None


def standardization(rows: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and scale, float32 [width], of training rows [rows, width]; a constant feature gets scale 1 and becomes
    0.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    scale = rows.std(axis=0, dtype=np.float64)
    # Rounding leaves a constant column with a tiny deviation; dividing by it would amplify noise.
    scale[scale <= 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0
    return mean.astype(np.float32), scale.astype(np.float32)
