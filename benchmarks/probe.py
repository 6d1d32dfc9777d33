"""Training probes of all layers: a loop over layers, as it is usually written, against ours.

    python benchmarks/probe.py [repeats] [share of the rows]

Two shapes of synthetic states: 30 layers × 10,000 rows × 576 (a 135M model) and 4 × 2,000 × 4096 (layers of an 8B
model); 60 % of the rows are for training, 20 % for validation. Features have the falling spectrum and the unequal
scales of real states. The label is in directions of medium variance and gets clearer with depth, up to an AUROC of 0.8
to 0.9.

The loop: per layer scikit-learn's LogisticRegression on standardised rows at each of five strengths, to its tolerance
1e-6, the one with the lowest validation loss kept; and per layer one plain torch training loop (autograd, default
AdamW) with the same initial weights, order of rows, epochs and patience as ours. Ours uses all cores; a loop uses all
of them or one, whichever was faster in the first repeat. In the first shape the loop runs on every third layer and its
time is multiplied by three; everything else runs in full. The two sides take turns; times are medians over the repeats.
Per layer and kind both must reach the same validation AUROC to within 0.01.

The floor. MLP: gate and up, forward and for their gradients, are 8 · width · hidden FLOPs per row and epoch (0.6 MFLOP
at 576 × 128), and AdamW reads or writes 7 numbers per weight and step (6 MB per step of 32 rows), which takes about as
long. Linear: the matrix XᵀX (2 · rows · width², 4 GFLOP per layer at 6,000 × 576; with fewer rows than features 2 ·
rows² · width) and its eigenvectors (about 10 · width³); then about 25 passes over the rows are enough for five
strengths, against 500 in the loop. The last line is JSON; `time_ratio` is for the first shape, linear and MLP together.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ka2l.common.intervals import auroc
from ka2l.knowledge.probes import mlp
from ka2l.knowledge.probes.linear import STRENGTHS, fit_linear
from ka2l.knowledge.probes.probe import Examples, standardization
from ka2l.knowledge.settings import ProbeConfig

# Layers, rows, width, and of how many layers the loop runs one.
SHAPES = {"": (30, 10_000, 576, 3), "wide_": (4, 2_000, 4096, 1)}
CONFIG = ProbeConfig()
Floats = NDArray[np.floating]


def main(repeats: int = 3, share: float = 1.0) -> None:
    """Time both sides on both shapes."""
    result: dict[str, Any] = {"benchmark": "probe", "repeats": repeats, "threads": torch.get_num_threads()}
    if share < 1:
        result["rows_share"] = share
    for prefix, (layers, rows, width, every) in SHAPES.items():
        data = _states(layers, int(rows * share), width)
        timed = _measure(data, every, repeats)
        result |= {f"{prefix}{name}": value for name, value in timed.items()}
    print(json.dumps(result))


def _measure(data: Examples, every: int, repeats: int) -> dict[str, float]:
    looped = range(0, data.states.shape[1], every)
    sides: dict[str, Callable[[], list[float]]] = {
        "linear_loop": lambda: [_linear_loop(data, layer) for layer in looped],
        "linear": lambda: [fit.validation_auroc for fit in fit_linear(data)],
        "mlp_loop": lambda: [_mlp_loop(data, layer) for layer in looped],
        "mlp": lambda: [fit.validation_auroc for fit in mlp.fit_mlps(data, CONFIG, seed=0)],
    }
    # A loop gets the number of threads it is fastest with: small products on all cores can be far slower than on one.
    cores = torch.get_num_threads()
    tried = {name: {1, cores} if name.endswith("loop") else {cores} for name in sides}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    scores: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, side in sides.items():
            seconds_with: dict[int, float] = {}
            for threads in tried[name]:
                torch.set_num_threads(threads)
                with threadpool_limits(threads, user_api="blas"):
                    started = time.perf_counter()
                    scores[name] = side()
                    seconds_with[threads] = time.perf_counter() - started
                print(f"{data.states.shape} {name} {threads}: {seconds_with[threads]:.2f} s", file=sys.stderr)
            tried[name] = {min(seconds_with, key=seconds_with.__getitem__)}
            seconds[name].append(min(seconds_with.values()) * (every if name.endswith("loop") else 1))
    torch.set_num_threads(cores)
    median = {name: float(np.median(times)) for name, times in seconds.items()}
    loops, ours = median["linear_loop"] + median["mlp_loop"], median["linear"] + median["mlp"]
    return {
        "time_ratio": round(loops / ours, 2),
        "linear_ratio": round(median["linear_loop"] / median["linear"], 2),
        "mlp_ratio": round(median["mlp_loop"] / median["mlp"], 2),
        **{f"{name}_seconds": round(value, 2) for name, value in median.items()},
        "loop_layers": len(looped),
        "linear_loop_threads": min(tried["linear_loop"]),
        "mlp_loop_threads": min(tried["mlp_loop"]),
        "auroc_shallow": round(scores["linear"][0], 3),
        "auroc_deep": round(scores["linear"][-1], 3),
        "auroc_apart": round(_largest_difference(looped, scores, every), 4),
    }


def _largest_difference(looped: range, scores: dict[str, list[float]], every: int) -> float:
    """The largest difference of validation AUROC between loop and ours; fails if it is over 0.01."""
    largest = 0.0
    for kind in ("linear", "mlp"):
        pairs = list(zip(looped, scores[f"{kind}_loop"], scores[kind][::every], strict=True))
        largest = max(largest, *(abs(loop - ours) for _, loop, ours in pairs))
        wrong = [pair for pair in pairs if abs(pair[1] - pair[2]) > 0.01]
        assert not wrong, f"{kind}: validation AUROC of loop and ours differ at (layer, loop, ours) {wrong}"
    return largest


def _states(layers: int, rows: int, width: int) -> Examples:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=rows).astype(np.float32)
    unknown = latent + 0.7 * rng.normal(size=rows) > 0
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.7
    states = np.empty((rows, layers, width), dtype=np.float32)
    for layer in range(layers):
        clear = 0.25 + 0.2 * layer / (layers - 1)
        seen = np.zeros(width, dtype=np.float32)
        seen[rng.choice(np.arange(5, 60), 20, replace=False)] = clear
        inner = (rng.normal(size=(rows, width)).astype(np.float32) + latent[:, None] * seen) * spectrum
        axes = rng.normal(size=(width, width)).astype(np.float32)
        states[:, layer] = (inner @ axes) * (10 ** rng.uniform(-1, 1, width)).astype(np.float32)
    train, validation, _ = np.split(np.arange(rows), [int(0.6 * rows), int(0.8 * rows)])
    return Examples(states, unknown.astype(np.float64), unknown, train, validation, "label")


def _linear_loop(data: Examples, layer: int) -> float:
    x, x_val = _scaled(data, layer)
    y, y_val = data.event[data.train], data.event[data.validation]
    tried = []
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            logits = LogisticRegression(C=strength, max_iter=5000, tol=1e-6).fit(x, y).decision_function(x_val)
        tried.append((float(np.mean(np.logaddexp(0, logits) - y_val * logits)), auroc(logits, y_val)))
    return min(tried)[1]


class _SwiGLU(torch.nn.Module):
    """score(down(SiLU(gate x) ⊙ up x)), as printed."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(width, hidden, bias=False)
        self.up = torch.nn.Linear(width, hidden, bias=False)
        self.down = torch.nn.Linear(hidden, width, bias=False)
        self.score = torch.nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.score(self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x)))
        return scores


