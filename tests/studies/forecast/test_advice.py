"""Advice from a curve: stop or continue, no forecast without a rise, labels to a target."""

import numpy as np
import pytest

from curve_data import BUDGETS, TRUE, exact
from ka2l.studies.forecast.advice import HORIZON, advise
from ka2l.studies.forecast.curve_points import from_scores
from ka2l.studies.forecast.palm_curve import fit, percentiles


def test_advice_says_stop_go_on_or_that_it_does_not_know() -> None:
    early, late = (advise(fit(exact(BUDGETS[:n], TRUE(BUDGETS[:n]), 0.0005)), 100, price=2.0) for n in (4, 6))
    true = float(TRUE(300.0)[0] - TRUE(200.0)[0])
    assert early.gain.low <= true <= early.gain.high
    assert (early.verdict, early.supported, early.cost) == ("go on", True, 200.0)
    assert "lower end of the band" in early.reason
    saturated = np.array([0.2, 0.45, 0.49, 0.499, 0.5, 0.5])
    full = advise(fit(exact(BUDGETS, saturated, 0.001)))
    assert full.verdict == "stop"
    assert full.gain.high < 0.01
    assert "Even the upper end" in full.reason
    assert advise(fit(exact(BUDGETS, saturated, 0.001)), least_gain=1e-7).verdict != "stop"
    noisy = advise(fit(exact(BUDGETS[:3], TRUE(BUDGETS[:3]), 0.03)))
    assert (noisy.verdict, noisy.supported) == ("unclear", False)
    assert noisy.doubt
    gains = [step.gain.middle for step in late.steps]
    assert [step.labels for step in late.steps] == [900, 1000, 1100, 1200, 1300]
    assert gains == sorted(gains, reverse=True)


def test_flat_and_falling_scores_get_no_forecast() -> None:
    flat = advise(fit(exact(BUDGETS, np.full(6, 0.3), 0.002)))
    assert (flat.trend, flat.supported, flat.verdict) == ("flat", False, "stop")
    assert "does not rise beyond its noise" in flat.doubt
    falling = advise(fit(exact(BUDGETS, np.array([0.30, 0.35, 0.33, 0.3, 0.25, 0.2]), 0.005)))
    assert (falling.trend, falling.supported, falling.verdict) == ("falling", False, "stop")
    assert "fell from 0.350 at 50 labels to 0.200 at 800" in falling.doubt
    assert "Perhaps more was forgotten than learned" in falling.doubt
    # A fall is not noise, also where only the distances from a curve that cannot fall say how noisy the scores are.
    alone = fit(from_scores({0.0: [0.5], 100.0: [0.4], 200.0: [0.3]}))
    assert alone.points.spread.value > 0.03
    assert alone.trend == "falling"


def test_targets() -> None:
    found = fit(exact(BUDGETS, TRUE(BUDGETS), 0.0005))
    near = advise(found, target=0.65, price=0.5).target
    assert near is not None
    assert near.labels.low <= float(TRUE.labels_for(0.65)) <= near.labels.high
    assert near.cost is not None
    assert near.cost.middle == pytest.approx(0.5 * (near.labels.middle - 800))
    assert near.share == 1.0
    never = advise(found, target=0.9).target
    assert never is not None
    assert (never.labels.low, never.labels.high, never.share) == (np.inf, np.inf, 0.0)
    assert never.horizon == HORIZON * 800
    reached = advise(found, target=0.3).target
    assert reached is not None
    assert reached.labels.high < 800
    # infinity and numbers are never averaged
    assert percentiles(np.array([[1.0], [np.inf], [np.inf]]), 0.95).middle[0] == np.inf
