"""What probes learn from: labels, entropies and wrong answers, by hand."""

import numpy as np
import pytest

from ka2l.knowledge.probes.fit import fit_probes
from ka2l.knowledge.probes.targets import TargetValues, predicted_nats, probe_target
from ka2l.knowledge.settings import ProbeConfig

UNKNOWN = np.array([True, False, True, False])
ENTROPIES = np.log([10, 1, 5, 2])
WRONG = np.array([1.0, 0.0, np.nan, 1.0])


def target(name: str) -> TargetValues:
    return probe_target(name, UNKNOWN, ENTROPIES, WRONG, 10)


def test_label() -> None:
    values, event = target("label")
    np.testing.assert_array_equal(values, [1, 0, 1, 0])
    np.testing.assert_array_equal(event, UNKNOWN)


def test_value_is_the_share_of_the_largest_entropy() -> None:
    values, event = target("value")
    np.testing.assert_allclose(values, [1, 0, np.log10(5), np.log10(2)])
    np.testing.assert_array_equal(event, UNKNOWN)
    np.testing.assert_allclose(predicted_nats(values, 10), ENTROPIES, rtol=1e-6)


def test_correct_leaves_out_what_was_not_judged() -> None:
    values, event = target("correct")
    np.testing.assert_array_equal(values, [1, 0, np.nan, 1])
    np.testing.assert_array_equal(event, [True, False, False, True])


def test_both_is_halfway_where_they_disagree() -> None:
    values, event = target("both")
    np.testing.assert_array_equal(values, [1, 0, np.nan, 0.5])
    np.testing.assert_array_equal(event, [True, False, False, True])


def test_rounding_does_not_leave_the_interval() -> None:
    values, _ = probe_target("value", UNKNOWN[:2], np.array([np.log(10) + 1e-9, -1e-9]), WRONG[:2], 10)
    np.testing.assert_array_equal(values, [1.0, 0.0])


def test_entropies_of_more_samples_than_said() -> None:
    with pytest.raises(ValueError, match=r"between 0 and ln 5 = 1.609 nats; got 0.000 … 2.303"):
        probe_target("value", UNKNOWN, ENTROPIES, WRONG, 5)


def test_no_such_target() -> None:
    with pytest.raises(ValueError, match="'entropy'; use label, value, correct or both"):
        target("entropy")


def test_a_value_probe_recovers_the_entropy_itself() -> None:
    """Fractional regression: on data that follow it, the predicted nats are the entropies."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(900, 1, 6))
    share = 1 / (1 + np.exp(-states[:, 0] @ rng.normal(size=6)))
    entropies = share * np.log(10)
    values, event = probe_target("value", share >= 0.6, entropies, np.full(900, np.nan), 10)
    config = ProbeConfig(kinds=["linear", "mlp", "mix"], target="value", mlp_lr=1e-2)
    train, validation, test = np.split(np.arange(900), [500, 700])
    for found in fit_probes(states, values, train, validation, config, 0, event=event):
        probe = found.probe
        assert probe.target == "value"
        nats = predicted_nats(probe.score(probe.inputs(states[test])), 10)
        assert np.abs(nats - entropies[test]).mean() < 0.2  # of a standard deviation of 0.6
        assert found.validation_auroc > 0.97  # for the event unknown, not for the value


def test_rows_without_a_target_are_not_trained_on() -> None:
    rng = np.random.default_rng(1)
    states = rng.normal(size=(200, 1, 5)).astype(np.float32)
    wrong = (states[:, 0, 0] > 0).astype(float)
    holes = wrong.copy()
    holes[::3] = np.nan
    kept = np.flatnonzero(np.isfinite(holes))
    config = ProbeConfig(kinds=["linear"], target="correct")
    (left_out,) = fit_probes(states, holes, np.arange(150), np.arange(150, 200), config, 0)
    (never_there,) = fit_probes(states, wrong, kept[kept < 150], kept[kept >= 150], config, 0)
    assert left_out[1:] == never_there[1:]
    np.testing.assert_array_equal(left_out.probe.weights["weight"], never_there.probe.weights["weight"])
