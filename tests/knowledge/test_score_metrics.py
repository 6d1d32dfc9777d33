"""Metrics of uncertainty scores: by hand, against scikit-learn, and against rows repeated one by one."""

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.common.intervals import auroc_interval, mean_interval
from ka2l.knowledge.ranking_metrics import accuracy_at, auprc, aurc, auroc, ranked
from ka2l.knowledge.reliability import brier, calibration_error, ece, reliability_curve, wilson_interval
from ka2l.knowledge.score_metrics import evaluate_scores

# A score of few values (so that there are ties), the event, and how often the row was drawn in two resamples.
ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=25
)


def columns(rows: list[tuple[int, bool, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, event, first, second = zip(*rows, strict=True)
    return np.array(scores, dtype=float), np.array(event), np.array([first, second], dtype=float).T


def once(n: int) -> np.ndarray:
    return np.ones((n, 1))


def risks_by_expectation(scores: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Expected event rate among the k least uncertain, k = 1 …, ties in random order: by counting, row by row."""
    expected = np.array([event[scores == score].mean() for score in np.sort(scores)])
    return np.cumsum(expected) / np.arange(1, scores.size + 1)


@settings(deadline=None, max_examples=120)
@given(ROWS)
def test_ranking_metrics_are_those_of_rows_repeated(rows: list[tuple[int, bool, int, int]]) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, event, weights = columns(rows)
    r = ranked(scores, event, weights)
    found = {"auroc": auroc(r), "auprc": auprc(r), "aurc": aurc(r)}
    found |= {str(coverage): accuracy_at(r, coverage) for coverage in (0.3, 0.5, 0.8, 1.0)}
    for column in range(weights.shape[1]):
        repeated = np.repeat(np.arange(scores.size), weights[:, column].astype(int))
        s, e = scores[repeated], event[repeated]
        if s.size == 0:
            assert all(np.isnan(values[column]) for values in found.values())
            continue
        if e.all() or not e.any():
            assert np.isnan(found["auroc"][column])
            assert np.isnan(found["auprc"][column])
        else:
            weight = weights[:, column]
            assert found["auroc"][column] == pytest.approx(roc_auc_score(event, scores, sample_weight=weight))
            assert found["auroc"][column] == pytest.approx(roc_auc_score(e, s))
            expected = average_precision_score(event, scores, sample_weight=weight)
            assert found["auprc"][column] == pytest.approx(expected)
        risks = risks_by_expectation(s, e)
        assert found["aurc"][column] == pytest.approx(risks.mean())
        for coverage in (0.3, 0.5, 0.8, 1.0):
            kept = math.ceil(coverage * s.size - 1e-9)
            assert found[str(coverage)][column] == pytest.approx(1 - risks[kept - 1])


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 3), st.integers(0, 3)),
        min_size=1,
        max_size=25,
    )
)
def test_calibration_metrics_are_those_of_rows_repeated(rows: list[tuple[float, bool, int, int]]) -> None:
    from sklearn.metrics import brier_score_loss

    p, event, weights = columns(rows)  # type: ignore[arg-type]
    found: dict[Callable[..., np.ndarray], np.ndarray] = {
        metric: metric(p, event, weights) for metric in (brier, ece, calibration_error)
    }
    for column in range(weights.shape[1]):
        repeated = np.repeat(np.arange(p.size), weights[:, column].astype(int))
        if repeated.size == 0:
            assert all(np.isnan(values[column]) for values in found.values())
            continue
        for metric, values in found.items():
            plain = metric(p[repeated], event[repeated], once(repeated.size))
            assert values[column] == pytest.approx(plain[0], abs=1e-9)
        curve = reliability_curve(p[repeated], event[repeated])
        gap = sum(part.n * abs(part.mean_p - part.event_rate) for part in curve) / repeated.size
        assert found[ece][column] == pytest.approx(gap, abs=1e-9)
        if len(set(event[repeated])) == 2:
            expected = brier_score_loss(event, p, sample_weight=weights[:, column])
            assert found[brier][column] == pytest.approx(expected)


def test_ties_cost_what_their_mean_order_costs() -> None:
    scores, event = np.array([1.0, 2.0, 2.0, 2.0, 3.0]), np.array([False, True, False, False, True])
    one_by_one = []
    for order in permutations([1, 2, 3]):
        e = event[[0, *order, 4]]
        one_by_one.append((np.cumsum(e) / np.arange(1, 6)).mean())
    assert aurc(ranked(scores, event, once(5)))[0] == pytest.approx(np.mean(one_by_one))
    # Two are kept: the first for certain, and one of the three tied, an event with probability 1/3.
    assert accuracy_at(ranked(scores, event, once(5)), 0.4)[0] == pytest.approx(1 - (1 / 3) / 2)


def test_by_hand() -> None:
    # Least uncertain first: right, wrong, right, wrong. Risks: 0, 1/2, 1/3, 2/4.
    scores, event = np.array([4.0, 1.0, 3.0, 2.0]), np.array([True, False, False, True])
    r = ranked(scores, event, once(4))
    assert aurc(r)[0] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert auroc(r)[0] == pytest.approx(3 / 4)
    assert auprc(r)[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert accuracy_at(r, 0.5)[0] == pytest.approx(0.5)
    assert accuracy_at(r, 0.8)[0] == pytest.approx(0.5)  # 3.2 of 4 rows: all four
    p = np.array([0.9, 0.1, 0.2, 0.2])
    assert brier(p, event, once(4))[0] == pytest.approx((0.01 + 0.01 + 0.04 + 0.64) / 4)
    # Bins: [0.1, 0.2): gap 0.1; [0.2, 0.3): mean p 0.2 against rate 0.5; [0.9, 1]: gap 0.1.
    assert ece(p, event, once(4))[0] == pytest.approx((0.1 + 2 * 0.3 + 0.1) / 4)
    # Only the bin of two rows has a variance to take off: 0.3² − 0.25 / 1 < 0.
    assert calibration_error(p, event, once(4))[0] == 0.0


def test_a_probability_on_an_edge_belongs_to_the_bin_above_and_one_to_the_last() -> None:
    curve = reliability_curve(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]))
    assert [(part.low, part.high, part.n) for part in curve] == [(0.0, 0.1, 1), (0.5, 0.6, 1), (0.9, 1.0, 1)]


def test_wilson_interval_of_a_textbook_example() -> None:
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_sampling_noise_is_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((300, 200))
    event = rng.random(p.shape) < p
    plain = [ece(*rows, once(300))[0] for rows in zip(p.T, event.T, strict=True)]
    debiased = [calibration_error(*rows, once(300))[0] for rows in zip(p.T, event.T, strict=True)]
    assert np.mean(plain) == pytest.approx(0.056, abs=0.01)  # perfect probabilities, and yet
    assert np.median(debiased) < 0.03
    p = np.full(20_000, 0.35)
    event = rng.random(20_000) < 0.6
    assert calibration_error(p, event, once(20_000))[0] == pytest.approx(0.25, abs=0.02)


def test_intervals_of_calibration_errors_hold_the_truth() -> None:
    """Plain percentiles of the ECE never would: every resample lies above the data, and they above the truth."""
    rng = np.random.default_rng(2)
    held = {"ece": 0, "calibration_error": 0}
    for _ in range(60):
        p = rng.uniform(0.45, 0.95, size=200)
        event = rng.random(200) < p - 0.15  # the gap is 0.15 in every bin, by whichever norm
        groups = [str(i) for i in range(200)]
        row = evaluate_scores({"p": p}, event, groups, probabilities={"p": p}, resamples=200).rows[0]
        for name in held:
            held[name] += row.metrics[name].low <= 0.15 <= row.metrics[name].high
    assert min(held.values()) >= 51  # 57 expected of 60


def test_intervals_of_perfect_probabilities_hold_zero() -> None:
    """A resample has the noise of the data and its own: taking off only one of them would leave 0 out in 1 of 6."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(60):
        p = rng.random(200)
        groups = [str(i) for i in range(200)]
        row = evaluate_scores({"p": p}, rng.random(200) < p, groups, probabilities={"p": p}, resamples=200).rows[0]
        held += row.metrics["calibration_error"].low == 0.0
    assert held >= 57


class World:
    """Answers, half of them wrong, in groups of two or one, and scores that know more or less about it."""

    def __init__(self, n: int = 120, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.event = rng.random(n) < 0.5
        self.groups = [f"fact {i // 2 if i % 3 else i}" for i in range(n)]
        self.good = rng.normal(size=n) + 2.0 * self.event
        self.fair = rng.normal(size=n) + 1.0 * self.event
        self.chance = rng.normal(size=n)
        self.p = 1 / (1 + np.exp(-2 * (self.good - 1)))


def test_intervals_are_those_of_the_plain_bootstrap() -> None:
    world = World()
    table = evaluate_scores(
        {"good": world.good},
        world.event,
        world.groups,
        probabilities={"good": world.p},
        resamples=300,
        seed=5,
    )
    metrics = table.rows[0].metrics
    assert metrics["auroc"] == pytest.approx(
        auroc_interval(world.good, world.event, world.groups, resamples=300, seed=5)
    )
    errors = (world.p - world.event) ** 2
    assert metrics["brier"] == pytest.approx(mean_interval(errors.tolist(), world.groups, 300, seed=5))
    assert table.event_rate == mean_interval(world.event.tolist(), world.groups, 300, seed=5)
    assert list(metrics) == [
        "auroc", "auprc", "aurc", "accuracy_at_50", "accuracy_at_80", "brier", "ece", "calibration_error",
    ]  # fmt: skip
    for name in ("auprc", "aurc", "accuracy_at_50", "accuracy_at_80"):
        assert metrics[name].low < metrics[name].value < metrics[name].high
    error = metrics["calibration_error"]
    assert 0.0 <= error.low <= error.value < error.high < 0.3


def test_intervals_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    def table() -> object:
        scores = {"good": world.good, "fair": world.fair}
        return evaluate_scores(scores, world.event, world.groups, resamples=100, reference="fair")

    whole = table()
    monkeypatch.setattr("ka2l.knowledge.score_metrics._CHUNK", 1)
    assert table() == whole


def test_more_knowledge_shows_in_every_metric_and_the_difference() -> None:
    world = World()
    scores = {"good": world.good, "chance": world.chance}
    good, chance = evaluate_scores(scores, world.event, world.groups, reference="chance").rows
    for name in ("auroc", "auprc", "accuracy_at_50", "accuracy_at_80"):
        assert good.metrics[name].low > chance.metrics[name].value
    assert good.metrics["aurc"].high < chance.metrics["aurc"].value
    assert chance.difference is None  # it is the reference
    assert good.difference is not None
    assert good.difference.value == pytest.approx(good.metrics["auroc"].value - chance.metrics["auroc"].value)
    assert 0 < good.difference.low < good.difference.value < good.difference.high
    assert good.difference.p == pytest.approx(2 / 1001)  # no resample on the other side: small, and not 0


def test_equal_scores_do_not_differ() -> None:
    world = World()
    scores = {"good": world.good, "stretched": np.exp(world.good)}
    same = evaluate_scores(scores, world.event, world.groups, resamples=200, reference="good").rows[1].difference
    assert same is not None
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_paired_test_is_not_fooled_by_chance_and_sees_pairs() -> None:
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(200):
        event = rng.random(60) < 0.5
        scores = {"a": rng.normal(size=60) + event, "b": rng.normal(size=60) + event}
        rows = evaluate_scores(scores, event, [str(i) for i in range(60)], resamples=200, reference="a").rows
        assert rows[1].difference is not None
        found += rows[1].difference.p < 0.05
    assert found <= 22  # 10 expected of 200; more than 22 has a probability of 1 in 4,000
    world = World()
    # The same errors, less of each: overlapping intervals, yet a clear pair.
    better = world.fair + 0.4 * world.event
    scores = {"fair": world.fair, "better": better}
    first, second = evaluate_scores(scores, world.event, world.groups, reference="fair").rows
    assert second.metrics["auroc"].low < first.metrics["auroc"].high
    assert second.difference is not None
    assert second.difference.p < 0.01


def test_one_question_in_many_wordings_is_one_question() -> None:
    world = World(60)
    wordings = {name: np.repeat(score, 6) for name, score in {"good": world.good, "fair": world.fair}.items()}
    event, facts = np.repeat(world.event, 6), [f"fact {i}" for i in np.repeat(np.arange(60), 6)]
    clustered = evaluate_scores(wordings, event, facts, reference="fair").rows[0]
    by_row = evaluate_scores(wordings, event, [str(i) for i in range(360)], reference="fair").rows[0]
    for name in clustered.metrics:
        wide, narrow = clustered.metrics[name], by_row.metrics[name]
        assert wide.high - wide.low > 1.7 * (narrow.high - narrow.low)  # about √6
    assert clustered.difference is not None
    assert by_row.difference is not None
    assert clustered.difference.p > by_row.difference.p


def test_a_method_is_judged_on_the_rows_it_has_and_compared_on_common_ones() -> None:
    world = World()
    holes = world.fair.copy()
    holes[::4] = np.nan
    has = ~np.isnan(holes)
    scores = {"good": world.good, "holes": holes}
    table = evaluate_scores(scores, world.event, world.groups, resamples=50, reference="good")
    own, difference = table.rows[1].metrics["auroc"], table.rows[1].difference
    assert own.n == has.sum() == 90
    assert own.value == pytest.approx(auroc(ranked(holes[has], world.event[has], once(90)))[0])
    assert difference is not None
    assert difference.n == 90
    good = auroc(ranked(world.good[has], world.event[has], once(90)))[0]
    assert difference.value == pytest.approx(own.value - good)
    assert table.rows[0].metrics["auroc"].n == 120


@pytest.mark.parametrize("rows", [0, 5])
def test_where_nothing_can_be_told_there_is_no_number(rows: int) -> None:
    event, scores = np.zeros(rows, dtype=bool), {"a": np.arange(rows, dtype=float), "b": np.zeros(rows)}
    table = evaluate_scores(scores, event, list("abcde")[:rows], resamples=20, reference="a")
    as_json = table.as_dict()
    assert as_json["a"]["auroc"] == {"value": None, "low": None, "high": None, "n": rows}
    assert as_json["b"]["difference"] == {"value": None, "low": None, "high": None, "p": None, "n": rows}
    assert as_json["a"]["aurc"]["value"] == (0.0 if rows else None)  # one class has a risk all the same


def test_one_group_has_no_spread() -> None:
    world = World(20)
    row = evaluate_scores({"good": world.good}, world.event, ["fact"] * 20, resamples=20).rows[0]
    assert math.isfinite(row.metrics["auroc"].value)
    assert math.isnan(row.metrics["auroc"].low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": ["a"]}, "3 events, but 1 groups"),
        ({"scores": {"a": np.zeros(2)}}, r"scores\['a'\] has shape \(2,\), but there are 3 events"),
        ({"probabilities": {"b": np.zeros(3)}}, "no scores of 'b'; there are a"),
        ({"reference": "c"}, "no scores of 'c'; there are a"),
        ({"probabilities": {"a": np.array([0.0, 1.5, 1.0])}}, r"probabilities\['a'\] must lie in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "scores": {"a": np.arange(3.0)}, "event": np.array([True, False, True]), "groups": ["a", "b", "c"],
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        evaluate_scores(**{**arguments, **change})  # type: ignore[arg-type]
