"""The screen and the JSON of `ka2l plan` as pure functions of collected points and forecasts."""

import json
from pathlib import Path

import pytest

from curve_data import RISING, points
from ka2l.studies.forecast.advice import ONE_POINT
from ka2l.studies.forecast.collect import collect, forecast
from ka2l.studies.forecast.forecast_json import as_values
from ka2l.studies.forecast.forecast_text import forecast_text


def test_every_strategy_has_its_part_and_then_they_are_compared(tmp_path: Path) -> None:
    file = points(tmp_path, RISING)
    collected = collect([file])
    forecasts = forecast(collected, next_labels=50, target=0.55, price=2.0)
    parts = forecast_text(collected, forecasts, 50).split("\n\n")
    assert parts[0] == f"Points from {file}."
    assert [part for part in parts if part in ("unknown", "random")] == ["unknown", "random"]
    assert parts[-1].startswith("With 450 labels unknown should be highest")
    alone = forecast_text(collected, forecasts[:1], 50)
    assert "should be highest" not in alone
    assert max(map(len, alone.splitlines())) <= 100


def test_one_point_has_neither_curve_nor_advice(tmp_path: Path) -> None:
    collected = collect([points(tmp_path, "labels,score\n100,0.3\n")])
    (one,) = forecast(collected)
    assert (one.fit, one.advice) == (None, None)
    assert " ".join(ONE_POINT.split()) in " ".join(forecast_text(collected, [one], 100).split())
    values = as_values(collected, [one])
    row = values["strategies"]["score"]["points"][0]
    assert row == {"labels": 100, "score": 0.3, "deviation": pytest.approx(0.0206, abs=1e-4), "trainings": 1}
    json.dumps(values, allow_nan=False)
