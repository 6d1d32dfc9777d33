"""The paper's SwiGLU probes, trained a few layers at a time: batched products that fit the processor's cache.

The layers share only the order of the rows: the loss is a sum over layers, so each layer's gradient and Adam state are
those of training it alone. Gradients are computed explicitly. `score` follows `down` without a nonlinearity, so
down·score ([hidden, 2]) is computed first, and the gradient of `down` has rank 2: `down`, a third of the network, costs
almost nothing. The remaining cost is the two products of gate and up, and AdamW's pass over weights and moments.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.knowledge.probes.fit_quality import evaluate_fit
from ka2l.knowledge.probes.parallel_layers import chunks_of, scaled_inputs, side_by_side
from ka2l.knowledge.probes.probe import Examples, Probe, ProbeFit, standardization
from ka2l.knowledge.settings import ProbeConfig

_CHUNK_BYTES = 16 << 20  # parameters, gradients and Adam's two moments of the layers trained together
_ALONE_BYTES = 1 << 30  # layers of this size are trained one after another, each by all threads

# gate_up [layers, width, 2 hidden], down [layers, hidden, width], score [layers, width, 2], bias [layers, 1, 2].
Weights = dict[str, torch.Tensor]


def fit_mlps(
    data: Examples, config: ProbeConfig, seed: int, on_fitted: Callable[[int], None] = lambda _count: None
) -> list[ProbeFit]:
    """One network per layer.

    Args:
        data: states, targets and rows, as in `ka2l.knowledge.probes.fit.fit_probes`.
        config: width, learning rate, epochs, patience, batch size, weight decay, and whether to standardise.
        seed: of initial weights and batch order.
        on_fitted: called with the number of layers fitted since the last call.
    """
    per_layer = 3 * data.states.shape[2] * config.mlp_width * 4 * 4
    chunks = chunks_of(data.states.shape[1], _CHUNK_BYTES // per_layer)

    def fit(chunk: range) -> list[ProbeFit]:
        return _fit_chunk(data, chunk, config, seed)

    fits: list[ProbeFit] = []
    for found in map(fit, chunks) if per_layer > _ALONE_BYTES else side_by_side(fit, chunks):
        fits += found
        on_fitted(len(found))
    return fits


@torch.no_grad()
def _fit_chunk(data: Examples, layers: range, config: ProbeConfig, seed: int) -> list[ProbeFit]:
    states, train, validation = data.states, data.train, data.validation
    scaling = [_scaling(states[train, layer], config.standardize) for layer in layers]
    x_train = scaled_inputs(states, layers, train, scaling)
    x_val = scaled_inputs(states, layers, validation, scaling)
    y_train, y_val = (torch.from_numpy(data.values[rows].astype(np.float32)) for rows in (train, validation))
    weights = _initial_weights(layers, states.shape[2], config.mlp_width, seed)
    best = {name: tensor.clone() for name, tensor in weights.items()}
    best_loss = torch.full((len(layers),), float("inf"))
    best_epoch = torch.zeros(len(layers), dtype=torch.long)
    going = torch.ones(len(layers), dtype=torch.bool)
    optimizer = torch.optim.AdamW(weights.values(), lr=config.mlp_lr, weight_decay=config.mlp_weight_decay, fused=True)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(1, config.mlp_epochs + 1):
        for rows in torch.randperm(len(train), generator=order).split(config.mlp_batch_size):
            gradients = _gradients(weights, x_train[:, rows], y_train[rows])
            for name, tensor in weights.items():
                tensor.grad = gradients[name]
            optimizer.step()
        loss = _losses(_logits(weights, x_val), y_val)
        # A layer that ran out of patience keeps its best epoch while others are still trained.
        better = (loss < best_loss) & going
        best_loss = torch.where(better, loss, best_loss)
        best_epoch[better] = epoch
        for index in better.nonzero().flatten().tolist():
            # Copied: a reference would follow the training.
            for name, tensor in weights.items():
                best[name][index] = tensor[index]
        going &= epoch - best_epoch < config.mlp_patience
        if not going.any():
            break
    return [
        evaluate_fit(
            Probe("mlp", layer, _as_numpy(best, index, *scaling[index]), data.target),
            states[validation, layer],
            data.values[validation],
            data.event[validation],
            int(best_epoch[index]),
        )
        for index, layer in enumerate(layers)
    ]


def _initial_weights(layers: range, width: int, hidden: int, seed: int) -> Weights:
    """PyTorch's default uniform initialisation of a linear layer, from one random stream per layer."""
    shapes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width), "score": (width, 2)}
    drawn: dict[str, list[torch.Tensor]] = {name: [] for name in shapes}
    for layer in layers:
        stream = torch.Generator().manual_seed(seed * 100_003 + layer)
        for name, shape in shapes.items():
            bound = shape[0] ** -0.5
            drawn[name].append(torch.empty(shape).uniform_(-bound, bound, generator=stream))
    gate, up, down, score = (torch.stack(tensors) for tensors in drawn.values())
    bias = torch.zeros(len(layers), 1, 2)
    return {"gate_up": torch.cat([gate, up], dim=2), "down": down, "score": score, "bias": bias}


def _logits(w: Weights, x: torch.Tensor) -> torch.Tensor:
    """Log-odds of unknown, [layers, rows], of inputs [layers, rows, width]."""
    gate, up = (x @ w["gate_up"]).chunk(2, dim=2)
    logits = (torch.nn.functional.silu(gate) * up) @ (w["down"] @ w["score"]) + w["bias"]
    return logits[..., 1] - logits[..., 0]


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each layer, [layers], with targets in [0, 1]."""
    return (torch.nn.functional.softplus(logits) - targets * logits).mean(1)


def _gradients(w: Weights, x: torch.Tensor, targets: torch.Tensor) -> Weights:
    """Gradients of the sum of `_losses(_logits(w, x), targets)` over layers."""
    gate, up = (x @ w["gate_up"]).chunk(2, dim=2)
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    hidden = silu * up
    read = w["down"] @ w["score"]
    logits = hidden @ read + w["bias"]
    residual = (torch.sigmoid(logits[..., 1] - logits[..., 0]) - targets) / len(targets)
    to_logits = torch.stack([-residual, residual], dim=2)
    to_read = hidden.mT @ to_logits
    to_hidden = to_logits @ read.mT
    to_gate = to_hidden * up * (sigmoid + silu * (1 - sigmoid))
    return {
        "gate_up": x.mT @ torch.cat([to_gate, to_hidden * silu], dim=2),
        "down": to_read @ w["score"].mT,
        "score": w["down"].mT @ to_read,
        "bias": to_logits.sum(1, keepdim=True),
    }


def _scaling(rows: NDArray[np.floating], standardize: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and scale, each [width], that are applied to the inputs."""
    mean, scale = standardization(rows)
    if standardize:
        return mean, scale
    # A constant feature becomes 0 in any case: equal rows must not differ by the rounding of a product.
    constant = np.ptp(rows, axis=0) == 0
    return np.where(constant, mean, np.float32(0)), np.ones_like(scale)


def _as_numpy(
    weights: Weights, index: int, mean: NDArray[np.float32], scale: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    gate, up = weights["gate_up"][index].chunk(2, dim=1)
    arrays = {
        "gate": gate,
        "up": up,
        "down": weights["down"][index],
        "score": weights["score"][index],
        "bias": weights["bias"][index, 0],
    }
    return {"mean": mean, "scale": scale} | {
        name: tensor.contiguous().numpy().copy() for name, tensor in arrays.items()
    }
