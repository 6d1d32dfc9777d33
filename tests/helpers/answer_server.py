"""A real HTTP server on this machine that answers like vLLM, with a tiny model, and fails on command.

    with AnswerServer(Brain(folder)) as server:
        server.faults += [status(429, {"Retry-After": "2"}), drop_midway()]   # one per request, in order
        server.refuses = {"n"}                                                # a 400 that names the parameter
        ...; server.bodies                                                    # every request received

As vLLM does, it gives the log-probability at temperature 1 of every generated token, including those of the end of turn
and of the stop string, and leaves both out of the text.
"""

import json
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

Fault = Callable[["Handler", dict[str, Any]], None]


class Generated(NamedTuple):
    """One answer to a prompt: the text without its end marker, the tokens and log-probabilities with it."""

    text: str
    tokens: list[str]
    logprobs: list[float]
    finish_reason: str


class Brain:
    """The tiny model, run token by token without a cache: a plain reference for comparisons."""

    def __init__(self, folder: Path):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._one_at_a_time = threading.Lock()

    def chat(self, messages: list[dict[str, str]]) -> str:
        """The prompt of a conversation: this template adds nothing, so that both endpoints give the same answers."""
        return "".join(message["content"] for message in messages)

    def generate(self, body: dict[str, Any], index: int) -> Generated:
        import torch

        prompt = body["prompt"] if "prompt" in body else self.chat(body["messages"])
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 16
        random = torch.Generator().manual_seed(body.get("seed", 0) + index)
        tokens: list[int] = []
        logprobs: list[float] = []
        with self._one_at_a_time, torch.inference_mode():
            for _ in range(limit):
                logits = self.model(torch.tensor([ids + tokens])).logits[0, -1]
                temperature = body.get("temperature", 1.0)
                token = logits.argmax()
                if temperature > 0:
                    token = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=random)[0]
                tokens.append(int(token))
                logprobs.append(float(torch.log_softmax(logits, -1)[token]))
                text = self.tokenizer.decode(tokens, skip_special_tokens=True)
                ended = int(token) == self.tokenizer.eos_token_id
                stops = [text.index(stop) for stop in body.get("stop") or [] if stop in text]
                if ended or stops:
                    break
        pieces = [self.tokenizer.decode([token]) for token in tokens]
        return Generated(
            text[: min(stops)] if stops else text, pieces, logprobs, "stop" if ended or stops else "length"
        )


class Script:
    """Replaces the model by given texts, one per answer; the last one repeats. Each character is a token."""

    def __init__(self, *texts: str | None, finish_reason: str = "stop"):
        self.texts, self.finish_reason = deque(texts), finish_reason

    def generate(self, body: dict[str, Any], index: int) -> Generated:  # noqa: ARG002
        text = self.texts.popleft() if len(self.texts) > 1 else self.texts[0]
        for stop in body.get("stop") or []:
            text = text.split(stop)[0] if text else text
        return Generated(text, list(text or ""), [-0.5] * len(text or ""), self.finish_reason)  # type: ignore[arg-type]


class Dice:
    """Replaces the model by a number that depends on prompt, temperature and seed, for tests of the requests alone."""

    def generate(self, body: dict[str, Any], index: int) -> Generated:
        asked = [body.get("prompt"), body.get("messages"), body["temperature"], body.get("seed"), index]
        text = f" City {zlib.crc32(json.dumps(asked).encode()) % 9999}"
        return Generated(text, [text[:5], text[5:], "\n"], [-0.25, -0.5, -0.75], "stop")


