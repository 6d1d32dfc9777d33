"""Requests for an OpenAI-compatible server, its replies, and which parameters it supports.

Servers differ in the parameters they accept. The first request contains all parameters; those that the server refuses
are left out of all later requests.

Answers must come from the model's own distribution at the requested temperature. Servers truncate it by default (vLLM
by the model's generation_config.json, llama.cpp and Ollama by top-k 40), so requests also turn that off.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ka2l.models.interface import Answer, Prompt
from ka2l.models.prompts import is_finished, trim_answer
from ka2l.models.settings import Endpoint

# Not part of OpenAI's API: vLLM and llama.cpp support all three, other servers ignore or refuse them.
_UNCUT = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_OPTIONAL = ("max_tokens", "logprobs", "top_logprobs", "stop", "seed", "top_p", *_UNCUT, "n")
# Parameters that are left out together.
_TOGETHER = ({"logprobs", "top_logprobs"}, set(_UNCUT))
# What the user is told about a parameter that is left out; the server's address comes before it.
_NOTES = {
    "logprobs": "gives no token log-probabilities: scores that need them are missing",
    "n": "gives one answer a request: the prompt is paid once per answer",
    "seed": "does not support a seed: the answers stored here cannot be drawn again",
    "top_p": "does not support top_p=1: it may leave out unlikely answers, which lowers semantic entropy",
    "top_k": "does not support top_k, min_p and repetition_penalty: if it sets them itself, semantic entropy is wrong",
}


class Ask(NamedTuple):
    """One request: some samples of one question at one temperature; `stop`: whether to stop at a line break."""

    prompt: Prompt
    samples: tuple[int, ...]
    temperature: float
    max_new_tokens: int
    seed: int
    stop: bool = True


class Refused(Exception):  # noqa: N818  (not a failure yet: another form of the request may be accepted)
    """A request that the server refused: HTTP status, the server's message, and the parameter it names, if any."""

    def __init__(self, status: int, message: str, parameter: str = ""):
        super().__init__(f"{status}: {message}")
        self.status, self.message, self.parameter = status, message, parameter

    def names(self, parameter: str) -> bool:
        """Whether the refusal is about this parameter."""
        return self.parameter == parameter or self.place(parameter) >= 0

    def place(self, parameter: str) -> int:
        """Where the message mentions the parameter; -1: nowhere."""
        patterns = {
            "logprobs": r"log_?\s?prob",
            "n": r"(?<!\\)\bn\b|one completion|number of (choices|completions)|best_of",
        }
        match = re.search(patterns.get(parameter, rf"\b{parameter}\b"), self.message, re.IGNORECASE)
        return match.start() if match else -1


class Choice(NamedTuple):
    """One generated text as the server sent it, and its tokens, if the server sends them."""

    text: str
    pieces: list[bytes]
    logprobs: list[float]
    cut: bool
    """Whether it ended at max_tokens."""


