"""Which layer and which kind of probe to keep, from training and validation rows.

    choose(fits, "robust")

The highest of 62 validation AUROCs is a lottery where rows are few: each has a standard error of several points, and
the maximum finds the luckiest. `robust` takes three precautions. A linear probe's layer is judged by cross-validation,
so by all rows that are not test rows. Within a kind it takes the layer with the least such loss on average with its
neighbours, which read nearly the same. Among the kinds it takes the steadiest that comes within one standard error of
the best validation AUROC (Breiman, Friedman, Olshen & Stone 1984). What both policies gave on real questions, and what
else was tried, is in docs/decisions.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ka2l.knowledge.probes.probe import ProbeFit

STEADIEST_FIRST = ("ensemble", "linear", "mix", "mlp")
_LAYERS_PER_NEIGHBOUR = 12  # 31 layers: two on either side; 12 and more: one; fewer: none


def choose(fits: Sequence[ProbeFit], policy: str = "robust") -> ProbeFit:
    """The fit to keep.

    Args:
        fits: of any kinds and layers, at least one.
        policy: `best`, the highest validation AUROC, or `robust`. Where validation rows are of one class, so that there
            is no AUROC, `best` goes by the validation loss and `robust` keeps the steadiest kind.
    """
    judged = all(np.isfinite(fit.validation_auroc) for fit in fits)
    if policy == "best":
        return max(fits, key=lambda fit: (fit.validation_auroc if judged else 0.0, -fit.validation_loss))
    found = [
        _best_layer(own) for kind in STEADIEST_FIRST if (own := [f for f in fits if f.probe.kind == kind])
    ]
    if not judged:
        return found[0].fit
    top = max(found, key=lambda candidate: candidate.auroc)
    return next(each.fit for each in found if each.auroc >= top.auroc - top.fit.validation_se)


class _Candidate(NamedTuple):
    fit: ProbeFit
    auroc: float  # on validation rows, on average with the neighbours


def _best_layer(fits: Sequence[ProbeFit]) -> _Candidate:
    """The layer of one kind with the least loss around it; at the ends there are fewer neighbours."""
    fits = sorted(fits, key=lambda fit: fit.probe.layer)
    reach = len(fits) // _LAYERS_PER_NEIGHBOUR
    around = [fits[max(0, i - reach) : i + reach + 1] for i in range(len(fits))]
    best = int(np.argmin([np.mean([fit.choice_loss for fit in near]) for near in around]))
    return _Candidate(fits[best], float(np.mean([fit.validation_auroc for fit in around[best]])))
