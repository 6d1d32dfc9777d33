"""Folders that are built once per test session, and read by all workers of pytest-xdist."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return the folder that `build` has filled; the first process that asks builds it, the others wait for it.

    Every worker has a temporary folder of its own below the one of the session, so the folder lies in the latter.
    """
    session = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    folder, complete = session / name, session / f".{name}.complete"
    with FileLock(session / f".{name}.lock"):
        if not complete.exists():
            # what a failed attempt has left
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            complete.touch()
    return folder
