"""A server that fails: no fault is fatal that may pass, what cannot pass ends at once, and the key appears nowhere."""

import logging
import time
from email.utils import formatdate
from pathlib import Path

import anyio
import pytest

from answer_server import (
    AnswerServer,
    Dice,
    Fault,
    Script,
    drop_midway,
    echo_key,
    hang_up,
    plain,
    slow,
    status,
    truncated,
)
from ka2l.errors import ModelError
from ka2l.models.interface import Prompt
from ka2l.models.server.http_requests import Pace
from server_fixtures import VARIABLE, FakeClock, Make, draw, texts
from server_fixtures import fake_clock as fake_clock
from server_fixtures import make as make
from server_fixtures import prompts as prompts
from server_fixtures import server as server

SECRET = "sk-test-4242/abcdefghijklmnop"


# Faults


@pytest.mark.parametrize(
    "fault",
    [
        status(500),
        status(503),
        status(408),
        status(409),
        status(429),
        drop_midway(),
        truncated(),
        hang_up(),
        plain(200, "<html>busy</html>"),
        plain(200, '{"choices": []}'),
        plain(200, '{"error": {"code": 429}}'),
    ],
)
def test_what_may_pass_is_tried_again(
    fault: Fault, server: AnswerServer, prompts: list[Prompt], make: Make, fake_clock: FakeClock
) -> None:
    server.faults += [fault, fault]
    model = make(server)
    results = draw(model, prompts[:2])
    assert len(server.bodies) == 4 + 2
    assert len(fake_clock.slept) == 2
    assert 0.3 < fake_clock.slept[0] <= 0.5 < fake_clock.slept[1] <= 1.0  # growing, with jitter
    assert model.notes == []
    server.bodies.clear()
    assert texts(draw(model, prompts[:2])) == texts(results)
    assert server.bodies == []


def test_a_late_response_is_asked_for_again(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    server.faults += [slow(0.6)]
    draw(make(server, timeout=0.3), prompts[:1], {0: 1.0})
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7.0, 7.0),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5, 1.5),
        ({"Retry-After": "a date"}, 60.0, 100.0),
    ],
)
def test_the_server_says_when_to_come_back(
    headers: dict[str, str],
    least: float,
    most: float,
    server: AnswerServer,
    prompts: list[Prompt],
    make: Make,
    fake_clock: FakeClock,
) -> None:
    # Made here, because minutes may pass between collecting tests and running them.
    if headers["Retry-After"] == "a date":
        headers = {"Retry-After": formatdate(time.time() + 100, usegmt=True)}
    server.faults += [status(429, headers)]
    draw(make(server), prompts[:1], {0: 1.0})
    assert len(server.bodies) == 2
    assert least <= sum(fake_clock.slept) <= most


def test_a_server_that_sends_us_away_for_long_ends_the_run(
    server: AnswerServer, prompts: list[Prompt], make: Make, fake_clock: FakeClock
) -> None:
    server.faults += [status(429, {"Retry-After": "86400"})]
    with pytest.raises(ModelError, match=r"86400 s.*later"):
        draw(make(server), prompts[:1])
    assert fake_clock.slept == []


