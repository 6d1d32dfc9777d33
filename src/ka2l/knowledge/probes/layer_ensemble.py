"""The mean of the linear probes of the deeper half of the layers: no layer is chosen, and nothing else is fitted.

The mean of their log-odds is one linear map of all layers. The layers predict nearly the same with partly independent
errors, which averaging reduces; shallow layers are less informative and are left out.
"""

from collections.abc import Sequence

import numpy as np

from ka2l.knowledge.probes.fit_quality import evaluate_fit
from ka2l.knowledge.probes.probe import Examples, Probe, ProbeFit
from ka2l.knowledge.probes.probe_folder import ALL_LAYERS


def average(linear: Sequence[ProbeFit], data: Examples) -> ProbeFit:
    """The probe whose log-odds are the mean of those of the linear probes of layers L/2 … L.

    Args:
        linear: of layers 0 … L, in this order, as `fit_linear` returns them; with a single layer, it is the mean.
        data: the data they were fitted on; the mean is evaluated on its validation rows.
    """
    # L/2, rounded up.
    first = len(linear) // 2
    own = [fit.probe.weights for fit in linear]
    weights = {name: np.stack([each[name] for each in own]) for name in ("mean", "scale", "weight", "bias")}
    weights["weight"][:first] = 0.0
    weights["weight"] /= np.float32(len(linear) - first)
    weights["bias"] = weights["bias"][first:].mean(axis=0)
    rows = data.validation
    probe = Probe("ensemble", ALL_LAYERS, weights, data.target)
    return evaluate_fit(probe, data.states[rows], data.values[rows], data.event[rows])
