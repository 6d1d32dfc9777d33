"""The kernels against plain searches over small pools, in blocks smaller than the pool, by NumPy and by torch."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ka2l.selection.kernels import distance_blocks, k_center, seeding
from ka2l.selection.kernels.coverage import coverage_radius, max_coverage, nearest_distances
from ka2l.selection.kernels.facility_location import facility_location
from ka2l.selection.kernels.k_center import k_center_greedy
from ka2l.selection.kernels.k_means import k_means
from ka2l.selection.kernels.seeding import gradient_seeding, weighted_seeding

Array = NDArray[Any]
CHUNK = distance_blocks.CHUNK
CASES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the fixture has no state
devices = pytest.mark.parametrize("device", ["numpy", "torch"])


@pytest.fixture(autouse=True)
def _chunk() -> Iterator[None]:
    """Tests may leave small blocks behind."""
    yield
    distance_blocks.CHUNK = CHUNK


@st.composite
def pools(draw: st.DrawFn, least: int = 1, most: int = 24) -> Array:
    """Points on a grid (exact ties and duplicates) or anywhere (duplicates where asked), far from the origin or not."""
    n = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    distance_blocks.CHUNK = draw(
        st.sampled_from([1, 7, 40, CHUNK])
    )  # values: with blocks of one row, of some, of all
    if draw(st.booleans()):
        return rng.integers(0, 3, size=(n, 2)).astype(draw(st.sampled_from([np.float16, np.float32])))
    points = rng.normal(size=(n, 4)) + draw(st.sampled_from([0, 0, 100]))
    if draw(st.booleans()):
        points = points[rng.integers(0, n, n)]
    return points.astype(draw(st.sampled_from([np.float16, np.float32, np.float64])))


def squares(points: Array) -> Array:
    """[rows, rows] squared distances, the slow way."""
    exact = points.astype(np.float32).astype(float)
    return np.asarray(((exact[:, None] - exact[None]) ** 2).sum(-1))


def is_best(values: Array, row: int, tolerance: float = 1e-5) -> bool:
    """Whether a row has the largest value, up to rounding; among equals the lowest row, where values are exact."""
    top = values.max()
    if (values == np.round(values)).all():
        return bool(row == values.argmax())
    return bool(values[row] >= top - tolerance * max(1.0, abs(top)))


# k-center -------------------------------------------------------------------------------------------------------------


@CASES
@given(pools(), st.data(), st.sampled_from(["numpy", "torch"]), st.sampled_from([(1, 1), (2, 3), (64, 1024)]))
def test_each_pick_of_k_center_is_farthest(
    points: Array, data: st.DataObject, device: str, ahead: tuple[int, int]
) -> None:
    """Whatever number of picks is made in advance."""
    n = len(points)
    labelled = np.array(
        data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1)), dtype=np.intp
    )
    k = data.draw(st.integers(0, n - len(labelled)))
    first = data.draw(st.none() | st.integers(0, n - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(k_center, "_AHEAD", ahead)
        rows = k_center_greedy(points, k, first, labelled=labelled, device=device)
    assert rows.dtype == np.intp
    assert len(set(rows.tolist()) | set(labelled.tolist())) == k + len(labelled)
    known, distance = labelled.tolist(), squares(points)
    for row in rows.tolist():
        if known:
            nearest = distance[:, known].min(1)
            nearest[known] = -1
            assert is_best(nearest, row)
        else:
            assert row == (first or 0)
        known.append(row)


@pytest.mark.parametrize("spread", [2, 8, 200])
def test_picks_in_advance_change_nothing(spread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers: all distances are exact, and many are equal."""
    rng = np.random.default_rng(0)
    points = np.repeat(rng.integers(0, 200, size=(30, 16)), 20, axis=0) + rng.integers(
        0, spread, size=(600, 16)
    )
    exact = points.astype(np.float32)
    many = k_center_greedy(exact, 300, 5)
    calls: list[int] = []
    shrink = distance_blocks.Points.shrink

    def counted(points: distance_blocks.Points, distance: Array, picked: Array) -> None:
        calls.append(len(picked))
        shrink(points, distance, picked)

    monkeypatch.setattr(distance_blocks.Points, "shrink", counted)
    np.testing.assert_array_equal(k_center_greedy(exact, 300, 5), many)
    assert len(calls) < 100  # passes over the rows, for 300 picks
    monkeypatch.setattr(k_center, "_AHEAD", (1, 1))
    np.testing.assert_array_equal(k_center_greedy(exact, 300, 5), many)


