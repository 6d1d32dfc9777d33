"""The layer and the kind: what luck on a few validation rows must not decide."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ka2l.knowledge.probes.fit_quality import auroc_error
from ka2l.knowledge.probes.layer_choice import choose
from ka2l.knowledge.probes.probe import Probe, ProbeFit

NAN = float("nan")


def fit(
    kind: str,
    layer: int,
    score: float,
    loss: float | None = None,
    error: float = 0.05,
    cross: float | None = None,  # loss in cross-validation
) -> ProbeFit:
    """By default the loss falls as the AUROC rises, and there was no cross-validation."""
    loss = 1 - score if loss is None else loss
    return ProbeFit(Probe(kind, layer, {}), score, error, loss, 0, loss if cross is None else cross)


def deep(kind: str, scores: list[float]) -> list[ProbeFit]:
    return [fit(kind, layer, score) for layer, score in enumerate(scores)]


def chosen(fits: list[ProbeFit], policy: str) -> tuple[str, int]:
    probe = choose(fits, policy).probe
    return probe.kind, probe.layer


def test_best_takes_the_highest_and_of_equals_the_lower_loss() -> None:
    assert chosen([fit("linear", 0, 0.7, 0.1), fit("mlp", 1, 0.8, 9.0)], "best") == ("mlp", 1)
    assert chosen([fit("linear", 0, 0.8, 0.5), fit("mlp", 1, 0.8, 0.4)], "best") == ("mlp", 1)


def test_robust_prefers_a_plateau_to_a_peak() -> None:
    scores = [0.5] * 12 + [0.90] + [0.6] * 5 + [0.84, 0.85, 0.86, 0.85, 0.84] + [0.7] * 8
    assert len(scores) == 31
    fits = deep("linear", scores)
    assert chosen(fits, "best") == ("linear", 12)
    assert chosen(fits, "robust") == ("linear", 20)
    assert chosen(fits[::-1], "robust") == ("linear", 20), "the order of the fits is nobody's choice"


def test_the_last_layer_has_neighbours_on_one_side_only() -> None:
    fits = deep("linear", [0.5] * 26 + [0.6, 0.7, 0.8, 0.8, 0.8])
    assert chosen(fits, "robust") == ("linear", 30)


def test_within_a_kind_the_loss_decides_not_the_auroc() -> None:
    fits = [fit("linear", 0, 0.84, loss=0.40), fit("linear", 1, 0.86, loss=0.45)]
    assert chosen(fits, "robust") == ("linear", 0)
    assert chosen(fits, "best") == ("linear", 1)


def test_a_layer_is_chosen_by_cross_validation_and_its_kind_by_validation_rows() -> None:
    fits = [fit("linear", 0, 0.80, loss=0.40, cross=0.50), fit("linear", 1, 0.70, loss=0.45, cross=0.45)]
    assert chosen(fits, "robust") == ("linear", 1)
    assert chosen(fits, "best") == ("linear", 0)
    assert chosen([*fits, fit("mlp", 0, 0.74)], "robust") == ("linear", 1)
    assert chosen([*fits, fit("mlp", 0, 0.76)], "robust") == ("mlp", 0)  # 0.76 − 0.05 > 0.70


def test_a_shallow_model_is_not_smoothed() -> None:
    assert chosen(deep("linear", [0.5, 0.6, 0.9, 0.5]), "robust") == ("linear", 2)


@pytest.mark.parametrize(("mlp", "expected"), [(0.84, "linear"), (0.87, "linear"), (0.91, "mlp"), (0.70, "linear")])
def test_a_kind_must_beat_a_simpler_one_by_its_standard_error(mlp: float, expected: str) -> None:
    fits = [fit("mlp", 1, mlp, error=0.04), fit("linear", 1, 0.85, error=0.5)]  # that of the best counts
    assert chosen(fits, "robust") == (expected, 1)


def test_the_steadiest_kind_that_is_near_enough() -> None:
    fits = [fit("linear", 0, 0.90), fit("mlp", 2, 0.90), fit("ensemble", -1, 0.86)]
    assert chosen(fits, "robust") == ("ensemble", -1)
    fits = [fit("linear", 0, 0.90), fit("mlp", 2, 0.90), fit("ensemble", -1, 0.84)]
    assert chosen(fits, "robust") == ("linear", 0)
    fits = [fit("mlp", 2, 0.90), fit("mix", -1, 0.86), fit("linear", 0, 0.80)]
    assert chosen(fits, "robust") == ("mix", -1)
    assert chosen([fit("mlp", 2, 0.90), fit("linear", 0, 0.80)], "robust") == ("mlp", 2)


def test_validation_rows_of_one_class() -> None:
    """There is no AUROC. `best` goes by their loss; for `robust` they say nothing of kinds: the steadiest is kept."""
    fits = [fit("linear", 0, NAN, 0.45, NAN), fit("linear", 1, NAN, 0.4, NAN), fit("mlp", 1, NAN, 0.3, NAN)]
    assert chosen(fits, "best") == ("mlp", 1)
    assert chosen(fits, "robust") == ("linear", 1)


def test_the_standard_error_is_that_of_many_draws() -> None:
    """DeLong's estimate from one draw of rows, against the spread of AUROCs over many draws."""
    rng = np.random.default_rng(0)

    def draw() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        event = np.arange(56) < 36
        return rng.normal(size=56) + 1.4 * event, event

    from ka2l.common.intervals import auroc

    spread = np.std([auroc(*draw()) for _ in range(2000)])
    assert np.mean([auroc_error(*draw()) for _ in range(200)]) == pytest.approx(spread, rel=0.1)


def test_the_standard_error_by_hand_and_where_there_is_little() -> None:
    # Two positives beat 1 and 2 of 2 negatives: placements ½ and 1; the negatives lose to 2 and 1: 1 and ½.
    scores, event = np.array([2.0, 4.0, 1.0, 3.0]), np.array([True, True, False, False])
    assert auroc_error(scores, event) == pytest.approx(np.sqrt(0.125 / 2 + 0.125 / 2))
    # One positive says nothing about their spread: the largest there can be, ¼, is taken.
    assert auroc_error(scores[1:], event[1:]) == pytest.approx(np.sqrt(0.25 + 0.0))
    assert np.isnan(auroc_error(scores, np.ones(4, dtype=bool)))
