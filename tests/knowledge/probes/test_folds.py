"""Folds: whole groups, about equally large, whatever the order of the rows; and the layer they find."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ka2l.knowledge.group_splits import FOLDS, assign_folds
from ka2l.knowledge.probes.fit import fit_probes
from ka2l.knowledge.probes.layer_choice import choose
from ka2l.knowledge.settings import ProbeConfig

GROUPS = st.lists(st.sampled_from([f"fact {number}" for number in range(30)]), min_size=1, max_size=80)


@given(GROUPS, st.integers(0, 1000))
def test_a_group_lies_in_one_fold_and_no_fold_is_empty(groups: list[str], seed: int) -> None:
    folds = assign_folds(groups, seed)
    assert len({(group, int(fold)) for group, fold in zip(groups, folds, strict=True)}) == len(set(groups))
    assert set(folds.tolist()) == set(range(min(FOLDS, len(set(groups)))))


@given(GROUPS, st.integers(0, 1000))
def test_the_order_of_the_rows_says_nothing(groups: list[str], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(groups))
    shuffled = assign_folds([groups[row] for row in order], seed)
    np.testing.assert_array_equal(shuffled, assign_folds(groups, seed)[order])


@given(GROUPS, st.integers(0, 1000))
def test_folds_differ_by_no_more_rows_than_the_largest_group_has(groups: list[str], seed: int) -> None:
    rows = np.bincount(assign_folds(groups, seed), minlength=FOLDS)
    assert rows.max() - rows.min() <= max(map(groups.count, groups))


def test_another_seed_is_another_draw() -> None:
    groups = [f"fact {number}" for number in range(40)]
    assert (assign_folds(groups, 1) != assign_folds(groups, 2)).any()


def misleading() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Layer 1 knows the label; layer 0 hardly, but the last 20 rows, of validation, happen to be clear there."""
    rng = np.random.default_rng(5)
    states = rng.normal(size=(220, 2, 6)).astype(np.float32)
    event = np.arange(220) % 2 == 0
    sign = np.where(event, 1.0, -1.0)
    states[:, 1, 0] += 1.2 * sign
    states[:, 0, 0] += np.where(np.arange(220) < 200, 0.5, 4.0) * sign
    return states, event


def test_cross_validation_finds_the_layer_where_validation_rows_mislead() -> None:
    states, event = misleading()

    def layer(choice: str) -> int:
        config = ProbeConfig.model_validate({"kinds": ["linear"], "choice": choice})
        fits = fit_probes(states, event, np.arange(200), np.arange(200, 220), config, 0)
        return choose(fits, "robust").probe.layer

    assert layer("best") == 0, "the test needs validation rows that mislead"
    assert layer("robust") == 1


def test_groups_do_not_face_each_other_in_cross_validation() -> None:
    """Layer 0 knows each fact by heart, so a wording is told from its twin and a new fact from nothing."""
    rng = np.random.default_rng(6)
    facts = np.repeat(np.arange(60), 3)
    event = (rng.random(60) < 0.5)[facts]
    states = np.stack([rng.normal(size=(60, 40))[facts], rng.normal(size=(180, 40))], axis=1)
    states[:, 1, 0] += np.where(event, 0.7, -0.7)
    config = ProbeConfig(kinds=["linear"])
    train, validation = np.arange(120), np.arange(120, 180)

    def layer(groups: list[str] | None) -> int:
        return choose(fit_probes(states, event, train, validation, config, 0, groups=groups)).probe.layer

    assert layer(None) == 0, "the test needs wordings that betray each other"
    assert layer([str(fact) for fact in facts]) == 1


def test_the_order_of_the_rows_changes_no_choice() -> None:
    states, event = misleading()
    groups = [f"fact {row // 2}" for row in range(220)]
    config = ProbeConfig(kinds=["linear"])
    order = np.random.default_rng(7).permutation(220)
    where = np.argsort(order)  # of a row, now
    straight = fit_probes(states, event, np.arange(200), np.arange(200, 220), config, 0, groups=groups)
    shuffled = fit_probes(
        states[order],
        event[order],
        where[:200],
        where[200:],
        config,
        0,
        groups=[groups[row] for row in order],
    )
    for one, other in zip(straight, shuffled, strict=True):
        assert other.choice_loss == pytest.approx(one.choice_loss, rel=1e-5)
        np.testing.assert_allclose(other.probe.weights["weight"], one.probe.weights["weight"], rtol=1e-2, atol=1e-4)


def test_one_group_cannot_be_cross_validated() -> None:
    states, event = misleading()
    train, validation = np.arange(200), np.arange(200, 220)
    for fit in fit_probes(states, event, train, validation, ProbeConfig(kinds=["linear"]), 0, groups=["one"] * 220):
        assert fit.choice_loss == pytest.approx(fit.validation_loss, rel=1e-5)


def test_folds_that_leave_one_class_over() -> None:
    """All unknown rows are of one question: while it is left out, there is nothing to learn."""
    states, _ = misleading()
    event = np.arange(220) >= 212
    groups = ["the only unknown" if unknown else str(row) for row, unknown in enumerate(event)]
    order = np.random.default_rng(8).permutation(220)
    fits = fit_probes(states, event, order[:200], order[200:], ProbeConfig(kinds=["linear"]), 0, groups=groups)
    assert all(0.1 < fit.choice_loss < 2.0 for fit in fits)
