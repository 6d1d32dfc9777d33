"""Train a decoder network on a few questions until it reproduces them, as every network must be able to."""

from collections.abc import Sequence

import torch

from ka2l.augmentation.network import Network


def overfit(
    network: Network, states: torch.Tensor, questions: Sequence[str], steps: int, rate: float
) -> tuple[float, float]:
    """Train on all questions at every step; returns the first and the last loss in nats per token."""
    targets = [network.encode(question) for question in questions]
    tokens = sum(map(len, targets))
    network.warm_start(states, targets)
    weights = list(network.parameters().values())
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        loss = network.losses(states, targets) / tokens
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]
