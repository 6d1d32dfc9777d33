"""The numbers that `--dry-run` estimates from: a model's parameters without its weights, and the machine's rate."""

import math
import shutil
from pathlib import Path

from ka2l.models.loading import load_causal_lm, resolve
from ka2l.models.model_shape import matrix_rate, parameter_count
from ka2l.models.settings import ModelConfig
from tiny import TinyWorld


def test_parameters_are_counted_without_weights(tiny_world: TinyWorld, tmp_path: Path) -> None:
    shutil.copy(tiny_world.folder / "config.json", tmp_path)
    config = ModelConfig(name=str(tmp_path))
    whole = ModelConfig(name=str(tiny_world.folder), device="cpu")
    model, _ = load_causal_lm(whole, resolve(whole))
    assert parameter_count(config, resolve(config)) == sum(p.numel() for p in model.parameters())


def test_the_matrix_rate_is_a_rate() -> None:
    assert 1e6 < matrix_rate() < math.inf
