"""HTTP requests to an OpenAI-compatible server: rate limit, retries, and refusals as errors that say what to do.

The key is read from the environment, sent in one header, and removed from everything that the server sends back.
"""

import json
import os
import random
import ssl
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import anyio
import httpx2
from pydantic import SecretStr

from ka2l.errors import ModelError
from ka2l.models.server.api_dialect import Refused, about_length, about_temperature
from ka2l.models.settings import ServerConfig

T = TypeVar("T")
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

# In seconds: the longest of the growing pauses between attempts, and the longest pause that a server may ask for.
_LONGEST_PAUSE = 60.0
_LONGEST_WAIT = 600.0
# Characters of the server's message in an error.
_MESSAGE_LENGTH = 300


class Pace:
    """Spaces requests evenly, `per_minute` of them (0: no limit), and can pause all of them."""

    def __init__(self, per_minute: int, clock: Clock, sleep: Sleep):
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._next = float("-inf")

    async def turn(self) -> None:
        """Wait for this request's turn."""
        now = self._clock()
        mine = max(now, self._next)
        self._next = mine + self._gap
        if mine > now:
            await self._sleep(mine - now)

    def hold(self, seconds: float) -> None:
        """Send no request for this long, because the server has asked for a pause."""
        self._next = max(self._next, self._clock() + seconds)


class _TryAgain(Exception):  # noqa: N818  (not a failure before the last attempt)
    """A failure that may be temporary."""


