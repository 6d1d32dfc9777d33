"""Hidden states with labels written into one layer, and the probes fitted on them: for the tests of probes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ka2l.knowledge.probes.fit import fit_probes
from ka2l.knowledge.probes.probe import Examples, Probe, ProbeFit
from ka2l.knowledge.settings import ProbeConfig

ROWS, LAYERS, WIDTH = 300, 4, 12
PLANTED = 2  # the layer in which the labels are written
TRAIN, VALIDATION, TEST = np.arange(0, 180), np.arange(180, 240), np.arange(240, 300)
SMALL = ProbeConfig(mlp_width=16, mlp_epochs=30, mlp_lr=5e-3)

Labelled = tuple[NDArray[np.floating], NDArray[np.bool_]]


@pytest.fixture(scope="module")
def planted() -> Labelled:
    """Labels along one direction of layer 2, weaker at layer 1, noise at layer 3; layer 0 is constant."""
    torch.set_num_threads(1)  # as in the tests: a product's rounding depends on it
    rng = np.random.default_rng(0)
    states = rng.normal(size=(ROWS, LAYERS, WIDTH)).astype(np.float32)
    unknown = rng.random(ROWS) < 0.4
    direction = rng.normal(size=WIDTH)
    direction /= np.linalg.norm(direction)
    for layer, strength in ((1, 2.0), (PLANTED, 6.0)):
        states[:, layer] += np.where(unknown, strength, 0)[:, None] * direction
    states[:, 0] = rng.normal(size=WIDTH)
    # As in real models: widths of very different scales, and a few features far from 0.
    states *= np.float32(10.0) ** rng.integers(-2, 3, WIDTH)
    states += np.float32(30.0) * (np.arange(WIDTH) == 3)
    return states, unknown


@pytest.fixture(scope="module")
def fits(planted: Labelled) -> list[ProbeFit]:
    return fit(planted)


def fit(data: Labelled, config: ProbeConfig = SMALL, seed: int = 0) -> list[ProbeFit]:
    return fit_probes(*data, TRAIN, VALIDATION, config, seed)


def examples(data: Labelled, train: NDArray[np.intp], validation: NDArray[np.intp]) -> Examples:
    states, unknown = data
    return Examples(states, unknown.astype(float), unknown, train, validation, "label")


def fit_at(fits: list[ProbeFit], kind: str, layer: int) -> ProbeFit:
    (found,) = [fit for fit in fits if fit.probe.kind == kind and fit.probe.layer == layer]
    return found


def same_probe(left: Probe, right: Probe) -> bool:
    return (left.kind, left.layer) == (right.kind, right.layer) and all(
        np.array_equal(left.weights[name], right.weights[name]) for name in left.weights
    )
