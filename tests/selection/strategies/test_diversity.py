"""Strategies that spread a budget over an embedding."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ka2l.errors import DataError
from ka2l.selection.near_copies import Directions
from ka2l.selection.select import select
from ka2l.selection.signals import Pool, Signals
from ka2l.selection.strategies import diversity
from selection_pools import (
    POOL,
    WIDTH,
    blob_signals,
    blobs_of,
    cosines,
    make_signals,
    only,
    values_of,
    with_signal,
)


def radius(points: NDArray[np.floating], picked: NDArray[np.floating]) -> float:
    """The largest distance of any point to its nearest picked one."""
    return float(np.linalg.norm(points[:, None].astype(float) - picked[None].astype(float), axis=2).min(1).max())


def test_coreset_covers_better_than_random() -> None:
    rng = np.random.default_rng(0)
    # One dense blob and a few far ones: an even draw misses the far ones.
    centers = np.concatenate([np.zeros((1, WIDTH)), rng.normal(scale=20, size=(9, WIDTH))])
    points = np.repeat(centers, [200, *[5] * 9], axis=0) + rng.normal(size=(245, WIDTH))
    signals = replace(make_signals(245), embedding=points.astype(np.float32))
    for seed in range(5):
        covered = {
            name: radius(points, values_of(signals, "embedding", select(name, signals, 12, seed)))
            for name in ("coreset", "random")
        }
        assert covered["coreset"] < 6 < covered["random"]


def test_coreset_starts_anywhere_or_from_what_is_bought() -> None:
    signals = make_signals(10)
    firsts = {select("coreset", signals, 3, seed).ids[0] for seed in range(60)}
    assert len(firsts) > 7
    line = Signals(np.array(list("abcdef")), embedding=np.array([[0.0], [1], [2], [5], [9], [30]]))
    for seed in range(5):
        assert select("coreset", line, 3, seed, labelled=["f", "b"]).ids == ["e", "d", "a"]


def test_badge_prefers_entropy_and_starts_from_what_is_bought() -> None:
    signals = make_signals(10)
    entropy = np.zeros(10, dtype=np.float32)
    entropy[[2, 5, 8]] = [1.0, 2.0, 3.0]
    weighted = with_signal(signals, "next_token_entropy", entropy)
    for seed in range(5):
        assert set(select("badge", weighted, 3, seed).ids) == set(signals.ids[[2, 5, 8]].tolist())
    drawn = Counter(select("badge", weighted, 1, seed).ids[0] for seed in range(600))
    assert drawn[str(signals.ids[8])] == pytest.approx(300, abs=50)
    assert drawn[str(signals.ids[2])] == pytest.approx(100, abs=40)
    line = Signals(np.array(list("abcd")), embedding=np.array([[0.0], [1], [2], [4]]), next_token_entropy=np.ones(4))
    counts = Counter(select("badge", line, 1, seed, labelled=["a"]).ids[0] for seed in range(1000))
    assert counts["b"] == pytest.approx(1000 / 21, abs=25)
    assert counts["d"] == pytest.approx(16000 / 21, abs=60)


def test_badge_leaves_the_blob() -> None:
    """SPEC item 12: a strategy for diversity that stays in one dense place."""
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.normal(scale=0.1, size=(195, 2)), rng.normal(scale=0.1, size=(5, 2)) + 50])
    signals = Signals(
        np.array([f"{i:03d}" for i in range(200)]),
        embedding=points,
        next_token_entropy=np.ones(200, dtype=np.float32),
    )
    for seed in range(10):
        assert any(int(question_id) >= 195 for question_id in select("badge", signals, 2, seed).ids)


def test_badge_gradient_is_the_gradient_and_not_minus_p() -> None:
    """SPEC item 12: −p ⊗ h in place of (onehot − p) ⊗ h makes the surest row of the longest state the first pick."""
    p = np.array([[0.99, 0.01], [0.5, 0.5], [0.6, 0.4], [1.0, 0.0]], dtype=np.float32)
    by_hand = np.array([[-0.01, 0.01], [-0.5, 0.5], [-0.4, 0.4], [0, 0]])
    np.testing.assert_allclose(diversity.hypothetical_gradient(p), by_hand, atol=1e-6)
    h = np.array([[10.0, 0], [1, 0], [0, 1], [50, 0]], dtype=np.float32)
    signals = Signals(np.array(list("abcd")), embedding=h, class_probabilities=p)
    # Norms of the gradients: 0.14, 0.71, 0.57, 0.
    for seed in range(20):
        assert select("badge_gradient", signals, 1, seed).ids == ["b"]


def test_badge_gradient_draws_as_if_the_gradients_were_there() -> None:
    rng = np.random.default_rng(3)
    p, h = rng.dirichlet(np.ones(3), 6).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
    one_hot = np.eye(3)[p.argmax(1)]
    gradients = ((p - one_hot)[:, :, None] * h[:, None, :]).reshape(6, 12)
    first = int(np.square(gradients).sum(1).argmax())
    chance = np.square(gradients - gradients[first]).sum(1)
    signals = Signals(np.array(list("abcdef")), embedding=h, class_probabilities=p)
    seconds: Counter[str] = Counter()
    for seed in range(1500):
        one, two = select("badge_gradient", signals, 2, seed).ids
        assert one == "abcdef"[first]
        seconds[two] += 1
    found = np.array([seconds[i] / 1500 for i in "abcdef"])
    np.testing.assert_allclose(found, chance / chance.sum(), atol=0.05)


def test_badge_gradient_takes_the_probe_where_there_is_no_classifier() -> None:
    signals = make_signals()
    p = signals.p_unknown
    assert p is not None
    probe = only(signals, ["embedding", "p_unknown"])
    heads = only(signals, ["embedding"])
    classes = with_signal(heads, "class_probabilities", np.stack([1 - p, p], axis=1))
    assert select("badge_gradient", probe, 20, 0) == select("badge_gradient", classes, 20, 0)
    logits = np.random.default_rng(0).normal(size=(POOL, 3))
    with pytest.raises(DataError, match=r"class_probabilities: 60 rows.*not logits"):
        select("badge_gradient", with_signal(heads, "class_probabilities", logits), 20, 0)


def typical_by_hand(points: Any, of: Any, blob: int) -> int:
    """The row of a blob with the least mean distance to its 20 nearest in it, in directions."""
    unit = Directions(points).matrix().astype(float)
    members = np.flatnonzero(of == blob)
    distances = np.linalg.norm(unit[members, None] - unit[None, members], axis=2)
    near = np.sort(distances, axis=1)[:, 1 : 1 + min(20, len(members) - 1)]
    return int(members[near.mean(1).argmin()])


def test_typiclust_buys_the_typical_one_of_each_cluster_the_largest_first() -> None:
    signals, of = blob_signals([10, 40, 25, 31])
    bought = select("typiclust", signals, 4, 0)
    assert blobs_of(bought, of) == [1, 3, 2, 0]
    assert [int(i) for i in bought.ids] == [typical_by_hand(signals.embedding, of, blob) for blob in (1, 3, 2, 0)]


@pytest.mark.parametrize("strategy", ["typiclust", "kmeans"])
def test_clusters_without_a_bought_question_come_first(strategy: str) -> None:
    """Two rows alike in each blob but one, so that there can be no more clusters than blobs."""
    points = np.repeat(np.eye(5, dtype=np.float32), [2, 6, 4, 8, 3], axis=0)
    of = np.repeat(np.arange(5), [2, 6, 4, 8, 3])
    signals = Signals(np.array([f"{i:04d}" for i in range(23)]), embedding=points)
    labelled = [signals.ids[of == 3][0], signals.ids[of == 2][1]]
    for seed in range(5):
        bought = select(strategy, signals, 8, seed, labelled=labelled)
        assert blobs_of(bought, of) == [1, 4, 0, 3, 1, 2, 4, 0]


def test_turns_of_clusters_by_hand() -> None:
    pool = Pool(np.array(list("abcdefgh")), labelled=np.array([1]))
    cluster = np.array([4, 4, 4, 4, 2, 2, 7, 2], dtype=np.int32)
    quality = np.array([0.1, 9.0, 0.5, 0.5, 0.3, 0.2, 0.0, 0.3])
    # Cluster 2 (three rows) and 7 (one) have nothing bought; 4 has one. Within 2: e, h by row, then f.
    rows = diversity._round_robin(pool, cluster, quality, 7)
    assert [str(pool.ids[row]) for row in rows] == ["e", "g", "c", "h", "d", "f", "a"]


def test_typiclust_goes_round_when_the_budget_is_larger_than_the_clusters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(diversity, "MOST_CLUSTERS", 4)
    signals, of = blob_signals([10, 40, 25, 31])
    for strategy in ("typiclust", "probcover"):
        counts = Counter(blobs_of(select(strategy, signals, 12, 0), of))
        assert set(counts) == {0, 1, 2, 3}
    assert Counter(blobs_of(select("typiclust", signals, 12, 0), of)) == {0: 3, 1: 3, 2: 3, 3: 3}


def test_probcover_covers_all_blobs() -> None:
    """SPEC item 12: a peer's ProbCover stayed in one blob."""
    signals, of = blob_signals([80, 40, 25, 31, 12])
    for seed in range(5):
        bought = select("probcover", signals, 5, seed)
        assert set(blobs_of(bought, of)) == {0, 1, 2, 3, 4}
        assert blobs_of(bought, of)[0] == 0  # the ball that covers most
        labelled = [f"{int(np.flatnonzero(of == blob)[3]):04d}" for blob in (0, 2, 3)]
        assert set(blobs_of(select("probcover", signals, 2, seed, labelled=labelled), of)) == {1, 4}


