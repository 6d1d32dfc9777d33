"""Choice of layer and kind of probe, from training and validation rows.

    choose(fits, "robust")

With few rows the highest of 62 validation AUROCs is mostly chance: each has a standard error of several points, and the
maximum selects the largest error. `robust` takes three precautions. A linear probe's layer is judged by
cross-validation, which uses all rows except test rows. Within a kind it takes the layer with the lowest loss averaged
over its neighbours, which have nearly the same states. Among the kinds it takes the most stable one within one standard
error of the best validation AUROC (Breiman, Friedman, Olshen & Stone 1984). Results of both policies on real questions,
and alternatives that were tried, are in docs/decisions.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ka2l.knowledge.probes.probe import ProbeFit

STEADIEST_FIRST = ("ensemble", "linear", "mix", "mlp")
_LAYERS_PER_NEIGHBOUR = 12  # 24 to 35 layers: two neighbours on either side; 12 to 23: one; fewer: none


def choose(fits: Sequence[ProbeFit], policy: str = "robust") -> ProbeFit:
    """The fit to keep.

    Args:
        fits: of any kinds and layers, at least one.
        policy: `best`, the highest validation AUROC, or `robust`. If all validation rows are of one class, so that
            there is no AUROC, `best` takes the lowest validation loss and `robust` the most stable kind.
    """
    have_auroc = all(np.isfinite(fit.validation_auroc) for fit in fits)
    if policy == "best":
        return max(fits, key=lambda fit: (fit.validation_auroc if have_auroc else 0.0, -fit.validation_loss))
    candidates = [_best_layer(own) for kind in STEADIEST_FIRST if (own := [f for f in fits if f.probe.kind == kind])]
    if not have_auroc:
        return candidates[0].fit
    top = max(candidates, key=lambda candidate: candidate.auroc)
    return next(each.fit for each in candidates if each.auroc >= top.auroc - top.fit.validation_se)


class _Candidate(NamedTuple):
    """The best layer of one kind."""

    fit: ProbeFit
    auroc: float  # on validation rows, averaged over the neighbours


def _best_layer(fits: Sequence[ProbeFit]) -> _Candidate:
    """The layer of one kind with the lowest loss averaged over its neighbours; the outer layers have fewer."""
    fits = sorted(fits, key=lambda fit: fit.probe.layer)
    width = len(fits) // _LAYERS_PER_NEIGHBOUR
    windows = [fits[max(0, i - width) : i + width + 1] for i in range(len(fits))]
    best = int(np.argmin([np.mean([fit.choice_loss for fit in window]) for window in windows]))
    return _Candidate(fits[best], float(np.mean([fit.validation_auroc for fit in windows[best]])))
