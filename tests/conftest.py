"""Fixtures of all tests: one thread, and a tiny model and a finished run that are made once per session."""

import gc

import pytest

from built_once import built_once
from console import ka2l as ka2l  # a fixture: the command line
from decoded_run import decoded as decoded  # a fixture: one run with decoded questions
from runs import finished as finished  # a fixture: one finished run for all tests
from tiny import TinyWorld, build_tiny_model, tiny_facts

# Its failures show the values compared, as in a test module.
pytest.register_assert_rewrite("strategy_suite")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny steps on two busy cores run 10 to 50 times slower on two threads than on one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _one_thread_in_fixtures() -> None:
    """One thread as well while the fixtures of a module are built: they come before those of its tests."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _short_garbage_collections() -> None:
    """Exclude what is already loaded from garbage collection: every training run collects, at up to half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """A small Llama that knows 42 invented facts and not 42 others; do not write into its folder."""
    folder = built_once(tmp_path_factory, "tiny", lambda folder: build_tiny_model(folder / "model"))
    return TinyWorld(folder / "model", tiny_facts())
