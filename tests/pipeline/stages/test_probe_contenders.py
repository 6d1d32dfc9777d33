"""The fair comparison: what is compared, with which probabilities, on which rows, and what moving the threshold
does.
"""

from typing import Any

import numpy as np
import pytest

from ka2l.common.intervals import auroc
from ka2l.knowledge.probes.calibration import calibrate
from ka2l.knowledge.probes.fit import fit_probes
from ka2l.knowledge.probes.layer_choice import choose
from ka2l.knowledge.probes.probe import ProbeFit
from ka2l.knowledge.settings import ProbeConfig
from ka2l.pipeline.stages.probe_contenders import (
    PERTURBATIONS,
    SE_LABEL,
    WRONG,
    Measured,
    contenders,
    moved_thresholds,
    score_tables,
)

ROWS, LAYERS, WIDTH = 200, 3, 6
CONFIG = ProbeConfig(kinds=["linear"], bootstrap=100)


@pytest.fixture(scope="module")
def data() -> Measured:
    """The entropy is written along one direction of layer 2; wrong answers follow it, noisily."""
    rng = np.random.default_rng(0)
    entropy = np.round(rng.random(ROWS) * 2.3, 1)
    states = rng.normal(size=(ROWS, LAYERS, WIDTH)).astype(np.float32)
    states[:, 2, 0] += 3 * entropy
    states[:, 0] = 1.0
    wrong = (entropy + rng.normal(size=ROWS) > 1.2).astype(float)
    wrong[:10] = np.nan  # not judged
    p_false: list[Any] = list(rng.random(ROWS))
    p_false[150:155] = [None] * 5  # worked examples
    table = {
        "semantic_entropy": entropy.tolist(),
        "p_false": p_false,
        "predictive_entropy": [None] * ROWS,  # a server without log-probabilities
        "cluster_ids": [[0] * 10] * ROWS,
        "group": [str(row // 2) for row in range(ROWS)],
    }
    rows = np.arange(ROWS)
    return Measured(table, states, entropy >= 1.2, wrong, rows[:100], rows[100:140], rows[140:])


@pytest.fixture(scope="module")
def kept(data: Measured) -> tuple[ProbeFit, list[ProbeFit]]:
    fits = fit_probes(data.states, data.unknown, data.train, data.validation, CONFIG, 0)
    return choose(fits), fits


def compared(data: Measured, kept: tuple[ProbeFit, list[ProbeFit]], calibration: str = "platt") -> dict[str, Any]:
    best, fits = kept
    rows = data.validation
    probe = calibrate(best.probe, best.probe.inputs(data.states[rows]), data.unknown[rows].astype(float), calibration)
    rivals = contenders(probe, fits, data, CONFIG, 0)
    return score_tables(rivals, probe, data, CONFIG, 0)


def test_all_that_can_tell_is_compared(data: Measured, kept: tuple[ProbeFit, list[ProbeFit]]) -> None:
    tables = compared(data, kept)
    assert list(tables) == [
        "probe",
        "linear_probe",
        "entropy_probe",
        "accuracy_probe",
        "semantic_entropy",
        "p_false",
    ]
    assert tables["semantic_entropy"][SE_LABEL] is None  # perfect by construction
    assert tables["semantic_entropy"][WRONG]["auroc"]["value"] > 0.7
    assert "difference" not in tables["probe"][SE_LABEL]
    assert tables["p_false"][SE_LABEL]["difference"]["p"] < 0.05  # noise against the planted direction


def test_only_test_rows_count_and_only_those_a_method_has(
    data: Measured, kept: tuple[ProbeFit, list[ProbeFit]]
) -> None:
    tables = compared(data, kept)
    score = kept[0].probe.logits(kept[0].probe.inputs(data.states))
    expected = auroc(score[data.test], data.unknown[data.test])
    assert tables["linear_probe"][SE_LABEL]["auroc"]["value"] == pytest.approx(expected)
    assert tables["probe"][SE_LABEL]["auroc"]["n"] == 60
    assert tables["p_false"][SE_LABEL]["auroc"]["n"] == 55
    flipped = data._replace(unknown=np.where(np.arange(ROWS) < 140, data.unknown, ~data.unknown))
    moved = compared(flipped, kept)["linear_probe"][SE_LABEL]["auroc"]["value"]
    assert moved == pytest.approx(1 - expected)


def test_every_method_gets_probabilities_from_validation_rows(
    data: Measured, kept: tuple[ProbeFit, list[ProbeFit]]
) -> None:
    for calibration in ("platt", "none"):
        for found in compared(data, kept, calibration).values():
            for metrics in filter(None, found.values()):
                assert 0 <= metrics["brier"]["value"] < 0.3
                assert 0 <= metrics["ece"]["value"] <= 1


def test_without_gold_there_is_one_target_and_no_accuracy_probe(
    data: Measured, kept: tuple[ProbeFit, list[ProbeFit]]
) -> None:
    tables = compared(data._replace(wrong=np.full(ROWS, np.nan)), kept)
    assert "accuracy_probe" not in tables
    assert all(found[WRONG] is None for found in tables.values())


def test_moved_thresholds_relabel_and_train_anew(data: Measured, kept: tuple[ProbeFit, list[ProbeFit]]) -> None:
    rows = moved_thresholds(kept[0].probe, data, 1.2, CONFIG, 0)
    assert [row["delta"] for row in rows] == list(PERTURBATIONS)
    at_zero = rows[PERTURBATIONS.index(0.0)]
    assert at_zero["relabelled"] == 0
    assert at_zero["auroc"]["value"] == pytest.approx(at_zero["auroc_kept"]["value"])  # the same probe
    for row in rows:
        labels = data.entropies >= row["threshold"]
        assert row["relabelled"] == int((labels != data.unknown).sum())
        kept_score = kept[0].probe.predict(kept[0].probe.inputs(data.states[data.test]))
        assert row["auroc_kept"]["value"] == pytest.approx(auroc(kept_score, labels[data.test]))


def test_a_threshold_that_leaves_one_side_empty_has_no_auroc(
    data: Measured, kept: tuple[ProbeFit, list[ProbeFit]]
) -> None:
    rows = moved_thresholds(kept[0].probe, data._replace(unknown=data.entropies >= 2.25), 2.25, CONFIG, 0)
    assert rows[-1]["auroc"] is None
    assert rows[-1]["auroc_kept"] is None