@devices
def test_duplicates_far_from_the_origin_have_distance_0(device: str) -> None:
    """|x|² + |c|² − 2x·c of a row with itself is not 0 in float32: a copy would be bought while others are left."""
    rng = np.random.default_rng(0)
    some = (1000 + rng.normal(size=(6, 300))).astype(np.float16)
    some[:, 0] = 30000
    points = np.concatenate([some] * 7)
    rows = k_center_greedy(points, 42, 3, device=device)
    assert sorted((rows[:6] % 6).tolist()) == list(range(6))
    assert rows[6:].tolist() == sorted(rows[6:].tolist())  # nothing left but copies: by row
    seeded = weighted_seeding(points, np.ones(42), 42, rng, device=device)
    assert sorted((seeded[:6] % 6).tolist()) == list(range(6))
    assert sorted(seeded.tolist()) == list(range(42))


def test_near_copies_are_told_apart() -> None:
    """Two tight clusters far apart: inside, distances are a millionth of the norms."""
    rng = np.random.default_rng(0)
    tight = np.concatenate([rng.normal(size=(40, 8)) * 1e-3, rng.normal(size=(40, 8)) * 1e-3 + 5])
    points = tight.astype(np.float32)
    distance, known = squares(points), [0]
    for row in k_center_greedy(points, 60, 0)[1:].tolist():
        nearest = distance[:, known].min(1)
        nearest[known] = -1
        assert nearest[row] >= nearest.max() * (1 - 1e-3)
        known.append(row)


def test_half_precision_distances_do_not_overflow() -> None:
    """float16 ends at 65504; squared distances of real states go far beyond."""
    points = np.array([[0.0, 0.0], [300.0, 0.0], [600.0, 0.0], [30000.0, 0.0]], dtype=np.float16)
    assert k_center_greedy(points, 4, 0).tolist() == [0, 3, 2, 1]
    assert sorted(weighted_seeding(points, np.ones(4), 4, np.random.default_rng(0)).tolist()) == [0, 1, 2, 3]


# Seedings -------------------------------------------------------------------------------------------------------------


def seeding_by_hand(
    distance: Array, weights: Array, k: int, rng: np.random.Generator, known: list[int], first: list[int]
) -> list[int]:
    """P(row) ∝ D² · weight by walking along the cumulative sum; evenly where all of it is 0."""
    picked = list(first)
    while len(picked) < k:
        seen = known + picked
        nearest = distance[:, seen].min(1) if seen else np.ones(len(weights))
        mass = np.array([0.0 if i in seen else nearest[i] * weights[i] for i in range(len(weights))])
        if mass.sum() > 0:
            target, total, row = rng.random() * mass.sum(), 0.0, -1
            while total <= target:
                row += 1
                total += mass[row]
            picked.append(row)
        else:
            picked.append(int(rng.choice([i for i in range(len(weights)) if i not in seen])))
    return picked