class Dialect:
    """The requests that one server accepts.

    Args:
        endpoint: `chat` or `completions`.
        model: the model's name on the server.
        logprobs: whether to request token log-probabilities.
        many: whether to request several answers at once.

    Attributes:
        notes: what the user should know about the server, each note once.
        logprobs: whether log-probabilities are wanted, even if the server gives none.
    """

    def __init__(self, endpoint: Endpoint, model: str, *, logprobs: bool, many: bool):
        self.endpoint, self.model = endpoint, model
        self.notes: list[str] = []
        self.logprobs = logprobs
        self._dropped: set[str] = set()
        if not logprobs:
            self._dropped |= {"logprobs", "top_logprobs"}
        if not many:
            self._dropped.add("n")
        if endpoint == "chat":
            # A chat model ends its turn by itself, and an answer that begins with a line break must not be cut there.
            self._dropped.add("stop")

    @property
    def many(self) -> bool:
        """Whether to request several answers at once."""
        return "n" not in self._dropped

    @property
    def stops(self) -> bool:
        """Whether requests contain a stop sequence."""
        return "stop" not in self._dropped

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request as JSON."""
        chat = self.endpoint == "chat"
        body: dict[str, Any] = {"model": self.model, "temperature": ask.temperature}
        body |= {"messages": list(ask.prompt.messages)} if chat else {"prompt": ask.prompt.text}
        optional: dict[str, Any] = {"max_tokens": ask.max_new_tokens, "top_p": 1.0, **_UNCUT}
        optional["seed"] = _request_seed(ask)
        # Without top_logprobs llama.cpp sends 20 alternatives a token, with 0 no log-probabilities at all.
        optional |= {"logprobs": True, "top_logprobs": 1} if chat else {"logprobs": 1}
        if ask.stop:
            optional["stop"] = ["\n"]
        if len(ask.samples) > 1:
            optional["n"] = len(ask.samples)
        if "max_tokens" in self._dropped:
            body["max_completion_tokens"] = ask.max_new_tokens
        return body | {name: value for name, value in optional.items() if name not in self._dropped}

    def learn(self, body: dict[str, Any], refused: Refused) -> bool:
        """Whether leaving a parameter out of `body` may help; if so, it is left out of all later requests."""
        if refused.status in (401, 403, 404, 408, 409, 429):
            return False
        if about_temperature(refused) or about_length(refused):
            return False
        renamed = self.endpoint == "chat" and _wants_another_name(refused)
        sent = [name for name in _OPTIONAL if name in body and (name != "max_tokens" or renamed)]
        # With these statuses llama.cpp refuses n. For all other parameters they mean that the server failed.
        if refused.status in (500, 502, 503, 504):
            sent = [name for name in sent if name == "n"]
        if refused.parameter in sent:
            self.drop(refused.parameter)
            return True
        named = [(refused.place(name), name) for name in sent if refused.place(name) >= 0]
        if named:
            self.drop(min(named)[1])
            return True
        # Without a reason that is understood here, one answer at a time is the simplest request. A refused limit on the
        # answer's length is kept: without a limit, some servers cut answers at about 16 tokens.
        if "n" in sent and refused.status in (400, 422, 501) and not refused.names("max_tokens"):
            self.drop("n")
            return True
        return False

    def drop(self, name: str) -> None:
        """Leave this parameter out of all later requests, with those in its group of `_TOGETHER`."""
        group = next((names for names in _TOGETHER if name in names), {name})
        if not group <= self._dropped:
            self._dropped |= group
            self.note(next((_NOTES[member] for member in sorted(group) if member in _NOTES), ""))

    def note(self, text: str) -> None:
        """Add a note for the user, unless it is empty or already there."""
        if text and text not in self.notes:
            self.notes.append(text)

    def read(self, reply: Any, ask: Ask) -> list[Choice]:
        """The choices of a reply, at most as many as were requested, in the order of their index.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: the reply does not have the expected form.
        """
        listed = sorted(reply["choices"], key=lambda choice: choice.get("index") or 0)[: len(ask.samples)]
        if not listed:
            raise ValueError("no choices")
        choices = [_chat_choice(c) if self.endpoint == "chat" else _text_choice(c) for c in listed]
        if self.logprobs and any(choice.text.strip() and not choice.logprobs for choice in choices):
            self.note(_NOTES["logprobs"])
        if any(choice.cut and not choice.text.strip() for choice in choices):
            self.note(
                "used all tokens of an answer without visible text, as reasoning models do: those answers are empty. "
                "Turn the reasoning off, or raise sample.max_new_tokens"
            )
        return choices


def about_temperature(refused: Refused) -> bool:
    """Whether the refusal says that the model accepts no temperature, or not this one."""
    pattern = r"not support|unsupported|only the default|deprecated|not allowed"
    unsupported = re.search(pattern, refused.message, re.I) is not None
    return refused.parameter == "temperature" or (refused.place("temperature") >= 0 and unsupported)


def about_length(refused: Refused) -> bool:
    """Whether the refusal says that the prompt, or prompt and answer together, are too long for the model."""
    pattern = (
        r"context.?(length|size|window)|max_new_tokens`? must be <=|"
        r"\b(prompt|inputs?|messages|request|max_tokens|max_completion_tokens)\b.{0,30}\btoo (long|large)"
    )
    return refused.status in (400, 413, 422) and re.search(pattern, refused.message, re.I | re.S) is not None


def _wants_another_name(refused: Refused) -> bool:
    """Whether `max_tokens` is refused as such; newer chat models call it `max_completion_tokens`."""
    pattern = r"not support|unsupported|unrecognized|not permitted|extra_forbidden|use\b.{0,20}max_completion_tokens"
    return refused.names("max_tokens") and re.search(pattern, refused.message, re.I) is not None


def to_answer(choice: Choice) -> Answer:
    """The answer in a choice: its first line that is not blank, and the log-probabilities of its tokens (nats).

    They begin with the first generated token and end with the token in which the answer ends. Line breaks after the
    answer and end-of-turn tokens, which some servers report, are not counted.
    """
    text = trim_answer(choice.text)
    ended = is_finished(choice.text) or not choice.cut
    count = _tokens_of(text, choice.pieces)
    return Answer(text, choice.logprobs[:count], "stop" if ended else "length")


def _tokens_of(text: str, pieces: Sequence[bytes]) -> int:
    """How many of the first pieces make up this text. White space is not compared, because some servers drop it."""
    wanted = _squeezed(text.encode())
    if not wanted:
        return 0
    if _squeezed(b"".join(pieces)).startswith(wanted):
        length = 0
        for index, piece in enumerate(pieces):
            length += len(_squeezed(piece))
            if length >= len(wanted):
                return index + 1
    # The pieces are not the bytes of the text (a letter in two tokens, sent as two question marks): use the stop rule.
    for index, piece in enumerate(pieces):
        if is_finished(b"".join(pieces[: index + 1]).decode(errors="replace")):
            # A full stop and the line break after it may be one token.
            return index + bool(piece.split(b"\n")[0].strip())
    return len(pieces)


def _squeezed(text: bytes) -> bytes:
    """Without white space."""
    return b"".join(text.split())


def _chat_choice(choice: dict[str, Any]) -> Choice:
    return _choice(choice["message"].get("content"), choice)


def _text_choice(choice: dict[str, Any]) -> Choice:
    return _choice(choice["text"], choice)


def _choice(text: Any, choice: dict[str, Any]) -> Choice:
    if text is not None and not isinstance(text, str):
        raise TypeError("the answer is not text")
    # Half a surrogate pair cannot be stored as UTF-8.
    whole = (text or "").encode(errors="replace").decode()
    pieces, logprobs = _token_logprobs(choice.get("logprobs") or {})
    return Choice(whole, pieces, logprobs, choice.get("finish_reason") == "length")


def _token_logprobs(logprobs: Any) -> tuple[list[bytes], list[float]]:
    """Tokens and their log-probabilities in either endpoint's form (llama.cpp and Ollama use that of chat in both).

    If they cannot be read they count as missing, because the answer itself is usable and paid for.
    """
    try:
        if "content" in logprobs:
            tokens = logprobs["content"] or []
            pieces = [bytes(t["bytes"]) if t.get("bytes") else str(t["token"]).encode() for t in tokens]
            values = [float(t["logprob"]) for t in tokens]
        else:
            pieces = [str(token).encode(errors="replace") for token in logprobs.get("tokens") or []]
            values = [float(value) for value in logprobs.get("token_logprobs") or []]
    except (KeyError, TypeError, ValueError, AttributeError):
        return [], []
    usable = len(pieces) == len(values) and all(map(math.isfinite, values))
    return (pieces, values) if usable else ([], [])


def _request_seed(ask: Ask) -> int:
    """31 bits from (run seed, question id, samples). Servers need not use it."""
    name = f"{ask.seed}\0{ask.prompt.question_id}\0{ask.samples}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1
