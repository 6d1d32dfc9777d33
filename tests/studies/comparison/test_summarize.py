"""The statistics of a comparison: who is better than random, and what must not change it."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.errors import RunError
from ka2l.studies.comparison.cell_results import CellResult, Outcomes
from ka2l.studies.comparison.measures import TESTED, values
from ka2l.studies.comparison.summarize import summarize
from ka2l.studies.comparison.summary import BETTER, UNCLEAR, WORSE
from made_cells import outcomes
from simulated_comparison import cell, grid


def test_the_target_is_the_whole_pool_else_the_best_of_random() -> None:
    with_whole = summarize(grid(["random", "unknown"]), resamples=50)
    whole = with_whole.arm("full", 800)
    assert whole is not None
    assert with_whole.target == whole.measures["held_out"].mean
    assert "full" not in {needed.policy for needed in with_whole.labels_to_target}
    without = summarize(grid(["random", "unknown"], whole=False), resamples=50)
    assert without.target == max(arm.measures["held_out"].mean for arm in without.arms if arm.policy == "random")
    assert summarize(grid(["random"]), target=0.99, resamples=50).labels_to_target[0].labels is None
    assert math.isnan(summarize(grid(["unknown"], whole=False), resamples=50).target)


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(13)))
def test_the_order_of_cells_and_rows_changes_nothing(order: list[int]) -> None:
    cells = grid(["random", "unknown"], seeds=3)[:13]
    shuffled = [_rows_reversed(cells[at]) for at in order]
    _same(summarize(cells, resamples=200), summarize(shuffled, resamples=200))


def _rows_reversed(result: CellResult) -> CellResult:
    def reverse(rows: Outcomes) -> Outcomes:
        names = [field.name for field in dataclasses.fields(rows) if field.name != "bleu"]
        return dataclasses.replace(rows, **{name: getattr(rows, name)[::-1] for name in names})

    return dataclasses.replace(result, sets={name: reverse(rows) for name, rows in result.sets.items()})


def _same(one: object, other: object) -> None:
    """Equal, with NaN equal to itself and sums in another order equal to 1e-9."""
    if isinstance(one, float):
        assert other == pytest.approx(one, abs=1e-9, nan_ok=True)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            _same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert list(one) == list(other)
        for key in one:
            _same(one[key], other[key])
    elif isinstance(one, tuple):
        assert isinstance(other, tuple)
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            _same(left, right)
    else:
        assert one == other


def test_a_policy_that_is_random_by_another_name_differs_by_nothing() -> None:
    random = grid(["random"])
    twin = [dataclasses.replace(result, policy="twin") for result in random if result.policy == "random"]
    summary = summarize([*random, *twin], resamples=300)
    assert len(summary.differences) == 2 * len(TESTED)
    for found in summary.differences.values():
        assert found.interval[:3] == (0.0, 0.0, 0.0)
        assert found.p == found.p_holm == 1.0
        assert found.verdict == UNCLEAR
    assert not summary.winners


def test_a_difference_is_paired_over_the_seeds_that_both_have() -> None:
    cells = grid(["random", "unknown"], budgets=(60,), seeds=4, whole=False)
    cells = [result for result in cells if (result.policy, result.seed) not in {("random", 0), ("unknown", 3)}]
    found = summarize(cells, resamples=100).differences["unknown", 60, "held_out"]
    mine, theirs = (
        [values(r)["held_out"] for r in cells if r.policy == p and r.seed in (1, 2)] for p in ("unknown", "random")
    )
    assert found.seeds == 2
    assert found.interval.value == pytest.approx(np.mean(mine) - np.mean(theirs))


def test_forgetting_less_is_better_and_learning_less_is_worse() -> None:
    def arms(policy: str, truth: tuple[float, float, float]) -> list[CellResult]:
        return [dataclasses.replace(cell(policy + "x", 120, s, truth), policy=policy) for s in range(3)]

    cells = arms("random", (0.4, 0.05, 0.40)) + arms("good", (0.75, 0.30, 0.01)) + arms("bad", (0.05, -0.15, 0.80))
    summary = summarize(cells, resamples=1000)
    assert [one.policy for one in summary.winners] == ["good"]
    for name in ("per_label", "held_out", "forgotten"):
        assert summary.differences["good", 120, name].verdict == BETTER
        assert summary.differences["bad", 120, name].verdict == WORSE
    assert summary.differences["good", 120, "forgotten"].interval.value < 0


def test_nobody_wins_where_an_interval_covers_zero() -> None:
    for found in summarize(grid(), resamples=500).differences.values():
        if found.interval.low <= 0 <= found.interval.high or found.p_holm >= 0.05:
            assert found.verdict == UNCLEAR
        else:
            assert found.verdict != UNCLEAR


def test_one_seed_or_no_random_is_no_test_and_says_so() -> None:
    one = summarize(grid(["random", "unknown"], seeds=1), resamples=50)
    assert not one.differences
    assert not one.standings
    assert "two seeds" in one.notes[0]
    alone = summarize(grid(["unknown"], whole=False), resamples=50)
    assert not alone.differences
    assert "No cell of random" in alone.notes[0]
    # unknown at 120 has two seeds, full none
    partly = summarize(grid(["random", "unknown"])[:-4], resamples=50)
    assert partly.differences["unknown", 120, "held_out"].seeds == 2
    assert not partly.notes
    less = summarize(grid(["random", "unknown"])[:-5], resamples=50)
    assert ("unknown", 120, "held_out") not in less.differences
    assert "unknown at 120" in less.notes[0]
    nothing = summarize([])
    assert nothing.arms == ()
    assert nothing.notes == ()
    assert math.isnan(nothing.target)


def test_the_same_cell_twice_or_other_questions_are_refused() -> None:
    cells = grid(["random"], whole=False)
    with pytest.raises(ValueError, match="given twice"):
        summarize([*cells, cells[0]], resamples=10)
    other = dataclasses.replace(cells[0], policy="x", sets={"held_out": outcomes([1], [1])})
    with pytest.raises(RunError, match="other questions"):
        summarize([*cells, other], resamples=10)
    held_out = cells[0].sets["held_out"]
    turned = dataclasses.replace(held_out, before=~held_out.before)
    with pytest.raises(RunError, match="other base answers"):
        summarize([*cells, dataclasses.replace(cells[0], policy="x", sets={"held_out": turned})], resamples=10)
