"""A trained probe: what it predicts, and the methods that store it."""

from dataclasses import fields as dataclass_fields
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ka2l.knowledge.probes.probe import Probe, ProbeFit, standardization
from ka2l.knowledge.probes.probe_folder import ProbeFields
from planted_states import PLANTED, TEST, TRAIN, WIDTH, Labelled, fit_at
from planted_states import fits as fits  # a fixture
from planted_states import planted as planted  # a fixture


def test_p_unknown_is_high_for_unknown_questions(planted: Labelled, fits: list[ProbeFit]) -> None:
    states, unknown = planted
    for kind in ("linear", "mlp"):
        p = fit_at(fits, kind, PLANTED).probe.predict(states[TEST, PLANTED])
        assert p.dtype == np.float32
        assert ((p >= 0) & (p <= 1)).all()
        assert p[unknown[TEST]].mean() > 0.8 > 0.3 > p[~unknown[TEST]].mean()


def test_standardization_of_training_rows(planted: Labelled) -> None:
    rows = planted[0][TRAIN, PLANTED].astype(np.float64)
    rows[:, 5] = 7.3
    mean, scale = standardization(rows)
    scaled = (rows - mean) / scale
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.delete(scaled.std(0), 5), 1, rtol=1e-5)
    assert scale[5] == 1.0


def test_the_linear_probe_is_the_logistic_regression_it_says(planted: Labelled, fits: list[ProbeFit]) -> None:
    states, _ = planted
    weights = fit_at(fits, "linear", PLANTED).probe.weights
    rows = (states[TEST, PLANTED].astype(float) - weights["mean"]) / weights["scale"]
    p = 1 / (1 + np.exp(-(rows @ weights["weight"] + weights["bias"][0])))
    predicted = fit_at(fits, "linear", PLANTED).probe.predict(states[TEST, PLANTED])
    np.testing.assert_allclose(predicted, p, atol=1e-5)


def test_extreme_states_give_probabilities_not_warnings(fits: list[ProbeFit]) -> None:
    for found in fits:
        p = found.probe.predict(np.full((3, WIDTH), 1e6, dtype=np.float32))
        assert ((p >= 0) & (p <= 1)).all()


def test_the_methods_that_keep_a_probe_pass_it_on(
    monkeypatch: pytest.MonkeyPatch, fits: list[ProbeFit], tmp_path: Path
) -> None:
    kept: dict[str, ProbeFields] = {}
    module = "ka2l.knowledge.probes.probe"
    monkeypatch.setattr(f"{module}.save", lambda fields, folder: kept.update({str(folder): fields}))
    monkeypatch.setattr(f"{module}.load", lambda name, _revision, **_options: kept[name])
    monkeypatch.setattr(f"{module}.push", lambda fields, repo, **options: (fields, repo, options))
    probe = replace(fits[0].probe, card={"model": "m"})
    probe.save_pretrained(tmp_path)
    fields = kept[str(tmp_path)]
    assert fields._fields == tuple(field.name for field in dataclass_fields(Probe))
    again = Probe.from_pretrained(str(tmp_path))
    assert again == probe
    assert again.card == {"model": "m"}
    pushed: Any = probe.push_to_hub("me/probe", private=True)
    assert pushed == (fields, "me/probe", {"private": True})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7))
def test_predictions_of_a_row_do_not_depend_on_the_others(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    weights = {
        "mean": rng.normal(size=6),
        "scale": rng.random(6) + 0.5,
        "weight": rng.normal(size=6),
        "bias": rng.normal(size=1),
    }
    probe = Probe("linear", 1, {name: array.astype(np.float32) for name, array in weights.items()})
    states = rng.normal(size=(rows, 6)).astype(np.float32)
    alone = np.concatenate([probe.predict(states[i : i + 1]) for i in range(rows)])
    np.testing.assert_allclose(probe.predict(states), alone, atol=1e-6)