class HttpRequests:
    """Sends requests for one `ServerConfig`.

    Args:
        config: address, environment variable of the key, rate, retries, timeout.
        clock: current time in seconds, for the rate; replaced in tests.
        sleep: waits, for rate and retries; replaced in tests.

    Raises:
        ModelError: the address, the model's name or the key cannot be right.
    """

    def __init__(self, config: ServerConfig, *, clock: Clock = time.monotonic, sleep: Sleep = anyio.sleep):
        self._config = config
        self.base = _checked_address(config)
        self._key = _checked_key(config)
        # Created once, because loading the certificates takes longer than a request. Without TLS there are none to
        # load.
        tls = self.base.startswith("https")
        self._trust = httpx2.create_ssl_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._sleep = sleep
        self._pace = Pace(config.requests_per_minute, clock, sleep)
        self._path = "/chat/completions" if config.endpoint == "chat" else "/completions"

    def client(self) -> httpx2.AsyncClient:
        """Connections for as many requests as run at the same time; an async context manager."""
        key = self._key.get_secret_value()
        return httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            verify=self._trust,
            timeout=self._config.timeout,
            limits=httpx2.Limits(max_connections=self._config.concurrency),
        )

    async def post(
        self,
        client: httpx2.AsyncClient,
        build: Callable[[], dict[str, Any]],
        read: Callable[[Any], T],
        learn: Callable[[dict[str, Any], Refused], bool],
        about: str = "",
    ) -> T:
        """Send a request until it succeeds or fails for good.

        Temporary failures are tried again, with growing pauses or after the pause that the server asks for.

        Args:
            client: see `client`.
            build: makes the body; called for every attempt.
            read: turns the reply's JSON into the result.
            learn: called with the body and a refusal; if it returns true, a new body is sent at once.
            about: what the request is about, for messages.

        Raises:
            ModelError: the server refused the request for good, or the last attempt failed.
        """
        failed = 0
        while True:
            await self._pace.turn()
            body = build()
            try:
                return await self._once(client, body, read)
            except Refused as refused:
                if learn(body, refused):
                    continue
                if not _may_pass(refused):
                    raise self._final(refused, about) from None
                trouble = f"status {refused.status}: {refused.message}"
                wait = refused.wait if isinstance(refused, _Busy) else None
            except _TryAgain as again:
                trouble, wait = str(again), None
            failed += 1
            if failed > self._config.retries:
                raise self._gave_up(failed, trouble)
            await self._pause(failed, wait, trouble)

    async def _once(self, client: httpx2.AsyncClient, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        try:
            # This timeout is for the whole response; that of httpx is for each read.
            with anyio.fail_after(self._config.timeout):
                response = await client.post(self.base + self._path, json=body)
        except TimeoutError:
            raise _TryAgain(f"no complete response within {self._config.timeout:g} s (server.timeout)") from None
        except httpx2.RequestError as error:
            raise _TryAgain(self._redact(f"{type(error).__name__} {error}".strip())) from None
        text = response.text
        if not response.is_success:
            message, parameter = _message_of(text)
            raise _Busy(response.status_code, self._redact(message), parameter, _retry_after(response.headers))
        try:
            return read(json.loads(self._redact(text, at_least=16)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _TryAgain(f"an unreadable reply: {self._redact(text)[:_MESSAGE_LENGTH]!r}") from None

    async def _pause(self, failed: int, wait: float | None, trouble: str) -> None:
        if wait is None:
            wait = min(0.5 * 2 ** (failed - 1), _LONGEST_PAUSE) * random.uniform(0.75, 1.0)
        elif wait > _LONGEST_WAIT:
            raise ModelError(
                f"{self._who()} asks for a pause of {wait:.0f} s ({trouble[:_MESSAGE_LENGTH]}). Run the same command "
                "again later: the answers received so far are kept."
            )
        else:
            # All requests pause, because the others would be refused too.
            self._pace.hold(wait)
        await self._sleep(wait)

    def _redact(self, text: str, at_least: int = 1) -> str:
        """Remove the key from a text. A key shorter than `at_least` stays, because it could be a word of an answer."""
        key = self._key.get_secret_value()
        if len(key) < at_least:
            return text
        # Some servers escape slashes in JSON.
        escaped = key.replace("/", "\\/")
        return text.replace(key, "[key]").replace(escaped, "[key]")

    def _who(self) -> str:
        return f"{self.base}{self._path} (model {self._config.model})"

    def _gave_up(self, attempts: int, trouble: str) -> ModelError:
        return ModelError(
            f"{self._who()}: {_failed(attempts)} {trouble[:_MESSAGE_LENGTH]}\nFix: check that the server "
            "runs and can be reached at server.url; if it is busy, lower server.concurrency or set "
            "server.requests_per_minute. The answers received so far are kept: running the same command again "
            "continues there."
        )

    def _final(self, refused: Refused, about: str) -> ModelError:
        variable = self._config.api_key_env
        if about_temperature(refused):
            fix = (
                "this model supports no temperature but its own, like many reasoning models. KA2L draws answers at "
                "sample.temperature and one at sample.low_temperature: set both to 1 if the model accepts 1, or else "
                "use a model whose temperature can be set."
            )
        elif about_length(refused):
            fix = (
                f"{about or 'a question'}: prompt too long for this model with the answer's sample.max_new_tokens. "
                "Lower prompt.shots or sample.max_new_tokens, shorten the question, or configure the server for "
                "longer prompts."
            )
        elif refused.status in (401, 403) and self._key.get_secret_value():
            fix = f"the server does not accept the key in the environment variable {variable}."
        elif refused.status in (401, 403):
            fix = f"put your key into the environment variable {variable or '…'} (server.api_key_env names it)."
        elif refused.status in (404, 405) or refused.status < 400:
            fix = (
                f"check that the server knows the name server.model ({self.base}/models lists all names), that "
                "server.url ends with /v1, and that the server supports server.endpoint."
            )
        elif refused.status == 429:
            fix = "the account has no credit left. The answers received so far are kept."
        else:
            fix = (
                f"see the server's message ({about or 'any question'}); another attempt would not help. Is "
                "server.endpoint wrong, or the prompt too long?"
            )
        return ModelError(
            f"{self._who()} refused: status {refused.status}: {refused.message[:_MESSAGE_LENGTH]}\nFix: {fix}"
        )


def _failed(attempts: int) -> str:
    return "the only attempt failed with" if attempts == 1 else f"{attempts} attempts failed, the last with"


class _Busy(Refused):
    """A refusal, with the pause in seconds that the server asks for, if it does."""

    def __init__(self, status: int, message: str, parameter: str, wait: float | None):
        super().__init__(status, message, parameter)
        self.wait = wait


def _may_pass(refused: Refused) -> bool:
    """Whether the same request may succeed later."""
    # OpenAI sends status 429 if an account is empty.
    if "insufficient_quota" in refused.message:
        return False
    return refused.status in (408, 409, 429) or refused.status >= 500


def _message_of(text: str) -> tuple[str, str]:
    """Message and parameter ("" if none) of an error's body, in the form of OpenAI or FastAPI, or as plain text."""
    try:
        body = json.loads(text)
    except ValueError:
        return " ".join(text.split()), ""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return str(error), ""
    message = error.get("message") or error.get("detail") or error
    code = f" ({error['code']})" if isinstance(error.get("code"), str) else ""
    parameter = error.get("param")
    message = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    return message + code, parameter if isinstance(parameter, str) else ""


def _retry_after(headers: httpx2.Headers) -> float | None:
    """The pause that a response asks for, in seconds: `retry-after-ms`, or `Retry-After` as seconds or as a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(float(headers[name]) / unit, 0.0)
        except (KeyError, ValueError):
            pass
    try:
        return max(parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time(), 0.0)
    except (KeyError, ValueError):
        return None


def _checked_address(config: ServerConfig) -> str:
    if not config.url or not config.model:
        missing = "server.url" if not config.url else "server.model"
        raise ModelError(f"sample.engine=server needs {missing}, e.g. {missing}={_EXAMPLES[missing]}.")
    try:
        url = httpx2.URL(config.url)
    except (httpx2.InvalidURL, ValueError):
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        # The part after the question mark may be a key.
        shown = config.url.partition("?")[0]
        raise ModelError(f"server.url: {shown!r} is not an address such as {_EXAMPLES['server.url']}.")
    return str(url).rstrip("/")


_EXAMPLES = {"server.url": "http://localhost:8000/v1", "server.model": "meta-llama/Llama-3.1-8B-Instruct"}


def _checked_key(config: ServerConfig) -> SecretStr:
    key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ModelError(
            f"The value of the environment variable {config.api_key_env} cannot be a key: it contains spaces, "
            "line breaks or characters that are not ASCII."
        )
    return SecretStr(key)