@CASES
@given(pools(), st.integers(0, 10**6), st.data(), st.sampled_from(["numpy", "torch"]))
def test_weighted_seeding_against_a_walk(points: Array, seed: int, data: st.DataObject, device: str) -> None:
    n = len(points)
    weights = (
        np.random.default_rng(seed).integers(0, 3, n).astype(data.draw(st.sampled_from([float, np.float32])))
    )
    labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    k = data.draw(st.integers(0, n - len(labelled)))
    rows = weighted_seeding(
        points,
        weights,
        k,
        np.random.default_rng(seed),
        labelled=np.array(labelled, dtype=np.intp),
        device=device,
    )
    by_hand = seeding_by_hand(squares(points), weights, k, np.random.default_rng(seed), labelled, [])
    assert rows.tolist() == by_hand


def gradients(coefficients: Array, x: Array) -> Array:
    """[rows, classes · width], the matrix that the kernel never makes."""
    return (coefficients[:, :, None] * x[:, None, :].astype(np.float32)).reshape(len(x), -1)


def hypothetical(rng: np.random.Generator, n: int, classes: int) -> Array:
    p = rng.dirichlet(np.ones(classes), n)
    return p - np.eye(classes)[p.argmax(1)]


@CASES
@given(pools(), st.integers(0, 10**6), st.integers(2, 5), st.data(), st.sampled_from(["numpy", "torch"]))
def test_gradient_seeding_against_the_gradients(
    points: Array, seed: int, classes: int, data: st.DataObject, device: str
) -> None:
    n, rng = len(points), np.random.default_rng(seed)
    coefficients = hypothetical(rng, n, classes)[rng.integers(0, n, n)].astype(np.float32)
    k = data.draw(st.integers(1, n))
    rows = gradient_seeding(coefficients, points, k, np.random.default_rng(seed), device=device)
    full = gradients(coefficients, points)
    norms = (full.astype(float) ** 2).sum(1)
    assert norms[rows[0]] >= norms.max() * (1 - 1e-5)
    by_hand = seeding_by_hand(squares(full), np.ones(n), k, np.random.default_rng(seed), [], [int(rows[0])])
    # Equal gradients of different factors are at distance 0 up to rounding: such a row may come a little sooner.
    if len(np.unique(full, axis=0)) >= k:
        assert rows.tolist() == by_hand
    assert len(set(rows.tolist())) == k


def test_badge_uses_onehot_minus_p_and_not_p() -> None:
    """SPEC item 12: with −p ⊗ h, sure rows have the largest embeddings; the gradients of all sure rows are 0."""
    p = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.4, 0.3, 0.3], [0.0, 0.0, 1.0], [0.3, 0.4, 0.3]])
    h = np.array([[9.0, 0.0], [0.0, 9.0], [1.0, 1.0], [9.0, 9.0], [1.0, -1.0]])
    coefficients = p - np.eye(3)[p.argmax(1)]
    for seed in range(10):
        rows = gradient_seeding(coefficients, h, 5, np.random.default_rng(seed))
        assert rows[0] in (2, 4)
        assert {2, 4} < set(rows[:3].tolist())
        np.testing.assert_array_equal(
            gradient_seeding(-coefficients, h, 5, np.random.default_rng(seed)), rows
        )


@devices
def test_distances_between_nearly_equal_gradients(device: str) -> None:
    """A thousandth apart in both factors."""
    rng = np.random.default_rng(0)
    c, h = rng.normal(size=(1, 3)), rng.normal(size=(1, 50))
    c = (c + 1e-3 * rng.normal(size=(12, 3))).astype(np.float32)
    h = (h + 1e-3 * rng.normal(size=(12, 50))).astype(np.float32)
    c[1], h[1] = c[0], h[0]
    points = distance_blocks.Points(h, c, device=device)
    block = points.take(np.arange(12))
    found = points.host(points.squared(block, block))
    assert found[0, 1] == 0
    np.testing.assert_allclose(found, squares(gradients(c, h)), rtol=1e-3)


