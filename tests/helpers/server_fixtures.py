"""Fixtures for the tests of answers from a server: a running server, a model that uses it with a fake clock,
prompts.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from answer_server import AnswerServer, Dice
from ka2l.models.interface import Prompt, SampledQuestion
from ka2l.models.server.server_model import ServerModel
from ka2l.models.settings import ServerConfig
from tiny import plain_prompt

HEATS = {0: 0.1, 1: 1.0, 2: 1.0, 3: 1.0}
VARIABLE = "KA2L_TEST_KEY"


@pytest.fixture
def server() -> Iterator[AnswerServer]:
    """A server that answers with numbers, for tests that do not read the answers."""
    with AnswerServer(Dice()) as running:
        yield running


@pytest.fixture
def prompts() -> list[Prompt]:
    asked = [(f"q{index}", plain_prompt(f"What is the capital of {'AbCdEf'[index] * 4}?")) for index in range(6)]
    return [Prompt(name, text, ({"role": "user", "content": text},)) for name, text in asked]


class FakeClock:
    """A clock that advances only when its `sleep` is called, and then at once."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await anyio.lowlevel.checkpoint()


class Make(Protocol):
    def __call__(self, server: AnswerServer, **values: Any) -> ServerModel: ...


@pytest.fixture
def fake_clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(tmp_path: Path, fake_clock: FakeClock) -> Make:
    """Build a model that uses a given server and waits on the fake clock; one file of paid answers per test."""

    def build(server: AnswerServer, **values: Any) -> ServerModel:
        settings: dict[str, Any] = {
            "endpoint": "completions",
            "concurrency": 1,
            "api_key_env": VARIABLE,
        } | values
        config = ServerConfig(url=server.url, model="tiny", **settings)
        return ServerModel(config, tmp_path / "paid.sqlite", clock=fake_clock.monotonic, sleep=fake_clock.sleep)

    return build


def draw(
    model: ServerModel,
    prompts: Sequence[Prompt],
    heats: Mapping[int, float] = HEATS,
    *,
    seed: int = 0,
    max_new_tokens: int = 8,
) -> dict[str, SampledQuestion]:
    results = list(model.sample(prompts, heats, seed=seed, max_new_tokens=max_new_tokens))
    assert sorted(r.question_id for r in results) == sorted(p.question_id for p in prompts)
    return {result.question_id: result for result in results}


def texts(results: Mapping[str, SampledQuestion]) -> dict[str, list[str]]:
    return {name: [answer.text for answer in result.answers] for name, result in results.items()}
