"""`probe.layers`: probes at the layers that are named, and nothing else changed."""

import numpy as np
import pytest

from ka2l.config.recipes import load_config
from ka2l.errors import ConfigError
from ka2l.knowledge.probes.fit import fit_probes
from ka2l.knowledge.probes.probe import ProbeFit
from ka2l.knowledge.settings import ProbeConfig

RNG = np.random.default_rng(0)
UNKNOWN = RNG.random(120) < 0.5
# Six layers of width 5; the deeper, the more of a state says whether the question is unknown.
STATES = (RNG.normal(size=(120, 6, 5)) + UNKNOWN[:, None, None] * np.linspace(0, 1.5, 6)[None, :, None]).astype(
    np.float32
)
TRAIN, VALIDATION = np.arange(80), np.arange(80, 120)


def fits(**settings: object) -> list[ProbeFit]:
    config = ProbeConfig.model_validate({"mlp_width": 4, "mlp_epochs": 2, **settings})
    return fit_probes(STATES, UNKNOWN, TRAIN, VALIDATION, config, 0)


def test_only_these_layers_are_trained_under_their_own_numbers() -> None:
    found = fits(layers=[4, 1])
    assert [(fit.probe.kind, fit.probe.layer) for fit in found] == [
        ("linear", 1), ("linear", 4), ("mlp", 1), ("mlp", 4),
    ]  # fmt: skip


@pytest.mark.parametrize("choice", ["best", "robust"])
def test_a_layer_alone_has_the_probe_it_has_among_all(choice: str) -> None:
    (alone,) = fits(layers=[3], kinds=["linear"], choice=choice)
    (among,) = [fit for fit in fits(kinds=["linear"], choice=choice) if fit.probe.layer == 3]
    assert alone.validation_auroc == among.validation_auroc
    assert alone.choice_loss == pytest.approx(among.choice_loss, abs=1e-6)
    np.testing.assert_allclose(alone.probe.predict(STATES[:, 3]), among.probe.predict(STATES[:, 3]), rtol=1e-4)


def test_a_layer_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"probe.layers=\[2, 6\].*layers 0 \(the embedding\) to 5"):
        fits(layers=[6, 2])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("probe.layers=[]", "at least one layer"),
        ("probe.layers=[3,3]", "each once"),
        ("probe.layers=[-1]", "greater than or equal to 0"),
    ],
)
def test_impossible_layers_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [setting])


def test_kinds_that_read_all_layers_do_not_go_with_some() -> None:
    with pytest.raises(ConfigError, match=r"mix.*read all layers"):
        load_config(None, ["probe.layers=[3]", "probe.kinds=[linear,mix]"])
