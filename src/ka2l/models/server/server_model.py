"""Answers from any OpenAI-compatible server: vLLM, TGI, llama.cpp, Ollama, commercial APIs. See docs/servers.md.

    ka2l run recipe.yaml sample.engine=server server.url=http://localhost:8000/v1 server.model=NAME

Each answer is written to the file of paid answers before it is used: after `kill -9`, and if more samples are wanted,
only missing answers are requested. `http_requests` sends requests, `api_dialect` builds them and reads replies,
`paid_answers` stores the answers.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx2
from anyio.from_thread import start_blocking_portal
from anyio.streams.memory import MemoryObjectSendStream

from ka2l.errors import ModelError
from ka2l.models.interface import Answer, Position, Prompt, SampledQuestion, Usage
from ka2l.models.server.api_dialect import Ask, Choice, Dialect, to_answer
from ka2l.models.server.http_requests import Clock, HttpRequests, Sleep
from ka2l.models.server.paid_answers import PaidAnswers, answer_key
from ka2l.models.settings import ServerConfig


class _Terms(NamedTuple):
    """What is the same for all questions of one call of `sample`."""

    temperatures: Mapping[int, float]
    seed: int
    max_new_tokens: int


class _Open(NamedTuple):
    """A question whose answers are not complete.

    `keys` has the key of every wanted answer by sample number, `answers` the answers received so far.
    """

    prompt: Prompt
    keys: Mapping[int, str]
    answers: dict[int, Answer]

    @property
    def complete(self) -> bool:
        return len(self.answers) == len(self.keys)

    def result(self) -> SampledQuestion:
        return SampledQuestion(self.prompt.question_id, [self.answers[sample] for sample in self.keys], None)


class ServerModel:
    """Implements `ka2l.models.interface.Sampler` over HTTP.

    The seed of a request derives from (run seed, question id, samples in it). Servers need not use it, and with most
    servers an answer also depends on what else they compute at the time. The file of paid answers makes a run
    repeatable.

    Args:
        config: the section `server` or `judge_server`.
        paid: the SQLite file of paid answers, created if it is missing.
        say: called once with each note about what the server does not support (see `notes`).
        clock: current time in seconds, for the rate of requests; replaced in tests.
        sleep: waits, for rate and retries; replaced in tests.

    Raises:
        ModelError: the address, the model's name or the key cannot be right.
    """

    def __init__(
        self,
        config: ServerConfig,
        paid: Path,
        *,
        say: Callable[[str], None] = lambda _text: None,
        clock: Clock = time.monotonic,
        sleep: Sleep = anyio.sleep,
    ):
        self.config = config
        self.usage = Usage()
        self._paid = paid
        self._say = say
        self._said = 0
        self._http = HttpRequests(config, clock=clock, sleep=sleep)
        self._dialect = Dialect(config.endpoint, config.model, logprobs=config.logprobs, many=config.many)

    @property
    def notes(self) -> list[str]:
        """What the server does not support, as sentences for the user."""
        return [f"{self._http.base} {note}." for note in self._dialect.notes]

    def sample(
        self,
        prompts: Sequence[Prompt],
        temperatures: Mapping[int, float],
        *,
        seed: int,
        max_new_tokens: int,
        position: Position | None = None,
    ) -> Iterator[SampledQuestion]:
        """See `Sampler.sample`. Questions with stored answers come first, then the others as they are completed.

        Raises:
            ModelError: states were requested, a prompt for chat has no messages, or the server does not answer.
            DataError: the file of paid answers is damaged.
        """
        if position is not None:
            raise ModelError(
                "A server gives answers, not hidden states. Read the states of a model in this process with "
                "sample.states=same or surrogate and model.name, or use none with sample.states=none."
            )
        if self.config.endpoint == "chat":
            silent = [prompt.question_id for prompt in prompts if not prompt.messages]
            if silent:
                raise ModelError(
                    f"question {silent[0]}: server.endpoint=chat needs the prompt as messages, but it has none "
                    f"({len(silent)} such questions). Use server.endpoint=completions."
                )
        return self._sample(prompts, _Terms(dict(temperatures), seed, max_new_tokens))

    def _sample(self, prompts: Sequence[Prompt], terms: _Terms) -> Iterator[SampledQuestion]:
        with PaidAnswers(self._paid, self._http.base, self.config.model) as paid:
            missing = []
            for prompt in prompts:
                keys = self._keys(prompt, terms)
                known = paid.get(list(keys.values()), logprobs=self.config.logprobs)
                question = _Open(prompt, keys, {s: known[key] for s, key in keys.items() if key in known})
                if question.complete:
                    yield question.result()
                else:
                    missing.append(question)
            if missing:
                yield from self._ask(missing, terms, paid)

    def _ask(self, questions: list[_Open], terms: _Terms, paid: PaidAnswers) -> Iterator[SampledQuestion]:
        """Request the missing answers in the event loop of another thread, so that requests run while the caller is
        busy.

        If the generator is left early, also by Ctrl-C, the requests that are running are cancelled.
        """
        workers = self.config.concurrency
        with start_blocking_portal() as portal:
            send, receive = anyio.create_memory_object_stream[SampledQuestion | Exception](workers)
            work = _Round(self._request, questions, terms, self._dialect, paid, send)
            portal.start_task_soon(work.run, self._http, workers)
            for _ in questions:
                result = portal.call(receive.receive)
                self._say_new_notes()
                if isinstance(result, Exception):
                    raise result
                yield result

    async def _request(self, client: httpx2.AsyncClient, ask: Ask) -> list[Choice]:
        """The choices of one request's reply: at least one, perhaps fewer than requested."""
        dialect = self._dialect

        def read(reply: Any) -> tuple[list[Choice], Usage]:
            return dialect.read(reply, ask), _usage(reply)

        about = f"question {ask.prompt.question_id}"
        choices, usage = await self._http.post(client, lambda: dialect.body(ask), read, dialect.learn, about)
        self.usage += usage
        return choices

    def _keys(self, prompt: Prompt, terms: _Terms) -> dict[int, str]:
        return {
            sample: answer_key(
                self.config.endpoint,
                prompt,
                sample,
                temperature=temperature,
                max_new_tokens=terms.max_new_tokens,
                seed=terms.seed,
            )
            for sample, temperature in terms.temperatures.items()
        }

    def _say_new_notes(self) -> None:
        notes = self.notes
        for note in notes[self._said :]:
            self._say(note)
        self._said = len(notes)


