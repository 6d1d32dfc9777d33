"""Strategies that rank questions by one number: the probe's probability, or a score of the model's own output.

Each takes a pool, a number of questions, a random generator and options, and returns picks. All are pure functions.
"""

import numpy as np

from ka2l.common.unknown_from import UNKNOWN_FROM
from ka2l.selection.kernels.k_center import k_center_greedy
from ka2l.selection.near_copies import Directions, NearCopyFilter
from ka2l.selection.options import Options
from ka2l.selection.signals import Array, Picks, Pool, Rows, given


def unknown(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """Most probably unknown first (the paper's n Unknown sets), or a uniform draw among those inside the band."""
    inside, outside = _sides(pool, *options.interval)
    if options.draw == "random":
        inside = rng.permutation(inside)
    return _mixed(pool, inside, outside, k, _share(options, 0.0), rng, options)


def known(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """Most probably known first (the paper's 5k Known); the opposite of `unknown`."""
    p = given(pool.p_unknown)
    ranked = _ranked(pool, -p)
    if options.draw == "random":
        is_known = p[ranked] < UNKNOWN_FROM
        ranked = np.concatenate([rng.permutation(np.sort(ranked[is_known])), ranked[~is_known]])
    rows = _filled(_near_copy_filter(pool, options).take(ranked, k), ranked, k)
    return _with_probability(pool, rows, sign=-1)


def combine(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """Uniform draws from both sides (the paper's Combine): a share of known questions, the rest unknown.

    If one side has too few questions, the other fills up.
    """
    inside, outside = _sides(pool, *options.interval)
    return _mixed(pool, rng.permutation(inside), outside, k, _share(options, 0.5), rng, options)


def unknown_diverse(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """Unknown questions that differ from each other: weighted k-center greedy, always the largest distance · p_unknown.

    The questions with the highest p_unknown lie close together: they teach one kind of fact repeatedly and are the
    hardest to learn. Spread alone selects known questions. The border of the probe is not exact either: it calls
    questions known that the model answers consistently wrong, and these lie far from the rest. So all questions may be
    selected (inside `band`, if one is given; from 0.5 on if `known_fraction` sets the share of known ones), and
    distance between states weighs as much as the probability. Measurements, also of rejected variants, are in
    docs/results.md.
    """
    low, high = options.band if options.known_fraction is None else options.interval
    inside, outside = _sides(pool, low, high)
    p = np.clip(given(pool.p_unknown), 0.0, 1.0)
    weights = np.zeros_like(p)
    weights[inside] = p[inside]
    n_known = min(len(_known_side(pool, inside)), round(_share(options, 0.0) * k))
    rows = k_center_greedy(
        pool.in_space(options),
        min(k - n_known, len(inside)),
        int(inside[0]) if len(inside) else None,
        weights=weights,
        labelled=pool.labelled,
    )
    ranked = np.concatenate([rows, inside[~np.isin(inside, rows)]])
    return _mixed(pool, ranked, outside, k, _share(options, 0.0), rng, options)


def random(pool: Pool, k: int, rng: np.random.Generator, _options: Options) -> Picks:
    """A uniform draw without replacement."""
    return Picks(rng.permutation(pool.free)[:k], np.zeros(k), ["drawn at random"] * k)


def entropy(pool: Pool, k: int, _rng: np.random.Generator, _options: Options) -> Picks:
    """Highest entropy of the next-token distribution at the prompt (Section 4.5)."""
    values = given(pool.next_token_entropy)
    return _picks(_ranked(pool, values)[:k], values, "next-token entropy {:.2f} nats", values)


def least_confidence(pool: Pool, k: int, _rng: np.random.Generator, _options: Options) -> Picks:
    """Lowest probability of the likeliest next token (Lewis & Gale 1994); score: 1 − that."""
    top = given(pool.top_probability)
    uncertainty = 1.0 - top.astype(np.float64)
    return _picks(_ranked(pool, uncertainty)[:k], uncertainty, "likeliest next token {:.3f}", top)


def margin(pool: Pool, k: int, _rng: np.random.Generator, _options: Options) -> Picks:
    """Smallest lead of the likeliest next token over the second (Scheffer et al. 2001); score: minus the lead."""
    lead = given(pool.margin)
    return _picks(_ranked(pool, -lead)[:k], -lead, "lead of the likeliest next token {:.3f}", lead)


def likelihood(pool: Pool, k: int, _rng: np.random.Generator, _options: Options) -> Picks:
    """Least likely answer first: lowest log-likelihood per token of the low-temperature answer; score: minus that."""
    likely = given(pool.sequence_log_likelihood)
    return _picks(_ranked(pool, -likely)[:k], -likely, "log-likelihood {:.2f} nats per token", likely)


def semantic_entropy(pool: Pool, k: int, rng: np.random.Generator, _options: Options) -> Picks:
    """Highest sampled semantic entropy (Eq. 2): the quantity the probe predicts, measured at the cost of the samples.

    N samples give few different values, so there are many ties, which are drawn uniformly: an order by id would follow
    the way the ids were made, often by subject.
    """
    values = given(pool.semantic_entropy)
    shuffled = rng.permutation(pool.free)
    rows = shuffled[np.argsort(-values[shuffled], kind="stable")][:k]
    return _picks(rows, values, "semantic entropy {:.2f} nats", values)


def _ranked(pool: Pool, values: Array) -> Rows:
    """The free rows, highest value first; ties in the order of their ids."""
    return pool.free[np.argsort(-values[pool.free], kind="stable")]


def _picks(rows: Rows, score: Array, template: str, shown: Array) -> Picks:
    """Picks with the score of each row, and a reason made of the template and the row's value in `shown`."""
    return Picks(rows, score[rows], [template.format(value) for value in shown[rows]])


def _share(options: Options, default: float) -> float:
    return default if options.known_fraction is None else options.known_fraction


def _sides(pool: Pool, low: float, high: float) -> tuple[Rows, Rows]:
    """Free rows inside the band, most probably unknown first; and the others, the nearest to the band first."""
    # Compared in the precision of p: float32(0.7) lies inside a band from 0.7.
    p = given(pool.p_unknown)
    ranked = _ranked(pool, p)
    beyond = np.maximum(low - p[ranked], p[ranked] - high)
    outside = beyond > 0
    return ranked[~outside], ranked[outside][np.argsort(beyond[outside], kind="stable")]


def _known_side(pool: Pool, inside: Rows) -> Rows:
    """Free rows called known that are not inside the band, in the order of their ids."""
    known_rows = pool.free[given(pool.p_unknown)[pool.free] < UNKNOWN_FROM]
    return known_rows[~np.isin(known_rows, inside)]


def _mixed(
    pool: Pool,
    inside: Rows,
    outside: Rows,
    k: int,
    share: float,
    rng: np.random.Generator,
    options: Options,
) -> Picks:
    """Unknown questions in the order of `inside`, then a uniform draw of known ones, then others up to the budget."""
    known_rows = rng.permutation(_known_side(pool, inside)) if share > 0 else np.empty(0, dtype=np.intp)
    n_known = min(len(known_rows), round(share * k))
    no_copies = _near_copy_filter(pool, options)
    picked = no_copies.take(inside, k - n_known)
    picked = np.concatenate([picked, no_copies.take(known_rows, n_known)])
    order = np.concatenate([inside, outside])
    picked = np.concatenate([picked, no_copies.take(order[~np.isin(order, picked)], k - len(picked))])
    return _with_probability(pool, _filled(picked, order, k), sign=1)


def _filled(picked: Rows, order: Rows, k: int) -> Rows:
    """The picks, with near-copies in rank order if nothing else is left for the budget."""
    missing = k - len(picked)
    return picked if missing <= 0 else np.concatenate([picked, order[~np.isin(order, picked)][:missing]])


def _near_copy_filter(pool: Pool, options: Options) -> NearCopyFilter:
    if options.near_copy is None:
        return NearCopyFilter(None, 1.0, pool.labelled)
    return NearCopyFilter(Directions(pool.in_space(options)), options.near_copy, pool.labelled)


def _with_probability(pool: Pool, rows: Rows, sign: int) -> Picks:
    p = given(pool.p_unknown)[rows]
    sides = ["unknown" if value >= UNKNOWN_FROM else "known" for value in p]
    reasons = [f"{side}: p_unknown {value:.3f}" for side, value in zip(sides, p, strict=True)]
    return Picks(rows, sign * p, reasons)
