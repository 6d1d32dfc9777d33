"""Strategies that rank questions by one number: the probe's probability, and what a model's own output says.

Each takes a pool, a budget, a source of draws and options, and returns picks; all of them are pure functions.
"""

import numpy as np

from ka2l.selection.kernels.k_center import k_center_greedy
from ka2l.selection.near_copies import Apart, Directions
from ka2l.selection.signals import BORDER, Array, Options, Picks, Pool, Rows, given


def unknown(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """Most probably unknown first (the paper's n Unknown sets), or an even draw among those inside the band."""
    inside, outside = _sides(pool, *options.interval)
    if options.draw == "random":
        inside = rng.permutation(inside)
    return _mixed(pool, inside, outside, k, _share(options, 0.0), rng, options)


def known(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """The mirror image: what the model most probably knows (the paper's 5k Known)."""
    p = given(pool.p_unknown)
    ranked = _ranked(pool, -p)
    if options.draw == "random":
        called = p[ranked] < BORDER
        ranked = np.concatenate([rng.permutation(np.sort(ranked[called])), ranked[~called]])
    apart = _apart(pool, options)
    rows = _filled(apart.take(ranked, k), ranked, k)
    return _with_probability(pool, rows, sign=-1)


def combine(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """Even draws from both sides (the paper's Combine): a share of known questions, the rest unknown.

    Where one side has too few, the other fills up.
    """
    inside, outside = _sides(pool, *options.interval)
    return _mixed(pool, rng.permutation(inside), outside, k, _share(options, 0.5), rng, options)


def unknown_diverse(pool: Pool, k: int, rng: np.random.Generator, options: Options) -> Picks:
    """Unknown questions that are unlike each other: weighted k-center greedy, always the largest distance · p_unknown.

    The surest unknown questions lie in one corner of the pool: they teach one kind of thing again and again, and are the
    hardest to learn. Spread alone pays for what is known. And the border of the probe is no wall: what a model has
    consistently wrong it calls known, and such questions lie apart from the rest. So all questions may be bought (inside
    `band`, where one is given, and beyond the border where `known_fraction` says how many are to be known), and distance
    in the space of states weighs as much as the probability. docs/results.md has what was measured, with the variants
    that lost.
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
    """An even draw without replacement."""
    return Picks(rng.permutation(pool.free)[:k], np.zeros(k), ["drawn at random"] * k)


def entropy(pool: Pool, k: int, _rng: np.random.Generator, _options: Options) -> Picks:
    """Highest entropy of the next-token distribution at the prompt (Section 4.5)."""
    values = given(pool.next_token_entropy)
    return _by(_ranked(pool, values)[:k], values, "next-token entropy {:.2f} nats", values)


def least_confidence(pool: Pool, k: int, _rng: np.random.Generator, _options: Options) -> Picks:
    """Lowest probability of the likeliest next token (Lewis & Gale 1994); score: 1 − that."""
    top = given(pool.top_probability)
    doubt = 1.0 - top.astype(np.float64)
    return _by(_ranked(pool, doubt)[:k], doubt, "likeliest next token {:.3f}", top)


def margin(pool: Pool, k: int, _rng: np.random.Generator, _options: Options) -> Picks:
    """Smallest lead of the likeliest next token over the second (Scheffer et al. 2001); score: minus the lead."""
    lead = given(pool.margin)
    return _by(_ranked(pool, -lead)[:k], -lead, "lead of the likeliest next token {:.3f}", lead)


def likelihood(pool: Pool, k: int, _rng: np.random.Generator, _options: Options) -> Picks:
    """Least likely answer first: lowest log-likelihood per token of the low-temperature answer; score: minus that."""
    likely = given(pool.sequence_log_likelihood)
    return _by(_ranked(pool, -likely)[:k], -likely, "log-likelihood {:.2f} nats per token", likely)


def semantic_entropy(pool: Pool, k: int, rng: np.random.Generator, _options: Options) -> Picks:
    """Highest sampled semantic entropy (Eq. 2): what the probe predicts, measured, at the price of the samples.

    N samples give few different values, so ties are many and are drawn evenly: by id they would follow however the
    ids were made, often by subject.
    """
    values = given(pool.semantic_entropy)
    shuffled = rng.permutation(pool.free)
    rows = shuffled[np.argsort(-values[shuffled], kind="stable")][:k]
    return _by(rows, values, "semantic entropy {:.2f} nats", values)


def _ranked(pool: Pool, values: Array) -> Rows:
    """The rows that may be bought, highest value first; ties in the order of their ids."""
    return pool.free[np.argsort(-values[pool.free], kind="stable")]


def _by(rows: Rows, score: Array, words: str, told: Array) -> Picks:
    return Picks(rows, score[rows], [words.format(value) for value in told[rows]])


def _share(options: Options, default: float) -> float:
    return default if options.known_fraction is None else options.known_fraction


def _sides(pool: Pool, low: float, high: float) -> tuple[Rows, Rows]:
    """Free rows inside the band, most probably unknown first; and the rest, the nearest to the band first."""
    p = given(pool.p_unknown)  # compared in its own precision: float32(0.7) lies inside a band from 0.7
    ranked = _ranked(pool, p)
    beyond = np.maximum(low - p[ranked], p[ranked] - high)
    outside = beyond > 0
    return ranked[~outside], ranked[outside][np.argsort(beyond[outside], kind="stable")]


def _known_side(pool: Pool, inside: Rows) -> Rows:
    """Free rows called known that the band does not claim, in the order of their ids."""
    known_rows = pool.free[given(pool.p_unknown)[pool.free] < BORDER]
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
    """Unknown questions in the order of `inside`, then an even draw of known ones; then whatever fills the budget."""
    known_rows = rng.permutation(_known_side(pool, inside)) if share > 0 else np.empty(0, dtype=np.intp)
    n_known = min(len(known_rows), round(share * k))
    apart = _apart(pool, options)
    bought = apart.take(inside, k - n_known)
    bought = np.concatenate([bought, apart.take(known_rows, n_known)])
    order = np.concatenate([inside, outside])
    bought = np.concatenate([bought, apart.take(order[~np.isin(order, bought)], k - len(bought))])
    return _with_probability(pool, _filled(bought, order, k), sign=1)


def _filled(bought: Rows, order: Rows, k: int) -> Rows:
    """Near-copies come back, in rank order, only where nothing else is left."""
    missing = k - len(bought)
    return bought if missing <= 0 else np.concatenate([bought, order[~np.isin(order, bought)][:missing]])


def _apart(pool: Pool, options: Options) -> Apart:
    if options.near_copy is None:
        return Apart(None, 1.0, pool.labelled)
    return Apart(Directions(pool.in_space(options)), options.near_copy, pool.labelled)


def _with_probability(pool: Pool, rows: Rows, sign: int) -> Picks:
    p = given(pool.p_unknown)[rows]
    return Picks(
        rows, sign * p, [f"{'unknown' if value >= BORDER else 'known'}: p_unknown {value:.3f}" for value in p]
    )