class _Round:
    """The requests of one call of `sample`: one worker per request that may run at a time, and one queue of work."""

    def __init__(
        self,
        request: Any,
        questions: list[_Open],
        terms: _Terms,
        dialect: Dialect,
        paid: PaidAnswers,
        send: MemoryObjectSendStream[SampledQuestion | Exception],
    ):
        self._request, self._terms, self._dialect, self._paid = request, terms, dialect, paid
        self._send = send
        # First requests, built when their turn comes, and requests for answers that an earlier one did not give.
        self._fresh = self._asks(questions)
        self._rest: deque[tuple[_Open, Ask]] = deque()

    async def run(self, http: HttpRequests, workers: int) -> None:
        """Work until every question is sent, or one error is."""
        try:
            async with http.client() as client, anyio.create_task_group() as group:
                for _ in range(workers):
                    group.start_soon(self._work, client)
        except Exception as error:
            # Only the first of a group: the others have the same cause.
            first: Exception = error
            while isinstance(first, ExceptionGroup):
                first = first.exceptions[0]
            await self._send.send(first)

    async def _work(self, client: httpx2.AsyncClient) -> None:
        while job := self._rest.popleft() if self._rest else next(self._fresh, None):
            question, ask = job
            self._take(question, ask, await self._request(client, ask))
            if question.complete:
                await self._send.send(question.result())

    def _take(self, question: _Open, ask: Ask, choices: list[Choice]) -> None:
        """Store the answers of a reply, and queue requests for those that are missing in it."""
        received, blank = {}, []
        for sample, choice in zip(ask.samples, choices, strict=False):
            # No text before the stop: the model began with a line break, which must not end an answer.
            if ask.stop and self._dialect.stops and not choice.text.strip() and not choice.cut:
                blank.append(sample)
            else:
                received[sample] = to_answer(choice)
        self._paid.put(
            {question.keys[sample]: answer for sample, answer in received.items()},
            logprobs=self._dialect.logprobs,
        )
        question.answers.update(received)
        if not ask.stop and any(answer.text for answer in received.values()):
            # With a stop this model's answers are lost; without one, only the tokens after the line are wasted.
            self._dialect.drop("stop")
        missing = ask.samples[len(choices) :]
        if missing:
            self._dialect.drop("n")
        self._rest += [(question, a) for a in self._shaped(question.prompt, ask.temperature, missing, ask.stop)]
        self._rest += [(question, a) for a in self._shaped(question.prompt, ask.temperature, blank, False)]

    def _asks(self, questions: list[_Open]) -> Iterator[tuple[_Open, Ask]]:
        """The requests for all missing answers, each built when its turn comes, with what is then known of the
        server.
        """
        for question in questions:
            by_temperature: dict[float, list[int]] = {}
            for sample, temperature in self._terms.temperatures.items():
                if sample not in question.answers:
                    by_temperature.setdefault(temperature, []).append(sample)
            for temperature, samples in by_temperature.items():
                for ask in self._shaped(question.prompt, temperature, samples, True):
                    yield question, ask

    def _shaped(self, prompt: Prompt, temperature: float, samples: Iterable[int], stop: bool) -> list[Ask]:
        """All samples in one request, or one in each. Greedy samples are equal, and vLLM refuses several in a
        request.
        """
        every = tuple(samples)
        together = bool(every) and self._dialect.many and temperature > 0
        groups = [every] if together else [(sample,) for sample in every]
        terms = self._terms
        return [Ask(prompt, group, temperature, terms.max_new_tokens, terms.seed, stop) for group in groups]


def _usage(reply: dict[str, Any]) -> Usage:
    """The tokens that a reply reports; prompt tokens from the server's cache count as saved. Zeros if it reports
    none.
    """
    try:
        used = reply.get("usage") or {}
        prompt, decoded = int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0)
        cached = min(int((used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0), prompt)
    except (AttributeError, TypeError, ValueError):
        # The answers are paid for and usable even if the usage cannot be read.
        return Usage()
    return Usage(prompt=prompt - cached, prompt_saved=cached, decoded=decoded)
