"""Cells of a comparison made by hand, row by row."""

import numpy as np

from ka2l.studies.comparison.cell_results import CellResult, Outcomes


def outcomes(before: list[int], after: list[int], prefix: str = "q", groups: list[str] | None = None) -> Outcomes:
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