def _mlp_loop(data: Examples, layer: int) -> float:
    x, x_val = (torch.from_numpy(rows) for rows in _scaled(data, layer))
    y, y_val = (torch.from_numpy(data.event[rows].astype(np.int64)) for rows in (data.train, data.validation))
    network = _SwiGLU(x.shape[1], CONFIG.mlp_width)
    drawn = mlp._initial_weights(range(layer, layer + 1), x.shape[1], CONFIG.mlp_width, seed=0)
    gate, up = drawn["gate_up"][0].chunk(2, dim=1)
    with torch.no_grad():
        for linear, weight in (
            ("gate", gate),
            ("up", up),
            ("down", drawn["down"][0]),
            ("score", drawn["score"][0]),
        ):
            getattr(network, linear).weight.copy_(weight.T)
        network.score.bias.zero_()
    optimizer = torch.optim.AdamW(network.parameters(), lr=CONFIG.mlp_lr, weight_decay=CONFIG.mlp_weight_decay)
    loss_of = torch.nn.CrossEntropyLoss()
    order = torch.Generator().manual_seed(0)
    best_loss, best_epoch, best_auroc = float("inf"), 0, float("nan")
    for epoch in range(1, CONFIG.mlp_epochs + 1):
        for rows in torch.randperm(len(x), generator=order).split(CONFIG.mlp_batch_size):
            optimizer.zero_grad()
            loss_of(network(x[rows]), y[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            scores = network(x_val)
            loss = float(loss_of(scores, y_val))
        if loss < best_loss:
            best_loss, best_epoch = loss, epoch
            best_auroc = auroc((scores[:, 1] - scores[:, 0]).numpy(), data.event[data.validation])
        if epoch - best_epoch >= CONFIG.mlp_patience:
            break
    return best_auroc


def _scaled(data: Examples, layer: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean, scale = standardization(data.states[data.train, layer])
    return tuple((data.states[rows, layer] - mean) / scale for rows in (data.train, data.validation))


if __name__ == "__main__":
    main(*(kind(argument) for kind, argument in zip((int, float), sys.argv[1:], strict=False)))
