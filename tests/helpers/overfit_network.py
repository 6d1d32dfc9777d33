"""A few questions learned by heart: what every decoder network must be able to do."""

from collections.abc import Sequence

import torch

from ka2l.augmentation.network import Network


def overfit(
    network: Network, states: torch.Tensor, questions: Sequence[str], steps: int, rate: float
) -> tuple[float, float]:
    """Train on all questions at every step; returns the first and the last loss in nats a token."""
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
