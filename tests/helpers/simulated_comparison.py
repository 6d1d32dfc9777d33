"""A simulated comparison for the tests and for viewing the page: policies × budgets × seeds with realistic numbers."""

import hashlib
from collections.abc import Sequence

import numpy as np

from ka2l.studies.comparison.cell_results import CellResult, Outcomes

# learned per label, gain on held-out questions, share forgotten: what cells of each policy are drawn around
TRUTH = {
    "random": (0.45, 0.10, 0.15),
    "unknown": (0.68, 0.10, 0.19),
    "unknown_diverse": (0.66, 0.17, 0.08),
    "combine": (0.44, 0.11, 0.12),
    "known": (0.12, 0.03, 0.09),
    "entropy": (0.52, 0.08, 0.20),
    "coreset": (0.48, 0.09, 0.17),
    "badge": (0.50, 0.10, 0.16),
    "replay": (0.67, 0.12, 0.10),
}
POOL, HELD_OUT = 800, 300


def grid(
    policies: Sequence[str] = tuple(TRUTH),
    budgets: Sequence[int] = (60, 120),
    seeds: int = 3,
    whole: bool = True,
) -> list[CellResult]:
    """Cells of the policies (those of TRUTH), and of the whole pool."""
    cells = [cell(policy, budget, seed) for policy in policies for budget in budgets for seed in range(seeds)]
    return cells + ([cell("full", POOL, seed) for seed in range(seeds)] if whole else [])


def cell(policy: str, budget: int, seed: int, truth: tuple[float, float, float] | None = None) -> CellResult:
    """One cell; the same arguments give the same cell, and the base model is the same in all."""
    code = int.from_bytes(hashlib.sha256(f"{policy}{budget}{seed}".encode()).digest()[:4], "big")
    rng = np.random.default_rng(code)
    learned, gain, forgotten = truth or TRUTH.get(policy, (0.4, 0.26, 0.13))
    gain = gain * min(1.0, (budget / 120) ** 0.5) + rng.normal(0, 0.006)
    bought = rng.choice(POOL, min(budget, POOL), replace=False)
    return CellResult(
        policy=policy,
        strategy={"full": "random", "replay": "unknown"}.get(policy, policy),
        budget=budget,
        seed=seed,
        labels=len(bought),
        replayed=budget if policy == "replay" else 0,
        cost=0.0,
        select_seconds=0.02 + 0.5 * (policy in ("coreset", "badge")) * budget / 100,
        finetune_seconds=0.36 * budget + rng.normal(0, 1),
        evaluate_seconds=22.0,
        sets={
            "held_out": _asked("h", np.arange(HELD_OUT), rng, gain, forgotten),
            "pool": _asked("p", np.arange(0, POOL, 2), rng, gain + learned * budget / POOL, forgotten),
            "bought": _bought(bought, rng, learned),
            "bought_reworded": _bought(bought[:40], rng, 0.8 * learned),
        },
    )


def _right_before(prefix: str, rows: np.ndarray) -> np.ndarray:
    everything = np.random.default_rng(ord(prefix)).random(POOL) < 0.45
    return everything[rows]


def _asked(prefix: str, rows: np.ndarray, rng: np.random.Generator, gain: float, forgotten: float) -> Outcomes:
    before = _right_before(prefix, rows)
    share = before.mean()
    learns = (gain + forgotten * share) / (1 - share)
    after = np.where(before, rng.random(len(rows)) >= forgotten, rng.random(len(rows)) < learns)
    return _outcomes(prefix, rows, before, after, rng)


def _bought(rows: np.ndarray, rng: np.random.Generator, learned: float) -> Outcomes:
    before = rng.random(len(rows)) < 0.25
    after = np.where(before, rng.random(len(rows)) < 0.9, rng.random(len(rows)) < min(1.0, learned / 0.75))
    return _outcomes("p", rows, before, after, rng)


def _outcomes(
    prefix: str, rows: np.ndarray, before: np.ndarray, after: np.ndarray, rng: np.random.Generator
) -> Outcomes:
    f1 = np.where(after, 1.0, rng.random(len(rows)) * 0.3)
    return Outcomes(
        ids=[f"{prefix}{row:04d}" for row in rows],
        groups=[f"{prefix}{row // 2:04d}" for row in rows],
        before=before,
        after=after,
        f1=f1,
        rouge_l=np.minimum(1.0, f1 * 1.02),
        meteor=f1 * 0.6,
        bleu=float(f1.mean() * 0.7),
    )
