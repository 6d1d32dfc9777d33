"""Paid answers: nothing is paid twice, whatever ends the process and whatever is asked next."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from answer_server import AnswerServer, Dice, status
from ka2l.errors import DataError, ModelError
from ka2l.models.interface import Prompt
from ka2l.models.server.server_model import ServerModel
from server_fixtures import HEATS, Make, draw, texts
from server_fixtures import fake_clock as fake_clock
from server_fixtures import make as make
from server_fixtures import prompts as prompts
from server_fixtures import server as server

# Paid answers


def test_nothing_is_paid_twice(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    first = draw(make(server), prompts)
    server.bodies.clear()
    model = make(server)
    assert draw(model, prompts) == first
    assert server.bodies == []
    assert model.usage == type(model.usage)()


def test_more_samples_ask_for_the_new_ones_only(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    few = draw(make(server), prompts)
    server.bodies.clear()
    more = draw(make(server), prompts, HEATS | {4: 1.0, 5: 1.0})
    assert [body.get("n") for body in server.bodies] == [2] * 6
    for name, result in more.items():
        assert result.answers[:4] == few[name].answers
    later = texts(draw(make(server), prompts, {4: 1.0, 5: 1.0}))
    assert later == {name: result[4:] for name, result in texts(more).items()}
    assert len(server.bodies) == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda p: ([q._replace(text=q.text + " ") for q in p], HEATS, {}),
        lambda p: ([q._replace(question_id=q.question_id + "x") for q in p], HEATS, {}),
        lambda p: (p, dict.fromkeys(HEATS, 0.7), {}),
        lambda p: (p, {k + 10: v for k, v in HEATS.items()}, {}),
        lambda p: (p, HEATS, {"seed": 1}),
        lambda p: (p, HEATS, {"max_new_tokens": 7}),
    ],
    ids=["prompt", "id", "temperature", "sample", "seed", "length"],
)
def test_another_question_is_another_answer(
    change: Callable[..., Any], server: AnswerServer, prompts: list[Prompt], make: Make
) -> None:
    draw(make(server), prompts[:1])
    server.bodies.clear()
    asked, heats, rest = change(prompts[:1])
    draw(make(server), asked, heats, **rest)
    assert server.asked == 4


def test_another_model_endpoint_or_address_is_asked_itself(
    server: AnswerServer, prompts: list[Prompt], make: Make, tmp_path: Path
) -> None:
    draw(make(server), prompts[:1])
    for values in ({"endpoint": "chat"}, {"model": "other"}):
        server.bodies.clear()
        config = make(server, **{k: v for k, v in values.items() if k != "model"}).config
        config = config.model_copy(update=values)
        draw(ServerModel(config, tmp_path / "paid.sqlite"), prompts[:1])
        assert server.asked == 4, values
    with AnswerServer(Dice()) as moved:
        draw(make(moved), prompts[:1])
        assert moved.asked == 4
        # What docs/servers.md says of a server that moved.
        base = sqlite3.connect(tmp_path / "paid.sqlite")
        base.execute("DELETE FROM answers WHERE server = ?", (moved.url,))
        base.execute("UPDATE answers SET server = ?", (moved.url,))
        base.commit()
        base.close()
        moved.bodies.clear()
        draw(make(moved), prompts[:1])
        assert moved.bodies == []


def test_log_probabilities_wanted_later_are_paid_for(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    plain_answers = draw(make(server, logprobs=False), prompts[:1])
    assert "logprobs" not in server.bodies[0]
    full = draw(make(server), prompts[:1])
    assert server.asked == 8
    assert all(a.token_logprobs for r in full.values() for a in r.answers)
    assert draw(make(server, logprobs=False), prompts[:1]) == plain_answers
    assert server.asked == 8


def test_what_came_before_an_error_is_kept(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    server.most_choices = 2
    server.faults += [lambda h, b: h.send(200, h.whole(b))] * 2 + [status(401)]
    with pytest.raises(ModelError, match="401"):
        draw(make(server), prompts[:1])
    server.bodies.clear()
    draw(make(server), prompts[:1])
    assert server.asked == 1  # one at low temperature and two of three had come


def test_whoever_stops_listening_stops_the_asking(server: AnswerServer, prompts: list[Prompt], make: Make) -> None:
    results = make(server).sample(prompts, {0: 1.0}, seed=0, max_new_tokens=8)
    next(results)
    next(results)
    server.delay = 30.0
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 5.0
    assert threading.active_count() < 20
    server.delay = 0.0
    server.bodies.clear()
    draw(make(server), prompts, {0: 1.0})
    assert len(server.bodies) <= 4


CHILD = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests in the background ignores Ctrl-C
from pathlib import Path
from ka2l.models.settings import ServerConfig
from ka2l.models.interface import Prompt
from ka2l.models.server.server_model import ServerModel

url, paid, prompts, concurrency = json.loads(sys.argv[1])
config = ServerConfig(url=url, model="tiny", endpoint="completions", concurrency=concurrency)
model = ServerModel(config, Path(paid))
try:
    for result in model.sample([Prompt(*p) for p in prompts], {0: 0.1, 1: 1.0, 2: 1.0}, seed=0, max_new_tokens=8):
        print(result.question_id, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def start(server: AnswerServer, prompts: list[Prompt], paid: Path, concurrency: int) -> subprocess.Popen[str]:
    plan = json.dumps([server.url, str(paid), [(p.question_id, p.text) for p in prompts], concurrency])
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, plan], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_process_does_not_pay_twice(
    server: AnswerServer, prompts: list[Prompt], make: Make, tmp_path: Path
) -> None:
    children: list[subprocess.Popen[str]] = []
    born = threading.Event()

    def kill(count: int) -> None:
        if count == 6:  # while the sixth request is under way
            born.wait(10)
            os.kill(children[0].pid, signal.SIGKILL)

    server.on_request = kill
    children.append(start(server, prompts, tmp_path / "paid.sqlite", 1))
    born.set()
    out, err = children[0].communicate(timeout=30)
    assert children[0].returncode == -signal.SIGKILL, err
    assert out.split() == [prompt.question_id for prompt in prompts[:2]]
    assert len(server.bodies) == 6
    server.on_request = lambda _count: None
    server.bodies.clear()
    draw(make(server), prompts, {0: 0.1, 1: 1.0, 2: 1.0})
    assert len(server.bodies) == 12 - 5  # the five that were answered are there, half a question too
    assert server.asked == 18 - (3 * 1 + 2 * 2)


def test_ctrl_c_ends_promptly_and_keeps_what_came(
    server: AnswerServer, prompts: list[Prompt], make: Make, tmp_path: Path
) -> None:
    stuck, release = threading.Event(), threading.Event()

    def hang(count: int) -> None:
        if count > 5:
            stuck.set()
            release.wait(20)

    server.on_request = hang
    child = start(server, prompts, tmp_path / "paid.sqlite", 4)
    assert stuck.wait(20)
    time.sleep(0.3)  # the five answers arrive
    started = time.monotonic()
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    took = time.monotonic() - started
    release.set()
    assert (out.split()[-1], child.returncode) == ("interrupted", 0), err
    assert took < 5.0
    server.on_request = lambda _count: None
    server.bodies.clear()
    draw(make(server), prompts, {0: 0.1, 1: 1.0, 2: 1.0})
    assert len(server.bodies) == 12 - 5


@pytest.mark.parametrize("damage", ["garbage", "middle", "future"])
def test_a_damaged_file_says_so(
    damage: str, server: AnswerServer, prompts: list[Prompt], make: Make, tmp_path: Path
) -> None:
    draw(make(server), prompts)
    file = tmp_path / "paid.sqlite"
    if damage == "garbage":
        file.write_bytes(b"not a database, whatever its name says" * 200)
    elif damage == "middle":
        content = bytearray(file.read_bytes())
        content[4096:] = b"\xff" * (len(content) - 4096)
        file.write_bytes(content)
    else:
        base = sqlite3.connect(file)
        base.execute("PRAGMA user_version = 99")
        base.close()
    server.bodies.clear()
    with pytest.raises(DataError, match=r"paid\.sqlite.*(damaged|layout 99)"):
        draw(make(server), prompts)
    assert server.bodies == []


def test_two_processes_share_one_file(server: AnswerServer, prompts: list[Prompt], make: Make, tmp_path: Path) -> None:
    paid = tmp_path / "paid.sqlite"
    children = [start(server, part, paid, 2) for part in (prompts[:3], prompts[3:])]
    errors = [child.communicate(timeout=30)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    server.bodies.clear()
    assert len(draw(make(server), prompts, {0: 0.1, 1: 1.0, 2: 1.0})) == 6
    assert server.bodies == []