class AnswerServer:
    """Listens on a free port of this machine while the context is open."""

    def __init__(self, brain: Brain | Script | Dice, clock: Callable[[], float] = time.monotonic):
        self.brain, self.clock = brain, clock
        self.faults: deque[Fault] = deque()
        self.refuses: set[str] = set()
        self.most_choices = 100
        self.delay = 0.0
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.on_request: Callable[[int], None] = lambda _count: None
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"owner": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> "AnswerServer":
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def asked(self) -> int:
        """Answers asked for so far, in all requests."""
        return sum(body.get("n", 1) for body in self.bodies)

    def reply(self, body: dict[str, Any], chat: bool) -> dict[str, Any]:
        """The reply of an OpenAI-compatible server."""
        count = min(body.get("n", 1), self.most_choices)
        made = [self.brain.generate(body, index) for index in range(count)]
        choices = [_choice(index, one, chat, bool(body.get("logprobs"))) for index, one in enumerate(made)]
        used = {"prompt_tokens": 11, "completion_tokens": sum(len(one.tokens) for one in made)}
        # reversed: only the index of a choice gives its place
        return {"model": body["model"], "choices": choices[::-1], "usage": used}


def _choice(index: int, made: Generated, chat: bool, logprobs: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": made.finish_reason, "logprobs": None}
    pairs = list(zip(made.tokens, made.logprobs, strict=True))
    if chat:
        choice["message"] = {"role": "assistant", "content": made.text}
        told: Any = {"content": [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in pairs]}
    else:
        choice["text"] = made.text
        told = {"tokens": made.tokens, "token_logprobs": made.logprobs}
    return choice | ({"logprobs": told} if logprobs else {})


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    owner: AnswerServer
    protocol_version = "HTTP/1.1"
    # otherwise each reply waits 40 ms for an acknowledgement
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        owner = self.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with owner.lock:
            owner.bodies.append(body)
            owner.times.append(owner.clock())
            owner.keys.append(self.headers.get("Authorization", ""))
            owner.at_once += 1
            owner.most_at_once = max(owner.most_at_once, owner.at_once)
            fault = owner.faults.popleft() if owner.faults else None
            count = len(owner.bodies)
        try:
            owner.on_request(count)
            time.sleep(owner.delay)
            self._answer(body, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with owner.lock:
                owner.at_once -= 1

    def _answer(self, body: dict[str, Any], fault: Fault | None) -> None:
        refused = sorted(name for name in self.owner.refuses if name in body and (name != "n" or body[name] > 1))
        if fault is not None:
            fault(self, body)
        elif self.path not in ("/v1/completions", "/v1/chat/completions"):
            self.send(404, {"error": {"message": f"no such route: {self.path}"}})
        elif refused:
            self.send(400, {"error": {"message": f"Unsupported parameter: '{refused[0]}'.", "param": refused[0]}})
        else:
            self.send(200, self.whole(body))

    def whole(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.owner.reply(body, self.path.endswith("/chat/completions"))

    def send(self, code: int, content: Any, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        """Send JSON (or bytes); with `cut` only so many bytes of it, then hang up."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:cut])
        self.close_connection = cut is not None

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def status(code: int, headers: dict[str, str] | None = None, /, message: str = "no", **error: str | None) -> Fault:
    """An error in OpenAI's shape."""
    return lambda handler, _body: handler.send(code, {"error": {"message": message, **error}}, headers)


def plain(code: int, text: str) -> Fault:
    """An error, or a reply, that is any text."""
    return lambda handler, _body: handler.send(code, text.encode())


def drop_midway() -> Fault:
    """A correct reply that breaks off after 60 bytes."""
    return lambda handler, body: handler.send(200, handler.whole(body), cut=60)


def truncated() -> Fault:
    """A complete response with incomplete JSON."""
    return lambda handler, body: handler.send(200, json.dumps(handler.whole(body)).encode()[:-20])


def hang_up() -> Fault:
    """No reply: the connection is closed."""

    def fault(handler: Handler, _body: dict[str, Any]) -> None:
        handler.close_connection = True

    return fault


def slow(seconds: float) -> Fault:
    """A correct reply, late."""

    def fault(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(seconds)
        handler.send(200, handler.whole(body))

    return fault


def echo_key(code: int) -> Fault:
    """An error that repeats the request's headers, as debugging proxies do."""

    def fault(handler: Handler, _body: dict[str, Any]) -> None:
        handler.send(code, {"error": {"message": f"cannot serve {dict(handler.headers.items())}"}})

    return fault