def test_kmeans_buys_the_nearest_to_each_center() -> None:
    signals, of = blob_signals([10, 40, 25, 31])
    unit = Directions(np.asarray(signals.embedding)).matrix().astype(float)
    expected = []
    for blob in (1, 3, 2, 0):
        members = np.flatnonzero(of == blob)
        expected.append(int(members[np.linalg.norm(unit[members] - unit[members].mean(0), axis=1).argmin()]))
    assert [int(i) for i in select("kmeans", signals, 4, 0).ids] == expected


@pytest.mark.parametrize("start", [[], [3, 8]])
def test_facility_location_adds_most_with_each_pick(start: list[int]) -> None:
    for seed in range(6):
        points = (np.random.default_rng(seed).normal(size=(18, 3)) + 5).astype(np.float32)
        signals = Signals(np.array([f"{i:03d}" for i in range(18)]), embedding=points)
        similar = np.maximum(cosines(points), 0)
        bought = select("facility_location", signals, 6, 0, labelled=[f"{i:03d}" for i in start])
        have = list(start)
        for row in (int(i) for i in bought.ids):
            reached = {i: similar[:, [*have, i]].max(axis=1).sum() for i in range(18) if i not in have}
            assert reached[row] > max(reached.values()) - 1e-4  # equal but for rounding
            have.append(row)
