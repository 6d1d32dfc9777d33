"""What an OpenAI-compatible server understands: requests built for it, its replies read, its refusals learned from.

Servers differ in what they take. We begin by asking for everything and leave out what is refused, for good.

Answers must come from the model's own distribution at the temperature asked for. Servers cut it by default (vLLM by
the model's generation_config.json, llama.cpp and Ollama by top-k 40), so the request says no to that as well.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ka2l.models.interface import Answer, Prompt
from ka2l.models.prompts import is_finished, trim_answer

# Not OpenAI's own: vLLM and llama.cpp know all three, others ignore or refuse them.
_UNCUT = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_OPTIONAL = ("max_tokens", "logprobs", "top_logprobs", "stop", "seed", "top_p", *_UNCUT, "n")
_TOGETHER = ({"logprobs", "top_logprobs"}, set(_UNCUT))
_NOTES = {
    "logprobs": "gives no token log-probabilities: scores that need them are missing",
    "n": "gives one answer a request: the prompt is paid once per answer",
    "seed": "takes no seed: the answers kept here cannot be drawn again",
    "top_p": "takes no top_p=1: it may leave out unlikely answers, which lowers semantic entropy",
    "top_k": "takes no top_k, min_p and repetition_penalty: where it sets them itself, semantic entropy is off",
}


class Ask(NamedTuple):
    """One request: some samples of one question at one temperature."""

    prompt: Prompt
    samples: tuple[int, ...]
    temperature: float
    max_new_tokens: int
    seed: int
    stop: bool = True


class Refused(Exception):  # noqa: N818  (not a failure yet: another form of the request may do)
    """A request the server will not have as it is: HTTP status, its words, and the parameter it names, if it does."""

    def __init__(self, status: int, words: str, parameter: str = ""):
        super().__init__(f"{status}: {words}")
        self.status, self.words, self.parameter = status, words, parameter

    def names(self, parameter: str) -> bool:
        """Whether the refusal is about this parameter."""
        return self.parameter == parameter or self.place(parameter) >= 0

    def place(self, parameter: str) -> int:
        """Where the words mention it; -1: nowhere."""
        spoken = {
            "logprobs": r"log_?\s?prob",
            "n": r"(?<!\\)\bn\b|one completion|number of (choices|completions)|best_of",
        }
        found = re.search(spoken.get(parameter, rf"\b{parameter}\b"), self.words, re.IGNORECASE)
        return found.start() if found else -1


class Choice(NamedTuple):
    """One generated text as it came, and its tokens, where the server tells them."""

    text: str
    pieces: list[bytes]
    logprobs: list[float]
    cut: bool  # ended at max_tokens


class Dialect:
    """How one server is spoken to. `notes` collects what its user should know, each once."""

    def __init__(self, endpoint: str, model: str, *, logprobs: bool, many: bool):
        self.endpoint, self.model = endpoint, model
        self.notes: list[str] = []
        self.logprobs = logprobs  # whether they are wanted, got or not
        self._dropped: set[str] = set()
        if not logprobs:
            self._dropped |= {"logprobs", "top_logprobs"}
        if not many:
            self._dropped.add("n")
        if endpoint == "chat":
            # A chat model ends its turn by itself, and one that begins with a line break must not be cut there.
            self._dropped.add("stop")

    @property
    def many(self) -> bool:
        """Whether several answers a request are worth asking for."""
        return "n" not in self._dropped

    @property
    def stops(self) -> bool:
        """Whether requests say where to stop."""
        return "stop" not in self._dropped

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request as JSON."""
        chat = self.endpoint == "chat"
        body: dict[str, Any] = {"model": self.model, "temperature": ask.temperature}
        body |= {"messages": list(ask.prompt.messages)} if chat else {"prompt": ask.prompt.text}
        wishes: dict[str, Any] = {"max_tokens": ask.max_new_tokens, "top_p": 1.0, **_UNCUT}
        wishes["seed"] = _request_seed(ask)
        # Without top_logprobs llama.cpp sends 20 alternatives a token, with 0 none at all.
        wishes |= {"logprobs": True, "top_logprobs": 1} if chat else {"logprobs": 1}
        if ask.stop:
            wishes["stop"] = ["\n"]
        if len(ask.samples) > 1:
            wishes["n"] = len(ask.samples)
        if "max_tokens" in self._dropped:
            body["max_completion_tokens"] = ask.max_new_tokens
        return body | {name: value for name, value in wishes.items() if name not in self._dropped}

    def learn(self, body: dict[str, Any], refused: Refused) -> bool:
        """Whether leaving something out of `body` may help; if so it is left out from now on."""
        if refused.status in (401, 403, 404, 408, 409, 429):
            return False
        if about_temperature(refused) or about_length(refused):
            return False
        renamed = self.endpoint == "chat" and _wants_another_name(refused)
        sent = [name for name in _OPTIONAL if name in body and (name != "max_tokens" or renamed)]
        if refused.status in (500, 502, 503, 504):
            sent = [
                name for name in sent if name == "n"
            ]  # llama.cpp refuses n so; else a failure is a failure
        if refused.parameter in sent:
            self.drop(refused.parameter)
            return True
        named = [(refused.place(name), name) for name in sent if refused.place(name) >= 0]
        if named:
            self.drop(min(named)[1])
            return True
        # A limit on answers that is refused as such stays: without one, servers cut them at 16 tokens or so.
        if "n" in sent and refused.status in (400, 422, 501) and not refused.names("max_tokens"):
            self.drop("n")  # no reason given that we understand; one answer at a time is the plainest request
            return True
        return False

    def drop(self, name: str) -> None:
        """Leave this parameter out from now on, with those that share its fate."""
        group = next((names for names in _TOGETHER if name in names), {name})
        if not group <= self._dropped:
            self._dropped |= group
            self.note(next((_NOTES[member] for member in sorted(group) if member in _NOTES), ""))

    def note(self, text: str) -> None:
        """Remember something for the user, once."""
        if text and text not in self.notes:
            self.notes.append(text)

    def read(self, reply: Any, ask: Ask) -> list[Choice]:
        """The choices of a reply, at most as many as were asked for, in the order of their index.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: the reply is not of the form it should have.
        """
        listed = sorted(reply["choices"], key=lambda choice: choice.get("index") or 0)[: len(ask.samples)]
        if not listed:
            raise ValueError("no choices")
        choices = [_chat_choice(c) if self.endpoint == "chat" else _text_choice(c) for c in listed]
        if self.logprobs and any(choice.text.strip() and not choice.logprobs for choice in choices):
            self.note(_NOTES["logprobs"])
        if any(choice.cut and not choice.text.strip() for choice in choices):
            self.note(
                "spent all its tokens and said nothing visible, as models that reason do: those answers are empty. "
                "Turn the reasoning off, or raise sample.max_new_tokens"
            )
        return choices


