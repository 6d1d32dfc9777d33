"""The paper's SwiGLU probes, trained for many layers at once: one batched product instead of a loop over layers.

The layers share nothing but the order of the rows: the loss is a sum over layers, so each layer's gradient, and
Adam's state, are what training it alone would give.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from ka2l.config import ProbeConfig
from ka2l.knowledge.probe import Probe, ProbeFit, evaluate_fit, standardization

_CHUNK_BYTES = 1 << 30  # parameters, gradients and Adam's two moments of the layers trained together


def fit_mlps(
    states: NDArray[np.floating],
    unknown: NDArray[np.bool_],
    train: NDArray[np.intp],
    validation: NDArray[np.intp],
    config: ProbeConfig,
    seed: int,
    on_fitted: Callable[[int], None] = lambda _count: None,
) -> list[ProbeFit]:
    """One network per layer; arguments as in `ka2l.knowledge.probe.fit_probes`."""
    n_layers, width = states.shape[1:]
    per_layer = 3 * width * config.mlp_width * 4 * 4
    chunk = max(1, _CHUNK_BYTES // per_layer)
    fits: list[ProbeFit] = []
    for start in range(0, n_layers, chunk):
        layers = list(range(start, min(start + chunk, n_layers)))
        fits += _fit_chunk(states, layers, unknown, train, validation, config, seed)
        on_fitted(len(layers))
    return fits


def _fit_chunk(
    states: NDArray[np.floating],
    layers: list[int],
    unknown: NDArray[np.bool_],
    train: NDArray[np.intp],
    validation: NDArray[np.intp],
    config: ProbeConfig,
    seed: int,
) -> list[ProbeFit]:
    width = states.shape[2]
    scaling = [_scaling(states[train, layer], config.standardize) for layer in layers]
    x_train = _stack(states, layers, train, scaling)
    x_val = _stack(states, layers, validation, scaling)
    y_train = torch.from_numpy(unknown[train].astype(np.int64))
    y_val = torch.from_numpy(unknown[validation].astype(np.int64))
    weights = _initial_weights(layers, width, config.mlp_width, seed)
    best = {name: tensor.detach().clone() for name, tensor in weights.items()}
    best_loss = torch.full((len(layers),), float("inf"))
    best_epoch = torch.zeros(len(layers), dtype=torch.long)
    going = torch.ones(len(layers), dtype=torch.bool)
    optimizer = torch.optim.AdamW(weights.values(), lr=config.mlp_lr, weight_decay=config.mlp_weight_decay)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(1, config.mlp_epochs + 1):
        for rows in torch.randperm(len(train), generator=order).split(config.mlp_batch_size):
            optimizer.zero_grad(set_to_none=True)
            _losses(_forward(weights, x_train[:, rows]), y_train[rows]).sum().backward()
            optimizer.step()
        with torch.no_grad():
            loss = _losses(_forward(weights, x_val), y_val)
        better = (loss < best_loss) & going  # a layer that ran out of patience is done, whoever trains on
        best_loss = torch.where(better, loss, best_loss)
        best_epoch[better] = epoch
        for index in better.nonzero().flatten().tolist():
            for name, tensor in weights.items():  # a copy: a reference would follow the training
                best[name][index] = tensor.detach()[index]
        going &= epoch - best_epoch < config.mlp_patience
        if not going.any():
            break
    return [
        evaluate_fit(
            Probe("mlp", layer, _as_numpy(best, index, *scaling[index])),
            states[validation, layer],
            unknown[validation],
            int(best_epoch[index]),
        )
        for index, layer in enumerate(layers)
    ]


def _initial_weights(layers: list[int], width: int, hidden: int, seed: int) -> dict[str, torch.Tensor]:
    """PyTorch's default uniform initialisation of a linear layer, from a stream per layer."""
    shapes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width), "score": (width, 2)}
    weights: dict[str, list[torch.Tensor]] = {name: [] for name in shapes}
    for layer in layers:
        stream = torch.Generator().manual_seed(seed * 100_003 + layer)
        for name, shape in shapes.items():
            bound = shape[0] ** -0.5
            weights[name].append(torch.empty(shape).uniform_(-bound, bound, generator=stream))
    stacked = {name: torch.stack(tensors).requires_grad_() for name, tensors in weights.items()}
    stacked["bias"] = torch.zeros(len(layers), 1, 2, requires_grad=True)
    return stacked


def _forward(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Logits [layers, rows, 2] of inputs [layers, rows, width]."""
    hidden = torch.nn.functional.silu(x @ w["gate"]) * (x @ w["up"])
    return hidden @ w["down"] @ w["score"] + w["bias"]


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each layer, [layers]."""
    target = labels.expand(logits.shape[0], -1)
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    return losses.view_as(target).mean(1)


def _scaling(
    rows: NDArray[np.floating], standardize: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean, scale = standardization(rows)
    if standardize:
        return mean, scale
    # A constant feature becomes 0 all the same: rows that are equal must not differ by a product's rounding.
    constant = np.ptp(rows, axis=0) == 0
    return np.where(constant, mean, np.float32(0)), np.ones_like(scale)


def _stack(
    states: NDArray[np.floating],
    layers: list[int],
    rows: NDArray[np.intp],
    scaling: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> torch.Tensor:
    scaled = [
        (states[rows, layer] - mean) / scale for layer, (mean, scale) in zip(layers, scaling, strict=True)
    ]
    return torch.from_numpy(np.stack(scaled).astype(np.float32))


def _as_numpy(
    weights: dict[str, torch.Tensor], index: int, mean: NDArray[np.float32], scale: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    arrays = {name: tensor[index].numpy().copy() for name, tensor in weights.items()}
    arrays["bias"] = arrays["bias"].reshape(2)
    return {"mean": mean, "scale": scale, **arrays}