def test_the_last_attempt_is_told(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    server.faults += [status(500, message="out of memory " * 60)] * 3
    with pytest.raises(ModelError) as caught:
        draw(make(server, retries=2), prompts)
    assert len(server.bodies) == 3
    assert "3 attempts" in str(caught.value)
    assert "out of memory" in str(caught.value)
    assert len(str(caught.value)) < 800
    assert server.url in str(caught.value)


def test_a_server_that_is_not_there(prompts: list[Prompt], make: Make) -> None:
    with AnswerServer(Dice()) as gone:
        pass
    with pytest.raises(ModelError, match=r"2 attempts.*ConnectError"):
        draw(make(gone, retries=1), prompts)


@pytest.mark.parametrize(
    ("code", "message", "fix"),
    [
        (401, "Incorrect API key", f"environment variable {VARIABLE}"),
        (403, "not yours", f"environment variable {VARIABLE}"),
        (404, "The model `tiny` does not exist", "server.model"),
        (400, "maximum context length is 512 tokens", "prompt too long"),
        (429, "You exceeded your current quota (insufficient_quota)", "no credit left"),
    ],
)
def test_what_cannot_pass_ends_at_once(
    code: int,
    message: str,
    fix: str,
    server: AnswerServer,
    prompts: list[Prompt],
    make: Make,
    fake_clock: FakeClock,
) -> None:
    server.faults += [status(code, message=message)]
    with pytest.raises(ModelError) as caught:
        draw(make(server), prompts, {0: 1.0})
    for part in (server.url, "tiny", str(code), message, fix):
        assert part in str(caught.value)
    assert (len(server.bodies), fake_clock.slept) == (1, [])


# Rate and concurrency


def test_no_more_requests_under_way_than_allowed(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    server.delay = 0.02
    draw(make(server, concurrency=3, many=False), prompts, {0: 1.0, 1: 1.0})
    assert server.most_at_once == 3
    assert len(server.bodies) == 12


def test_requests_keep_their_distance(prompts: list[Prompt], make: Make, fake_clock: FakeClock) -> None:
    with AnswerServer(Dice(), fake_clock.monotonic) as server:
        server.faults += [status(500)]
        model = make(server, requests_per_minute=30)
        draw(model, prompts[:2])
        draw(model, prompts[2:3])
    distances = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert len(distances) == 6  # repeated attempts count too, and the rate holds from one call to the next
    assert min(distances) == pytest.approx(2.0)


def test_many_at_once_keep_their_distance_too() -> None:
    fake_clock = FakeClock()
    due: list[float] = []

    async def sleep(seconds: float) -> None:
        due.append(fake_clock.now + seconds)

    async def all_at_once() -> None:
        pace = Pace(60, fake_clock.monotonic, sleep)
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(pace.turn)
        pace.hold(10.0)
        await pace.turn()

    anyio.run(all_at_once)
    assert due == [1.0, 2.0, 3.0, 10.0]


# The key


def test_the_key_is_sent_and_appears_nowhere_else(
    server: AnswerServer,
    prompts: list[Prompt],
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(VARIABLE, SECRET)
    server.faults += [echo_key(500)]
    model = make(server, retries=1)
    draw(model, prompts[:1])
    assert set(server.keys) == {f"Bearer {SECRET}"}
    said = [repr(model), repr(vars(model)), repr(vars(model._http)), *model.notes]
    for faults in (
        [echo_key(401)],
        [echo_key(500)] * 2,
        [echo_key(400)],
        [plain(200, f"Bearer {SECRET}")] * 2,
    ):
        server.faults = type(server.faults)(faults)
        with pytest.raises(ModelError) as caught:
            draw(model, prompts[1:2], {0: 1.0})
        said += [str(caught.value), repr(caught.value.__cause__), repr(caught.value.__context__)]
    assert "[key]" in said[-3]
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for place in (*said, caplog.text, written.decode(errors="replace")):
        assert SECRET not in place
        assert SECRET[:12] not in place


def test_a_key_in_an_answer_is_not_kept(
    prompts: list[Prompt], make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    with AnswerServer(Script(f"Bearer {SECRET}")) as server:
        assert draw(make(server), prompts[:1], {0: 1.0})[prompts[0].question_id].answers[0].text == "Bearer [key]"
    assert all(SECRET.encode() not in file.read_bytes() for file in tmp_path.iterdir())


def test_no_key_is_sent_where_there_is_none(
    server: AnswerServer, prompts: list[Prompt], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)  # another variable than the one that is named
    draw(make(server), prompts[:1])
    assert set(server.keys) == {""}
    monkeypatch.setenv(VARIABLE, "two\nlines")
    with pytest.raises(ModelError, match=VARIABLE) as caught:
        make(server)
    assert "lines" not in str(caught.value).split(":")[0]
