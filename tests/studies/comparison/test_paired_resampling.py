"""Paired tests of a comparison: against exact and permutation tests, and their coverage."""

import dataclasses
import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from ka2l.common.curve_statistics import paired_test
from ka2l.studies.comparison.cell_results import CellResult, Outcomes
from ka2l.studies.comparison.paired_resampling import resample
from ka2l.studies.comparison.summarize import summarize
from ka2l.studies.comparison.summary import BETTER
from made_cells import made, outcomes


def test_wordings_of_one_fact_do_not_count_as_new_evidence() -> None:
    rng = np.random.default_rng(3)
    single = [
        made(p, seed=s, held_out=outcomes([0] * 40, list(rng.integers(0, 2, 40)))) for p in "ab" for s in range(3)
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
    tests = [paired_test(resample(cells, "held_out", 300, 0), [0, 1, 2], [3, 4, 5], 0) for cells in (single, copied)]
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
        made(p, seed=s, held_out=outcomes([0] * 80, list(rights[p][s].astype(int)))) for p in "ab" for s in range(3)
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
