"""Targets of probes: from labels, semantic entropies and wrong answers to values in [0, 1].

    values, event = probe_target("value", unknown, entropies, wrong, n_samples=10)

Every probe is trained with cross-entropy against `values`, which need not be 0 or 1. For `value` this is fractional
logistic regression (Papke & Wooldridge 1996): the same loss, and predictions within the bounds of the entropy.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class TargetValues(NamedTuple):
    """A target of each row."""

    values: NDArray[np.float64]  # [rows] in [0, 1]; NaN where the target of a row is undefined
    event: NDArray[np.bool_]  # [rows], what the score should rank high, for AUROC; False where values is NaN


def probe_target(
    name: str,
    unknown: NDArray[np.bool_],
    entropies: NDArray[np.floating],
    wrong: NDArray[np.floating],
    n_samples: int,
) -> TargetValues:
    """The target called `name` in `probe.target`.

    label: unknown. value: semantic entropy / ln N, event unknown. correct: a wrong answer. both: the mean of unknown
    and wrong, event where at least one holds.

    Args:
        name: label, value, correct or both.
        unknown: known/unknown labels, [rows].
        entropies: semantic entropy in nats, [rows], 0 … ln n_samples.
        wrong: 1 wrong, 0 right, NaN not judged, [rows].
        n_samples: N, the number of answers per question; at least 2.

    Raises:
        ValueError: no such target, or an entropy outside 0 … ln N.
    """
    unknown = np.asarray(unknown, dtype=bool)
    is_wrong: NDArray[np.float64] = np.asarray(wrong, dtype=np.float64)
    if name == "label":
        return TargetValues(unknown.astype(np.float64), unknown)
    if name == "value":
        share: NDArray[np.float64] = np.asarray(entropies, dtype=np.float64) / np.log(n_samples)
        if not ((share >= -1e-6) & (share <= 1 + 1e-6)).all():
            raise ValueError(
                f"semantic entropies must lie between 0 and ln {n_samples} = {np.log(n_samples):.3f} nats; "
                f"got {np.min(entropies):.3f} … {np.max(entropies):.3f}. Is n_samples right?"
            )
        return TargetValues(np.clip(share, 0.0, 1.0), unknown)
    if name == "correct":
        return TargetValues(is_wrong, is_wrong >= 0.5)
    if name == "both":
        mean = (unknown + is_wrong) / 2
        return TargetValues(mean, mean >= 0.5)
    raise ValueError(f"no such target: {name!r}; use label, value, correct or both")


def predicted_nats(score: NDArray[np.floating], n_samples: int) -> NDArray[np.float32]:
    """Predicted semantic entropy, [rows] in 0 … ln N nats, from `Probe.score` of a probe of target `value`."""
    return (np.asarray(score, dtype=np.float64) * np.log(n_samples)).astype(np.float32)
