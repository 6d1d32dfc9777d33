"""Points of learning curves: as a file of the user's, and as scores of a known curve."""

from pathlib import Path

import numpy as np

from ka2l.studies.forecast.curve_points import Points, Spread
from ka2l.studies.forecast.palm_curve import Curve

HEADER = "labels,score,strategy,seed,questions\n"
RISING = HEADER + "".join(
    f"{labels},{score},{strategy},{seed},1500\n"
    for strategy, scores in {"unknown": (0.30, 0.42, 0.52), "random": (0.24, 0.33, 0.42)}.items()
    for labels, middle in zip((100, 200, 400), scores, strict=True)
    for seed, score in enumerate((round(middle - 0.005, 3), round(middle + 0.005, 3)))
)
RISING += "0,0.12,,,1500\n"
BUDGETS = np.array([0.0, 50, 100, 200, 400, 800])
TRUE = Curve(0.7, 0.25, 0.8, 0.7, 50.0)


def points(tmp_path: Path, text: str, name: str = "points.csv") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def exact(budgets: np.ndarray, scores: np.ndarray, deviation: float = 1e-5) -> Points:
    """Points whose noise is known, and small."""
    repeats = np.where(budgets > 0, 3, 0)
    shared = np.zeros((len(budgets), len(budgets)))
    return Points(budgets, scores, repeats, shared, Spread(deviation, 40), misfit=deviation)
