"""Strategies that spread a budget over an embedding: by distance, by gradient, by clusters, by coverage.

Distances are between the rows themselves for `coreset`, `badge` and `badge_gradient`, as in their sources, and between
directions (`near_copies.Directions`) for the others, where a few large coordinates of a state would dominate. All read
the embedding that `options.space` names and start from the questions labelled before.
"""

import numpy as np
from numpy.typing import NDArray

from ka2l.errors import DataError
from ka2l.selection.kernels import coverage, k_center, k_means, seeding
from ka2l.selection.kernels import facility_location as facility_location_module
from ka2l.selection.near_copies import Directions
from ka2l.selection.options import Options
from ka2l.selection.signals import Array, Picks, Pool, Rows, given

MOST_CLUSTERS = 500  # of typiclust and probcover: more clusters are small, and a small one has no typical row
NEIGHBOURS = 20  # of typiclust


def coreset(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """k-center greedy (Sener & Savarese, arXiv 1708.00489): the row farthest from all picked and labelled ones.

    If no row is labelled yet, the first is drawn.
    """
    first = int(rng.integers(len(pool.ids)))
    rows = k_center.k_center_greedy(pool.in_space(options), k, first, labelled=pool.labelled)
    return _in_order(rows, "pick {} of k-center greedy")


def badge(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """k-means++ seeding, P ∝ D² · next-token entropy (the paper's adaptation of BADGE, Section 4.5)."""
    entropy = np.maximum(given(pool.next_token_entropy), 0.0)
    rows = seeding.weighted_seeding(pool.in_space(options), entropy, k, rng, labelled=pool.labelled)
    return _in_order(rows, "pick {} of weighted k-means++ seeding")


def badge_gradient(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """BADGE (arXiv 1906.03671): k-means++ seeding on gradients of a head's loss for its predicted class.

    The gradient by the head's weights, (p − onehot(ŷ)) ⊗ h, is never built: the kernel works on its two factors. The
    head is the classifier's if `class_probabilities` are given, else the probe's, with the classes known and unknown.

    Raises:
        DataError: rows of class_probabilities that are not a distribution.
    """
    coefficients = hypothetical_gradient(_probabilities(pool))
    rows = seeding.gradient_seeding(coefficients, pool.in_space(options), k, rng, labelled=pool.labelled)
    return _in_order(rows, "pick {} of k-means++ seeding on gradients")


def typiclust(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """TypiClust (arXiv 2202.02794): the most typical question of each cluster, the largest clusters first.

    There are as many k-means clusters as questions labelled before and picked now, at most 500; clusters without a
    labelled question come first. Typicality is 1 over the mean distance to the 20 nearest rows of the same cluster (or
    to all, if there are fewer); a row alone in its cluster is the least typical. A budget larger than the number of
    clusters takes further questions of each cluster in turn.
    """
    directions, _, assignment = _clusters(pool, k, rng, options, most=MOST_CLUSTERS)
    typical = np.zeros(len(assignment))
    for members in _members(assignment):
        if len(members) > 1:
            mean = coverage.nearest_distances(directions[members], min(NEIGHBOURS, len(members) - 1))
            typical[members] = 1.0 / np.maximum(mean, np.finfo(np.float32).tiny)
    rows = _round_robin(pool, assignment, typical, k)
    return _in_order(rows, "pick {}: typical of its cluster")


def kmeans(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """The question nearest to each center of k-means with as many clusters as questions labelled before and picked now.

    Clusters without a labelled question come first, the largest first; if equal rows leave clusters empty, further
    questions near the centers fill the budget.
    """
    directions, centers, assignment = _clusters(pool, k, rng, options, most=None)
    nearness = np.empty(len(assignment))
    for members in _members(assignment):
        center = centers[assignment[members[0]]]
        nearness[members] = -np.square(directions[members].astype(np.float32) - center).sum(axis=1)
    return _in_order(_round_robin(pool, assignment, nearness, k), "pick {}: nearest to the center of its cluster")


def probcover(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """ProbCover (arXiv 2205.11514): greedily the ball that covers most questions not covered yet.

    The radius is the largest at which 95 % of the balls hold one k-means cluster only. There are as many clusters as
    questions labelled before and picked now, at least 2 and at most 500: a pool of open questions has no number of
    classes.
    """
    directions, _, assignment = _clusters(pool, k, rng, options, most=MOST_CLUSTERS, least=2)
    radius = coverage.coverage_radius(directions, assignment)
    rows = coverage.max_coverage(directions, k, radius, labelled=pool.labelled)
    return _in_order(rows, f"pick {{}} of maximum coverage, radius {radius:.3f}")


def facility_location(pool: Pool, k: int, _rng: np.random.Generator, options: Options) -> Picks:
    """Greedy facility location: each pick adds most to Σ over the pool of the cosine with the nearest pick.

    Cosines below 0 count as 0. The sum is at least 1 − 1/e of the best set's (Nemhauser et al. 1978). No random draws.
    """
    directions = Directions(pool.in_space(options)).matrix()
    rows = facility_location_module.facility_location(directions, k, labelled=pool.labelled)
    return _in_order(rows, "pick {} of facility location")


def hypothetical_gradient(probabilities: Array) -> NDArray[np.float32]:
    """p − onehot(argmax p), [rows, classes]: the gradient of the cross-entropy by the logits at the predicted class."""
    gradient = np.array(probabilities, dtype=np.float32)
    gradient[np.arange(len(gradient)), np.argmax(probabilities, axis=1)] -= 1.0
    return gradient


def _probabilities(pool: Pool) -> Array:
    """Class probabilities [rows, classes]: those given, or the probe's (known, unknown)."""
    if pool.class_probabilities is None:
        p = given(pool.p_unknown).astype(np.float32)
        return np.stack([1.0 - p, p], axis=1)
    p = pool.class_probabilities
    wrong = np.flatnonzero((np.abs(p.sum(axis=1, dtype=np.float64) - 1.0) > 0.01) | (p.min(axis=1) < 0.0))
    if len(wrong):
        shown = ", ".join(pool.ids[wrong[:5]])
        raise DataError(
            f"Signal class_probabilities: {len(wrong)} rows are negative somewhere or do not sum to 1, first: {shown}. "
            "Give probabilities, not logits."
        )
    return p


def _in_order(rows: Rows, template: str) -> Picks:
    """Picks in the order of `rows`; the template gets the number of the pick."""
    return Picks(rows, 0.0 - np.arange(len(rows)), [template.format(i + 1) for i in range(len(rows))])


def _clusters(
    pool: Pool, k: int, rng: np.random.Generator, options: Options, *, most: int | None, least: int = 1
) -> tuple[Array, NDArray[np.float32], NDArray[np.int32]]:
    """Directions of the pool, k-means centers among them, and the cluster of each row."""
    directions = Directions(pool.in_space(options)).matrix()
    wanted = max(least, min(k + len(pool.labelled), len(pool.ids) if most is None else most))
    centers, assignment = k_means.k_means(directions, min(wanted, len(pool.ids)), rng)
    return directions, centers, assignment


def _members(assignment: NDArray[np.int32]) -> list[Rows]:
    """The rows of each non-empty cluster, by cluster number; rows ascending."""
    order = np.argsort(assignment, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(assignment[order])) + 1)


def _round_robin(pool: Pool, assignment: NDArray[np.int32], quality: Array, k: int) -> Rows:
    """k rows, one from each cluster in turn: first the clusters with the fewest labelled rows, of these the largest.

    Within a cluster the best by `quality` first. Ties go to the lower cluster and the lower row.
    """
    _, cluster, sizes = np.unique(assignment, return_inverse=True, return_counts=True)
    labelled = np.bincount(cluster[pool.labelled], minlength=len(sizes))
    free = pool.free
    ranked = free[np.lexsort((free, -quality[free], cluster[free]))]
    of = cluster[ranked]
    starts = np.searchsorted(of, np.arange(len(sizes)))
    # How many rows of its cluster are labelled or picked before each row.
    turn = np.arange(len(ranked)) - starts[of] + labelled[of]
    return ranked[np.lexsort((of, -sizes[of], turn))][:k]
