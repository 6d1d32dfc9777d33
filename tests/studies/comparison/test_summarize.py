"""The statistics of a comparison: by hand, against a permutation test, and what must not change them."""

import dataclasses
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grids import cell, grid
from ka2l.errors import RunError
from ka2l.studies.comparison import learning_curves
from ka2l.studies.comparison.cell_results import CellResult, Outcomes, load, save
from ka2l.studies.comparison.measures import MEASURES, TESTED, estimate, values
from ka2l.studies.comparison.paired_resampling import holm, paired_test, resample
from ka2l.studies.comparison.summarize import summarize
from ka2l.studies.comparison.summary import BETTER, UNCLEAR, WORSE

NAN = math.nan


def outcomes(
    before: list[int], after: list[int], prefix: str = "q", groups: list[str] | None = None
) -> Outcomes:
    """Rows with these rights and wrongs; every F1 and ROUGE-L is the row's number / 10."""
    n = len(before)
    scores = np.arange(n) / 10
    return Outcomes(
        ids=[f"{prefix}{i}" for i in range(n)],
        groups=groups or [f"{prefix}{i}" for i in range(n)],
        before=np.array(before, dtype=bool),
        after=np.array(after, dtype=bool),
        f1=scores,
        rouge_l=scores,
        meteor=scores,
        bleu=0.25,
    )


def made(policy: str = "random", budget: int = 4, seed: int = 0, **sets: Outcomes) -> CellResult:
    """A cell that bought as many labels as its budget."""
    return CellResult(policy, policy, budget, seed, budget, 0, 1.5, 0.1, 2.0, 3.0, sets)


def test_a_cell_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    first = made(
        "naïve | 🦙\n",
        held_out=dataclasses.replace(outcomes([1, 0, 1], [1, 1, 0]), bleu=NAN),
        pool=outcomes([], []),
        bought=outcomes([0, 1], [1, 1], groups=["g", "g"]),
    )
    save(first, tmp_path / "cell")
    again = load(tmp_path / "cell")
    plain = [field.name for field in dataclasses.fields(first) if field.name != "sets"]
    assert [getattr(again, name) for name in plain] == [getattr(first, name) for name in plain]
    assert list(again.sets) == list(first.sets)
    for name, rows in first.sets.items():
        other = again.sets[name]
        assert list(other.ids) == list(rows.ids)
        assert list(other.groups) == list(rows.groups)
        for column in ("before", "after", "f1", "rouge_l", "meteor"):
            assert np.array_equal(getattr(other, column), getattr(rows, column))
            assert getattr(other, column).dtype == getattr(rows, column).dtype
        assert other.bleu == rows.bleu or (math.isnan(other.bleu) and math.isnan(rows.bleu))


