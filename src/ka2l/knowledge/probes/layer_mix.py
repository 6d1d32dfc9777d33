"""A linear probe on a learned mix of layers: no layer is chosen, all are inputs.

The input is Σ_l s_l · x_l with s = softmax(a) over the layers' standardised states, the scalar mix of ELMo (Peters et
al., arXiv 1802.05365); a, the weight and the bias are trained together. Its factor γ is part of the weight.
"""

from typing import Any

import numpy as np
import torch

from ka2l.knowledge.probes.fit_quality import evaluate_fit
from ka2l.knowledge.probes.probe import Examples, Probe, ProbeFit, standardization
from ka2l.knowledge.probes.probe_folder import ALL_LAYERS
from ka2l.knowledge.settings import ProbeConfig

_MIX_LR = 10.0  # times mlp_lr, for the weights of the layers


def fit_mix(data: Examples, config: ProbeConfig, seed: int) -> ProbeFit:
    """The probe at the epoch with the lowest validation loss.

    Args:
        data: states, targets and rows, as in `ka2l.knowledge.probes.fit.fit_probes`.
        config: learning rate, epochs, patience, batch size and weight decay are those of the MLP.
        seed: of the batch order; weights start from zero, with equal shares of all layers.
    """
    layers, width = data.states.shape[1:]
    scaling = [standardization(data.states[data.train, layer]) for layer in range(layers)]
    mean, scale = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*scaling, strict=True))
    values = torch.from_numpy(data.values.astype(np.float32))
    shares, weight, bias = (torch.zeros(size, requires_grad=True) for size in (layers, width, 1))
    parameters: list[dict[str, Any]] = [
        {"params": [weight, bias]},
        {"params": [shares], "lr": _MIX_LR * config.mlp_lr, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(parameters, lr=config.mlp_lr, weight_decay=config.mlp_weight_decay)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        mixed = shares.softmax(0) @ ((_states(data, rows) - mean) / scale)
        return torch.nn.functional.binary_cross_entropy_with_logits(mixed @ weight + bias, values[rows])

    train, validation = torch.from_numpy(data.train), torch.from_numpy(data.validation)
    order = torch.Generator().manual_seed(seed)
    best, best_loss, best_epoch = [shares, weight, bias], float("inf"), 0
    for epoch in range(1, config.mlp_epochs + 1):
        for rows in train[torch.randperm(len(train), generator=order)].split(config.mlp_batch_size):
            optimizer.zero_grad()
            loss(rows).backward()
            optimizer.step()
        with torch.no_grad():
            parts = validation.split(256)
            now = sum(float(loss(rows)) * len(rows) for rows in parts) / len(validation)
        if now < best_loss:
            best, best_loss, best_epoch = [t.detach().clone() for t in (shares, weight, bias)], now, epoch
        if epoch - best_epoch >= config.mlp_patience:
            break
    names = ("layers", "weight", "bias")
    arrays = {name: tensor.detach().numpy() for name, tensor in zip(names, best, strict=True)}
    arrays["layers"] = best[0].softmax(0).numpy()
    weights = {"mean": mean.numpy(), "scale": scale.numpy(), **arrays}
    rows = data.validation
    probe = Probe("mix", ALL_LAYERS, weights, data.target)
    return evaluate_fit(probe, data.states[rows], data.values[rows], data.event[rows], best_epoch)


def _states(data: Examples, rows: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(data.states[rows.numpy()]).float()
