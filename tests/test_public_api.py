"""The curated surface: every name resolves, and importing the package costs nothing."""

import subprocess
import sys

import pytest

import ka2l


@pytest.mark.parametrize("name", ka2l.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    assert getattr(ka2l, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ka2l.nonsense


def test_the_import_loads_nothing_heavy() -> None:
    code = "import ka2l, sys; print([m for m in ('numpy', 'torch', 'pydantic', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