@pytest.mark.parametrize("ahead", [(1, 1), (8, 8), (64, 1024)])
@pytest.mark.parametrize("kind", ["weighted", "gradient"])
def test_draws_in_advance_have_the_right_probabilities(
    kind: str, ahead: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Third pick given the first two, counted and computed; proposals of too high a mass must be refused."""
    monkeypatch.setattr(seeding, "_SMALL", 0)
    monkeypatch.setattr(k_center, "_AHEAD", ahead)
    points = np.array([[1.0, 0.0], [1.5, 0.0], [9.0, 0.0], [9.5, 1.0], [3.0, 5.0]])
    weights = np.array([1.0, 3.0, 2.0, 2.0, 1.0])
    coefficients = np.array([[1.0, -1.0], [0.5, -0.5], [0.2, -0.2], [0.3, -0.3], [0.1, -0.1]])
    counts: dict[tuple[int, int], Array] = {}
    for seed in range(3000):
        rng = np.random.default_rng(seed)
        if kind == "weighted":
            rows = weighted_seeding(points, weights, 3, rng)
        else:
            rows = gradient_seeding(coefficients, points, 3, rng)
        counts.setdefault((int(rows[0]), int(rows[1])), np.zeros(5))[rows[2]] += 1
    distance = squares(points if kind == "weighted" else gradients(coefficients, points))
    checked = 0
    for pair, found in counts.items():
        if found.sum() < 150:
            continue
        mass = distance[:, list(pair)].min(1) * (weights if kind == "weighted" else 1)
        np.testing.assert_allclose(found / found.sum(), mass / mass.sum(), atol=0.12)
        checked += found.sum()
    assert checked > 1500


def test_rows_of_weight_0_come_last_and_all_of_them_come() -> None:
    weights = np.array([0.0, 2.0, 0.0, 1.0, 0.0])
    last = set()
    for seed in range(30):
        rows = weighted_seeding(np.arange(5.0)[:, None], weights, 5, np.random.default_rng(seed))
        assert set(rows[:2].tolist()) == {1, 3}
        assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]
        last.add(int(rows[4]))
    assert last == {0, 2, 4}


# k-means, typicality --------------------------------------------------------------------------------------------------


@CASES
@given(pools(), st.integers(0, 10**6), st.data(), st.sampled_from(["numpy", "torch"]))
def test_k_means_ends_where_lloyd_ends(points: Array, seed: int, data: st.DataObject, device: str) -> None:
    k = data.draw(st.integers(1, len(points)))
    found = k_means(points, k, np.random.default_rng(seed), iterations=200, device=device)
    assert found.centers.shape == (k, points.shape[1])
    assert found.centers.dtype == np.float32
    assert found.assignment.dtype == np.int32
    to_centers = ((points[:, None].astype(float) - found.centers[None]) ** 2).sum(-1)
    mine = to_centers[np.arange(len(points)), found.assignment]
    assert (mine <= to_centers.min(1) + 1e-3).all()  # every row is with its nearest center
    for j in set(found.assignment.tolist()):  # and every center in the middle of its rows
        np.testing.assert_allclose(
            found.centers[j], points[found.assignment == j].astype(float).mean(0), rtol=1e-4, atol=1e-4
        )
    if len(np.unique(points, axis=0)) >= k:
        assert len(set(found.assignment.tolist())) == k  # none is empty
    again = k_means(points, k, np.random.default_rng(seed), iterations=200, device=device)
    np.testing.assert_array_equal(again.assignment, found.assignment)
    np.testing.assert_array_equal(again.centers, found.centers)


def test_k_means_finds_blobs_and_stops_when_told() -> None:
    rng = np.random.default_rng(0)
    blobs = np.repeat(np.arange(5), 40)
    points = 50 * np.eye(5)[blobs] + rng.normal(size=(200, 5))
    assignment = k_means(points, 5, np.random.default_rng(1)).assignment
    assert len({(a, b) for a, b in zip(assignment.tolist(), blobs.tolist(), strict=True)}) == 5
    noise = rng.normal(size=(200, 5))
    stopped = k_means(noise, 8, np.random.default_rng(1), iterations=1)
    nearest = ((noise[:, None] - stopped.centers[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(stopped.assignment, nearest)  # by the centers that are returned


def test_a_cluster_that_loses_its_rows_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.array([[0.0], [0.0], [0.0], [10.0], [11.0], [20.0], [20.0]])
    monkeypatch.setattr(seeding, "_seed", lambda *_: np.array([0, 1, 2]))  # all centers at one place
    found = k_means(points, 3, np.random.default_rng(0))
    assert sorted(found.centers[:, 0].tolist()) == [0.0, 10.5, 20.0]


@CASES
@given(pools(), st.integers(1, 30), st.sampled_from(["numpy", "torch"]))
def test_mean_distance_to_the_nearest(points: Array, neighbours: int, device: str) -> None:
    distance = np.sqrt(squares(points))
    np.fill_diagonal(distance, np.inf)
    count = min(neighbours, len(points) - 1)
    expected = np.sort(distance, axis=1)[:, :count].mean(1) if count else np.zeros(len(points))
    found = nearest_distances(points, neighbours, device=device)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# Coverage -------------------------------------------------------------------------------------------------------------


def coverage_is_greedy(points: Array, rows: Array, radius: float, labelled: list[int]) -> None:
    """Checks each pick; squared distances within rounding of the radius do not occur in the cases below."""
    near = squares(points) <= np.float32(radius) ** 2
    used, n = set(labelled), len(points)
    uncovered = {i for i in range(n) if not near[i, labelled].any()} - used
    for row in rows.tolist():
        if not uncovered:
            uncovered = set(range(n)) - used
        gains = [-1 if i in used else sum(near[i, j] for j in uncovered) for i in range(n)]
        assert row == int(np.argmax(gains))
        used.add(row)
        uncovered -= {j for j in range(n) if near[row, j]} | {row}


@CASES
@given(
    pools(), st.sampled_from([0.0, 0.5, 1.0, 1.3, 2.1, 300.0]), st.data(), st.sampled_from(["numpy", "torch"])
)
def test_each_pick_of_max_coverage_is_greedy(
    points: Array, radius: float, data: st.DataObject, device: str
) -> None:
    n = len(points)
    labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    k = data.draw(st.integers(0, n - len(labelled)))
    rows = max_coverage(points, k, radius, labelled=np.array(labelled, dtype=np.intp), device=device)
    assert len(rows) == k
    coverage_is_greedy(points, rows, radius, labelled)


@devices
def test_balls_hold_copies_even_at_radius_0(device: str) -> None:
    points = np.random.default_rng(0).normal(size=(9, 300))[[0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 5, 3]]
    rows = max_coverage(points, 12, 0.0, device=device)
    assert rows.tolist() == [5, 3, 0, 1, 2, 4, 6, 7, 8, 9, 11, 10]  # then of the copies


def test_probcover_leaves_the_blob() -> None:
    """SPEC item 12: a peer stayed in one blob. Both are covered, and the next round goes through both again."""
    rng = np.random.default_rng(0)
    points = np.concatenate([0.1 * rng.normal(size=(190, 2)), 0.1 * rng.normal(size=(10, 2)) + 50])
    rows = max_coverage(points, 8, 2.0)
    assert (rows >= 190).tolist() == [False, True] * 4


@CASES
@given(pools(2), st.integers(1, 4), st.sampled_from([0.5, 0.9, 0.95, 1.0]), st.integers(0, 99))
def test_coverage_radius_is_the_largest_of_that_purity(
    points: Array, clusters: int, purity: float, seed: int
) -> None:
    assignment = np.random.default_rng(seed).integers(0, clusters, len(points)).astype(np.int32)
    distance = np.sqrt(squares(points))
    other = assignment[:, None] != assignment[None]
    for device in ("numpy", "torch"):
        radius = coverage_radius(points, assignment, purity=purity, device=device)
        if not other.any():
            assert radius == np.inf
            continue
        if not np.isinf(radius):
            larger = ((distance <= radius * (1 + 1e-4) + 1e-6) & other).any(1)
            assert 1 - larger.mean() < purity
        if radius > 0:
            assert 1 - ((distance <= radius) & other).any(1).mean() >= purity - 1e-9


@CASES
@given(pools(), st.data(), st.sampled_from(["numpy", "torch"]), st.booleans())
def test_each_pick_of_facility_location_adds_most(
    points: Array, data: st.DataObject, device: str, weighted: bool
) -> None:
    n = len(points)
    labelled = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n - 1))
    k = data.draw(st.integers(0, n - len(labelled)))
    weights = np.random.default_rng(n).random(n) if weighted else None
    rows = facility_location(
        points, k, weights=weights, labelled=np.array(labelled, dtype=np.intp), device=device
    )
    assert len(set(rows.tolist()) | set(labelled)) == k + len(labelled)
    exact = points.astype(np.float32).astype(float)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    unit = exact / np.where(length > 0, length, 1)
    similarity = np.maximum(unit @ unit.T, 0)
    used = list(labelled)
    for row in rows.tolist():
        best = similarity[:, used].max(1) if used else np.zeros(n)
        gains = (np.ones(n) if weights is None else weights) @ np.maximum(similarity - best[:, None], 0)
        gains[used] = -1
        assert gains[row] >= gains.max() - 1e-5
        used.append(row)


def test_facility_location_breaks_ties_by_row_and_reads_weights() -> None:
    axes = np.eye(5)[[0, 0, 0, 1, 1, 2, 3]]
    assert facility_location(axes, 7).tolist() == [0, 3, 5, 6, 1, 2, 4]
    weights = np.array([1.0, 1.0, 1.0, 0.1, 0.1, 5.0, 0.0])
    assert facility_location(axes, 7, weights=weights).tolist() == [5, 0, 3, 1, 2, 4, 6]


# All of them ----------------------------------------------------------------------------------------------------------


def run_all(x: Array, device: str = "cpu") -> dict[str, Array]:
    """Every kernel once, with seeds of its own."""
    n = len(x)
    rng = np.random.default_rng(3)
    weights, coefficients = rng.random(n), hypothetical(rng, n, 3)
    clusters = k_means(x, 4, np.random.default_rng(1), device=device)
    radius = coverage_radius(x, clusters.assignment, purity=0.8, device=device)
    return {
        "k_center": k_center_greedy(x, n, 2, device=device),
        "weighted": weighted_seeding(x, weights, n, np.random.default_rng(1), device=device),
        "gradient": gradient_seeding(coefficients, x, n, np.random.default_rng(1), device=device),
        "assignment": clusters.assignment,
        "centers": clusters.centers,
        "radius": np.array(radius),
        "typical": nearest_distances(x, 5, device=device),
        "coverage": max_coverage(x, n, radius, device=device),
        "facility": facility_location(x, n, weights=weights, device=device),
    }


@pytest.mark.parametrize("n", [53, 97])
def test_no_kernel_drops_rows_after_the_last_whole_block(n: int) -> None:
    """SPEC item 12: a peer dropped the last N mod 500 rows. Both row counts are primes."""
    x = np.random.default_rng(n).normal(size=(n, 4)).astype(np.float16)
    whole = run_all(x)
    for rows in ("k_center", "weighted", "gradient", "coverage", "facility"):
        assert sorted(whole[rows].tolist()) == list(range(n))
    for chunk in (4, 40, 44, 4 * n - 4):
        distance_blocks.CHUNK = chunk
        for name, values in run_all(x).items():
            np.testing.assert_allclose(values, whole[name], rtol=1e-5, err_msg=f"{name}, blocks of {chunk}")


def test_memory_maps_float_types_and_torch_give_the_same(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    expected = run_all(x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    others = {
        "map": run_all(mapped),
        "float32": run_all(x.astype(np.float32)),
        "float64": run_all(x.astype(float)),
        "columns": run_all(np.asfortranarray(x)),
        "torch": run_all(x, "torch"),
        "torch of a map": run_all(mapped, "torch"),
    }
    for kind, found in others.items():
        for name, values in found.items():
            np.testing.assert_allclose(
                values, expected[name], rtol=1e-4, atol=1e-5, err_msg=f"{name}, {kind}"
            )


@devices
def test_a_large_half_precision_block_is_converted_right(device: str) -> None:
    """Above a size "cpu" is torch's."""
    x = np.random.default_rng(0).normal(size=(700, 130)).astype(np.float16)
    assert x.size > 1 << 16
    x.flags.writeable = False
    rows = k_center_greedy(x, 40, 0, device=device)
    np.testing.assert_array_equal(rows, k_center_greedy(x.astype(np.float64), 40, 0))
    np.testing.assert_array_equal(rows, k_center_greedy(x, 40, 0, device="numpy"))


@devices
def test_a_pool_of_one_and_nothing_wanted(device: str) -> None:
    one = np.ones((1, 3), dtype=np.float32)
    rng = np.random.default_rng(0)
    for k in (0, 1):
        expected = list(range(k))
        assert k_center_greedy(one, k, device=device).tolist() == expected
        assert weighted_seeding(one, np.ones(1), k, rng, device=device).tolist() == expected
        assert gradient_seeding(np.ones((1, 2)), one, k, rng, device=device).tolist() == expected
        assert max_coverage(one, k, 1.0, device=device).tolist() == expected
        assert facility_location(one, k, device=device).tolist() == expected
    with pytest.raises(ValueError, match="2 rows are wanted of 1"):
        k_center_greedy(one, 2)
    with pytest.raises(ValueError, match="1 rows are wanted of 0"):
        weighted_seeding(one, np.ones(1), 1, rng, labelled=np.array([0]))


def test_memory_does_not_grow_with_picks_times_rows() -> None:
    """SPEC item 12: a peer filled a K × N matrix of float64, here 32 MB; and the rows as float32 would be 5 MB."""
    n, k, classes = 20_000, 200, 10
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 64)).astype(np.float16)
    weights, coefficients = np.ones(n), hypothetical(rng, n, classes).astype(np.float32)
    distance_blocks.CHUNK = 1 << 16
    k_center_greedy(x[:2000], 2, 0)  # imports
    runs = {
        "k_center": lambda: k_center_greedy(x, k, 0),
        "weighted": lambda: weighted_seeding(x, weights, k, rng),
        "gradient": lambda: gradient_seeding(coefficients, x, k, rng),
    }
    for name, run in runs.items():
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6, name


# k-center with weights ------------------------------------------------------------------------------------------


@given(
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(0, 2**16),
    st.sampled_from(["numpy", "torch"]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_weighted_k_center_is_brute_force(n: int, width: int, seed: int, device: str, coarse: bool) -> None:
    """Distance · weight decides; at 0 (duplicates, or no weight) the heaviest; ties go to the lower row."""
    rng = np.random.default_rng(seed)
    x = (
        rng.integers(0, 3, (n, width)).astype(np.float32)
        if coarse
        else rng.normal(size=(n, width)).astype(np.float32)
    )
    weights = rng.integers(0, 3, n).astype(np.float32)
    k, first = int(rng.integers(1, n + 1)), int(rng.integers(n))
    picked = [first]
    while len(picked) < k:
        distance = np.min([np.linalg.norm(x - x[row], axis=1) for row in picked], axis=0)
        free = [row for row in range(n) if row not in picked]
        picked.append(
            max(
                free,
                key=lambda row: (
                    round(float(distance[row] * weights[row]), 6),
                    weights[row] if distance[row] * weights[row] == 0 else 0.0,
                    -row,
                ),
            )
        )
    found = k_center_greedy(x, k, first, weights=weights, device=device)
    assert found.tolist() == picked