def about_temperature(refused: Refused) -> bool:
    """Whether the model takes no temperature, or not this one."""
    plain = re.search(r"not support|unsupported|only the default|deprecated|not allowed", refused.words, re.I)
    return refused.parameter == "temperature" or (refused.place("temperature") >= 0 and plain is not None)


def about_length(refused: Refused) -> bool:
    """Whether the prompt, or prompt and answer together, are longer than the model takes."""
    long = (
        r"context.?(length|size|window)|max_new_tokens`? must be <=|"
        r"\b(prompt|inputs?|messages|request|max_tokens|max_completion_tokens)\b.{0,30}\btoo (long|large)"
    )
    return refused.status in (400, 413, 422) and re.search(long, refused.words, re.I | re.S) is not None


def _wants_another_name(refused: Refused) -> bool:
    """Whether `max_tokens` is not taken at all, or to be called `max_completion_tokens`, as newer chat models have it."""
    plain = r"not support|unsupported|unrecognized|not permitted|extra_forbidden|use\b.{0,20}max_completion_tokens"
    return refused.names("max_tokens") and re.search(plain, refused.words, re.I) is not None


def to_answer(choice: Choice) -> Answer:
    """The answer within a choice: its first line with text on it, and the log-probabilities of its tokens.

    They begin with the first token generated and end with the one the answer ends in: neither a line break nor an
    end-of-turn token that some servers report is counted.
    """
    text = trim_answer(choice.text)
    ended = is_finished(choice.text) or not choice.cut
    count = _tokens_of(text, choice.pieces)
    return Answer(text, choice.logprobs[:count], "stop" if ended else "length")


def _tokens_of(text: str, pieces: Sequence[bytes]) -> int:
    """How many of the first pieces make up this text. White space is not compared: some servers lose it."""
    wanted = _squeezed(text.encode())
    if not wanted:
        return 0
    if _squeezed(b"".join(pieces)).startswith(wanted):
        length = 0
        for index, piece in enumerate(pieces):
            length += len(_squeezed(piece))
            if length >= len(wanted):
                return index + 1
    # Pieces that are not the text's bytes (a letter in two tokens, shown as two question marks): the stop rule.
    for index, piece in enumerate(pieces):
        if is_finished(b"".join(pieces[: index + 1]).decode(errors="replace")):
            return index + bool(
                piece.split(b"\n")[0].strip()
            )  # a full stop and its line break may be one token
    return len(pieces)


def _squeezed(text: bytes) -> bytes:
    return b"".join(text.split())


def _chat_choice(choice: dict[str, Any]) -> Choice:
    return _choice(choice["message"].get("content"), choice)


def _text_choice(choice: dict[str, Any]) -> Choice:
    return _choice(choice["text"], choice)


def _choice(text: Any, choice: dict[str, Any]) -> Choice:
    if text is not None and not isinstance(text, str):
        raise TypeError("the answer is not text")
    whole = (text or "").encode(errors="replace").decode()  # half a surrogate pair can be stored nowhere
    pieces, logprobs = _told(choice.get("logprobs") or {})
    return Choice(whole, pieces, logprobs, choice.get("finish_reason") == "length")


def _told(logprobs: Any) -> tuple[list[bytes], list[float]]:
    """Tokens and their log-probabilities in either endpoint's form (llama.cpp and Ollama use the chat's in both).

    What cannot be read counts as not told: the answer beside it is paid for.
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
    """31 bits from (run seed, question id, samples). Best effort: a server need not honour it."""
    name = f"{ask.seed}\0{ask.prompt.question_id}\0{ask.samples}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1
