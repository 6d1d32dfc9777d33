"""Calls the program in this process, as the entry point does, and checks its output."""

import json
import re
import sys
from typing import Any, NamedTuple

import pytest

from ka2l.cli import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Cli:
    """Calls the program in this process, as the entry point does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["ka2l", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main.main()
        out, err = self._capsys.readouterr()
        code = end.value.code
        return Result(code if isinstance(code, int) else 0, out, err)


@pytest.fixture
def ka2l(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # the variable was read when it was imported
    return Cli(monkeypatch, capsys)


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def assert_refused(result: Result, *parts: str) -> None:
    """Check for exit code 2 and for an error message without a traceback that contains these parts."""
    assert result.code == 2, result.err
    assert re.search("^error: ", result.err, re.MULTILINE)
    assert "Traceback" not in result.err
    for part in parts:
        assert part in " ".join(result.err.split())
