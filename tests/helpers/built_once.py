"""Folders that are built once per test session, and read by all workers of pytest-xdist."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return the folder that `build` has filled; the first process that asks builds it, the others wait for it.

    Each worker has its own temporary folder inside that of the session, so this folder is made in that of the session.
    """
    session = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    folder, complete = session / name, session / f".{name}.complete"
    with FileLock(session / f".{name}.lock"):
        if not complete.exists():
            # files of a failed attempt
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            complete.touch()
    return folder
