"""HTTP to an OpenAI-compatible server: at the agreed rate, again where that can help, its refusals in plain words.

The key is read from the environment, lives in one header, and is cut out of whatever the server sends back.
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

_LONGEST_PAUSE = 60.0  # seconds of growing pauses; a server that names its own may name ten times as many
_LONGEST_WAIT = 600.0
_WORDS = 300  # characters of the server's own words in a message


class Pace:
    """Spaces requests evenly, `per_minute` of them (0: no limit), and can be held up as a whole."""

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
        """No request for so long: the server has asked for it."""
        self._next = max(self._next, self._clock() + seconds)


class _TryAgain(Exception):  # noqa: N818  (not a failure before the last attempt)
    """Something passing; `wait` is how long the server asks us to stay away."""

    def __init__(self, what: str, wait: float | None = None):
        super().__init__(what)
        self.wait = wait


class Wire:
    """Sends requests for one `ServerConfig`.

    Args:
        config: address, key's environment variable, rate, retries, timeout.
        clock: seconds, for the rate.
        sleep: waits, for rate and retries; both are there for tests.

    Raises:
        ModelError: address, name or key cannot be right.
    """

    def __init__(self, config: ServerConfig, *, clock: Clock = time.monotonic, sleep: Sleep = anyio.sleep):
        self._config = config
        self.base = _checked_address(config)
        self._key = _checked_key(config)
        # Made once: loading the certificates takes longer than a request. Without TLS there is nobody to trust.
        tls = self.base.startswith("https")
        self._trust = httpx2.create_ssl_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._sleep = sleep
        self._pace = Pace(config.requests_per_minute, clock, sleep)
        self._path = "/chat/completions" if config.endpoint == "chat" else "/completions"

    def client(self) -> httpx2.AsyncClient:
        """Connections for as many requests as may be under way; an async context manager."""
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
        """What `read` makes of the reply to the body that `build` gives.

        `learn` hears of a refusal first; where it says so, the body is built anew and sent at once. Otherwise what
        may pass is tried again, with growing pauses or after as long as the server says. `about` names what is asked
        for, where a refusal is its fault.

        Raises:
            ModelError: refused for good, or still failing after the last attempt.
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
                trouble = f"status {refused.status}: {refused.words}"
                wait = refused.wait if isinstance(refused, _Busy) else None
            except _TryAgain as again:
                trouble, wait = str(again), None
            failed += 1
            if failed > self._config.retries:
                raise self._gave_up(failed, trouble)
            await self._pause(failed, wait, trouble)

    async def _once(self, client: httpx2.AsyncClient, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        try:
            with anyio.fail_after(self._config.timeout):  # of the whole response; httpx times each read alone
                response = await client.post(self.base + self._path, json=body)
        except TimeoutError:
            raise _TryAgain(f"no whole response within {self._config.timeout:g} s (server.timeout)") from None
        except httpx2.RequestError as error:
            raise _TryAgain(self._redact(f"{type(error).__name__} {error}".strip())) from None
        text = response.text
        if not response.is_success:
            words, parameter = _words_of(text)
            raise _Busy(response.status_code, self._redact(words), parameter, _retry_after(response.headers))
        try:
            return read(json.loads(self._redact(text, at_least=16)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _TryAgain(f"a reply that is not one: {self._redact(text)[:_WORDS]!r}") from None

    async def _pause(self, failed: int, wait: float | None, trouble: str) -> None:
        if wait is None:
            wait = min(0.5 * 2 ** (failed - 1), _LONGEST_PAUSE) * random.uniform(0.75, 1.0)
        elif wait > _LONGEST_WAIT:
            raise ModelError(
                f"{self._who()} asks to stay away for {wait:.0f} s ({trouble[:_WORDS]}). Give the same command again "
                "later: the answers that came are kept."
            )
        else:
            self._pace.hold(wait)  # all requests, or the others would run into the same wall
        await self._sleep(wait)

    def _redact(self, text: str, at_least: int = 1) -> str:
        """Without the key. In answers only a key long enough not to be a word of theirs is cut out."""
        key = self._key.get_secret_value()
        if len(key) < at_least:
            return text
        escaped = key.replace("/", "\\/")  # as some write JSON
        return text.replace(key, "[key]").replace(escaped, "[key]")

    def _who(self) -> str:
        return f"{self.base}{self._path} (model {self._config.model})"

    def _gave_up(self, attempts: int, trouble: str) -> ModelError:
        return ModelError(
            f"{self._who()}: {_failed(attempts)} {trouble[:_WORDS]}\nFix: see that the server "
            "runs and can be reached at server.url; for a busy one lower server.concurrency or set "
            "server.requests_per_minute. The answers that came are kept: the same command goes on."
        )

    def _final(self, refused: Refused, about: str) -> ModelError:
        variable = self._config.api_key_env
        if about_temperature(refused):
            fix = (
                "this model takes no temperature but its own, as models that reason do. KA2L draws answers at "
                "sample.temperature and one at sample.low_temperature: set both to 1 if the model takes 1, else "
                "take a model whose temperature can be set."
            )
        elif about_length(refused):
            fix = (
                f"{about or 'a question'}: prompt too long for this model with the answer's sample.max_new_tokens. Lower "
                "prompt.shots or sample.max_new_tokens, shorten the question, or have the server take longer prompts."
            )
        elif refused.status in (401, 403) and self._key.get_secret_value():
            fix = f"the key in the environment variable {variable} is not accepted here."
        elif refused.status in (401, 403):
            fix = (
                f"put your key into the environment variable {variable or '…'} (server.api_key_env names it)."
            )
        elif refused.status in (404, 405) or refused.status < 400:
            fix = (
                f"see that server.model is a name the server knows ({self.base}/models lists them), that server.url "
                "goes up to and with /v1, and that the server has server.endpoint."
            )
        elif refused.status == 429:
            fix = "the account has nothing left to spend. The answers that came are kept."
        else:
            fix = (
                f"see the server's words ({about or 'any question'}); asking again would not help. server.endpoint, or a "
                "prompt too long?"
            )
        return ModelError(
            f"{self._who()} refused: status {refused.status}: {refused.words[:_WORDS]}\nFix: {fix}"
        )


def _failed(attempts: int) -> str:
    return "the only attempt failed with" if attempts == 1 else f"{attempts} attempts failed, the last with"


class _Busy(Refused):
    """A refusal with the server's own idea of when to come back."""

    def __init__(self, status: int, words: str, parameter: str, wait: float | None):
        super().__init__(status, words, parameter)
        self.wait = wait


def _may_pass(refused: Refused) -> bool:
    if "insufficient_quota" in refused.words:  # OpenAI says 429 to an empty account
        return False
    return refused.status in (408, 409, 429) or refused.status >= 500


def _words_of(text: str) -> tuple[str, str]:
    """What an error body says, and the parameter it names ("" where none): OpenAI's shape, FastAPI's, or plain text."""
    try:
        told = json.loads(text)
    except ValueError:
        return " ".join(text.split()), ""
    error = told.get("error", told) if isinstance(told, dict) else told
    if not isinstance(error, dict):
        return str(error), ""
    words = error.get("message") or error.get("detail") or error
    code = f" ({error['code']})" if isinstance(error.get("code"), str) else ""
    parameter = error.get("param")
    said = words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)
    return said + code, parameter if isinstance(parameter, str) else ""


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds: `retry-after-ms`, or `Retry-After` as seconds or as a date."""
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
        shown = config.url.partition("?")[0]  # what follows may be a key
        raise ModelError(f"server.url: {shown!r} is no such address as {_EXAMPLES['server.url']}.")
    return str(url).rstrip("/")


_EXAMPLES = {"server.url": "http://localhost:8000/v1", "server.model": "meta-llama/Llama-3.1-8B-Instruct"}


def _checked_key(config: ServerConfig) -> SecretStr:
    key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ModelError(
            f"The environment variable {config.api_key_env} holds something that cannot be a key: it has spaces, "
            "line breaks or letters beyond ASCII."
        )
    return SecretStr(key)