def test_a_cell_without_its_json_is_not_there_and_one_of_two_minds_is_refused(tmp_path: Path) -> None:
    save(made(held_out=outcomes([1, 0], [1, 1])), tmp_path / "a")
    save(made(held_out=outcomes([1], [1])), tmp_path / "b")
    (tmp_path / "a" / "outcomes.parquet").replace(tmp_path / "b" / "outcomes.parquet")
    with pytest.raises(RunError, match="do not belong together"):
        load(tmp_path / "b")
    (tmp_path / "b" / "cell.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        load(tmp_path / "b")


def test_a_cell_killed_while_it_is_saved_again_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(made(held_out=outcomes([1], [1])), tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ka2l.common.atomic_files.write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        save(made(held_out=outcomes([1], [0])), tmp_path)
    with pytest.raises(RunError, match="not finished"):
        load(tmp_path)


def test_outcomes_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        dataclasses.replace(outcomes([1, 0], [1, 1]), ids=["only one"])


def test_measures_by_hand() -> None:
    found = values(
        made(
            budget=5,  # five labels, of which four could be asked again
            held_out=outcomes([1, 1, 1, 0, 0], [1, 0, 1, 1, 1]),
            pool=outcomes([0, 0, 1, 1], [0, 1, 1, 1]),
            bought=outcomes([0, 0, 1, 0], [1, 1, 1, 0]),
            bought_reworded=outcomes([0, 0], [1, 0]),
        )
    )
    assert found["held_out"] == pytest.approx(4 / 5)
    assert found["gain_held_out"] == pytest.approx(1 / 5)
    assert found["pool"] == pytest.approx(3 / 4)
    assert found["gain_pool"] == pytest.approx(1 / 4)
    assert found["learned"] == 2
    assert found["per_label"] == pytest.approx(2 / 5)
    assert found["forgotten"] == pytest.approx(1 / 3)
    assert found["reworded"] == pytest.approx(1 / 2)
    assert found["f1"] == found["rouge_l"] == found["meteor"] == pytest.approx(0.2)
    assert found["bleu"] == 0.25
    assert (found["labels"], found["cost"], found["select_seconds"], found["finetune_seconds"]) == (
        5,
        1.5,
        0.1,
        2.0,
    )
    assert set(found) == set(MEASURES)


def test_what_is_not_there_is_nan_not_zero() -> None:
    found = values(made(held_out=outcomes([0, 0], [1, 0]), bought=outcomes([], [])))
    assert math.isnan(found["forgotten"])  # nothing was right before, so nothing could be forgotten
    assert math.isnan(found["per_label"])
    assert math.isnan(found["pool"])
    assert math.isnan(found["gain_pool"])
    assert found["learned"] == 0
    assert math.isnan(values(made())["held_out"])


def test_mean_and_spread_by_hand() -> None:
    assert estimate([0.1, 0.3]) == pytest.approx((0.2, math.sqrt(0.02), 2))
    assert estimate([0.3, NAN]).mean == 0.3
    assert estimate([0.3, NAN]).n == 1
    assert math.isnan(estimate([0.3]).std)
    assert estimate([0.1, 0.1, 0.1]).std == 0.0
    assert estimate([NAN]).n == 0
    assert math.isnan(estimate([]).mean)


def test_holm_by_hand() -> None:
    # 4 · 0.01; then 3 · 0.02 and 2 · 0.03 (not below the one before); 1 · 0.9
    adjusted = holm({"a": 0.03, "b": 0.01, "c": 0.9, "d": 0.02})
    assert adjusted == pytest.approx({"b": 0.04, "d": 0.06, "a": 0.06, "c": 0.9})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_and_keeps_their_order(numbers: list[float]) -> None:
    p = dict(enumerate(numbers))
    adjusted = holm(p)
    assert all(p[key] <= adjusted[key] <= 1 for key in p)
    assert all(adjusted[a] <= adjusted[b] for a in p for b in p if p[a] < p[b])
    assert max(adjusted.values()) <= min(1.0, max(numbers) * len(numbers))


def test_labels_to_a_target_by_hand() -> None:
    labels, scores = [0.0, 50.0, 100.0], [0.4, 0.5, 0.7]
    assert learning_curves.crossing(labels, scores, 0.6) == pytest.approx(75)
    assert learning_curves.crossing(labels, scores, 0.45) == pytest.approx(25)
    assert learning_curves.crossing(labels, scores, 0.7) == 100
    assert learning_curves.crossing(labels, scores, 0.71) is None
    assert learning_curves.crossing(labels, scores, 0.4) == 0  # before any label
    assert learning_curves.crossing(labels, [0.4, 0.6, 0.3], 0.5) == pytest.approx(
        25
    )  # the first time, also if it falls again
    assert learning_curves.crossing(labels, scores, NAN) is None


def test_the_area_under_the_curve_by_hand() -> None:
    half = outcomes([1, 1, 0, 0], [1, 1, 1, 0])  # 0.5 before, 0.75 after
    whole = outcomes([1, 1, 0, 0], [1, 1, 1, 1])
    rows = [made(budget=20, held_out=half), made(budget=40, held_out=whole), made("late", 20, held_out=half)]
    areas = {area.policy: area.estimate for area in learning_curves.areas(rows)}
    assert areas["random"].mean == pytest.approx((0.625 * 20 + 0.875 * 20) / 40)
    assert areas["late"].n == 0  # it has not reached the largest budget, so its curve has another width


def test_the_target_is_the_whole_pool_else_the_best_of_random() -> None:
    with_whole = summarize(grid(["random", "unknown"]), resamples=50)
    whole = with_whole.arm("full", 800)
    assert whole is not None
    assert with_whole.target == whole.measures["held_out"].mean
    assert "full" not in {reach.policy for reach in with_whole.reach}
    without = summarize(grid(["random", "unknown"], whole=False), resamples=50)
    assert without.target == max(
        arm.measures["held_out"].mean for arm in without.arms if arm.policy == "random"
    )
    assert summarize(grid(["random"]), target=0.99, resamples=50).reach[0].labels is None
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
    cells = [
        result for result in cells if (result.policy, result.seed) not in {("random", 0), ("unknown", 3)}
    ]
    found = summarize(cells, resamples=100).differences["unknown", 60, "held_out"]
    mine, theirs = (
        [values(r)["held_out"] for r in cells if r.policy == p and r.seed in (1, 2)]
        for p in ("unknown", "random")
    )
    assert found.seeds == 2
    assert found.interval.value == pytest.approx(np.mean(mine) - np.mean(theirs))


def test_forgetting_less_is_better_and_learning_less_is_worse() -> None:
    def arms(policy: str, truth: tuple[float, float, float]) -> list[CellResult]:
        return [dataclasses.replace(cell(policy + "x", 120, s, truth), policy=policy) for s in range(3)]

    cells = (
        arms("random", (0.4, 0.05, 0.40))
        + arms("good", (0.75, 0.30, 0.01))
        + arms("bad", (0.05, -0.15, 0.80))
    )
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
    partly = summarize(
        grid(["random", "unknown"])[:-4], resamples=50
    )  # unknown at 120 has two seeds, full none
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
    with pytest.raises(ValueError, match="there twice"):
        summarize([*cells, cells[0]], resamples=10)
    other = dataclasses.replace(cells[0], policy="x", sets={"held_out": outcomes([1], [1])})
    with pytest.raises(RunError, match="other questions"):
        summarize([*cells, other], resamples=10)
    held_out = cells[0].sets["held_out"]
    turned = dataclasses.replace(held_out, before=~held_out.before)
    with pytest.raises(RunError, match="other base answers"):
        summarize(
            [*cells, dataclasses.replace(cells[0], policy="x", sets={"held_out": turned})], resamples=10
        )


def test_wordings_of_one_fact_do_not_count_as_new_evidence() -> None:
    rng = np.random.default_rng(3)
    single = [
        made(p, seed=s, held_out=outcomes([0] * 40, list(rng.integers(0, 2, 40))))
        for p in "ab"
        for s in range(3)
    ]

    def four_times(rows: Outcomes) -> Outcomes:
        names = [field.name for field in dataclasses.fields(rows) if field.name not in ("bleu", "ids")]
        tiled: dict[str, Any] = {name: np.tile(getattr(rows, name), 4) for name in names}
        return dataclasses.replace(
            rows,
            ids=[f"{id_}-{copy}" for copy in range(4) for id_ in rows.ids],
            **tiled,
        )

    copied = [dataclasses.replace(r, sets={"held_out": four_times(r.sets["held_out"])}) for r in single]
    tests = [
        paired_test(resample(cells, "held_out", 300, 0), [0, 1, 2], [3, 4, 5], 0)
        for cells in (single, copied)
    ]
    assert tests[0] is not None
    assert tests[1] is not None
    assert tests[1].interval[:3] == pytest.approx(tests[0].interval[:3])
    assert tests[1].interval.n == 40


@pytest.mark.parametrize("turned", [0, 4, 9])
def test_p_agrees_with_an_exact_sign_test_where_seeds_agree(turned: int) -> None:
    # 12 questions differ, in every seed alike: `turned` are lost, the others gained, 60 stay. McNemar's exact test
    # on the 12 is another test of the same hypothesis: neither may call clear what the other calls even.
    mine = [0] * turned + [1] * (12 - turned) + [1] * 60
    theirs = [1] * turned + [0] * (12 - turned) + [1] * 60
    cells = [made("a", seed=s, held_out=outcomes([0] * 72, mine)) for s in range(3)]
    cells += [made("b", seed=s, held_out=outcomes([0] * 72, theirs)) for s in range(3)]
    test = paired_test(resample(cells, "held_out", 2000, 0), [0, 1, 2], [3, 4, 5], 0)
    assert test is not None
    fewer = min(turned, 12 - turned)
    exact = min(1.0, 2 * sum(math.comb(12, k) for k in range(fewer + 1)) / 2**12)
    assert abs(math.log10(test.p) - math.log10(exact)) < 0.7
    assert (test.p < 0.05) == (exact < 0.05)


@pytest.mark.parametrize(("effect", "clear"), [(0.0, False), (0.25, True)])
def test_p_agrees_with_a_permutation_test(effect: float, clear: bool) -> None:
    rng = np.random.default_rng(1)
    rights = {"a": rng.random((3, 80)) < 0.45 + effect, "b": rng.random((3, 80)) < 0.45}
    cells = [
        made(p, seed=s, held_out=outcomes([0] * 80, list(rights[p][s].astype(int))))
        for p in "ab"
        for s in range(3)
    ]
    test = paired_test(resample(cells, "held_out", 3000, 0), [0, 1, 2], [3, 4, 5], 0)
    assert test is not None
    per_question = rights["a"].mean(axis=0) - rights["b"].mean(axis=0)
    assert test.interval.value == pytest.approx(per_question.mean())
    # Signs of whole questions turned: that test takes the seeds as given, so it may be surer than ours, not less so.
    signs = rng.choice([-1.0, 1.0], (3000, 80))
    permuted = float((np.abs((signs * per_question).mean(axis=1)) >= abs(per_question.mean())).mean())
    assert (permuted < 0.05) is (test.p < 0.05) is clear
    assert test.p >= 0.8 * permuted


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(150):
        questions, seeds = rng.normal(0, 0.15, 60), rng.normal(0, 0.03, 3)
        scores = np.clip(0.5 + 0.05 + questions + seeds[:, None] + rng.normal(0, 0.15, (3, 60)), -5, 5)
        cells = []
        for policy, rows in (("a", scores), ("b", np.full((3, 60), 0.5))):
            cells += [
                made(policy, seed=s, held_out=dataclasses.replace(outcomes([0] * 60, [0] * 60), f1=rows[s]))
                for s in range(3)
            ]
        test = paired_test(resample(cells, "f1", 300, 0), [0, 1, 2], [3, 4, 5], 0)
        assert test is not None
        held += test.interval.low <= 0.05 <= test.interval.high
    assert 0.88 <= held / 150 <= 0.995


def test_bought_sets_that_share_no_question_are_compared_by_label() -> None:
    def buyer(policy: str, learned: float) -> list[CellResult]:
        rng = np.random.default_rng(len(policy))
        return [
            made(
                policy,
                50,
                s,
                bought=outcomes([0] * 50, list((rng.random(50) < learned).astype(int)), prefix=policy),
            )
            for s, _ in product(range(3), range(1))
        ]

    found = summarize([*buyer("random", 0.3), *buyer("better", 0.7)], resamples=800).differences[
        "better", 50, "per_label"
    ]
    assert found.interval.low > 0
    assert found.verdict == BETTER
    assert found.interval.n == 100
