"""Answers from any OpenAI-compatible server: vLLM, TGI, llama.cpp, Ollama, commercial APIs. See docs/servers.md.

    ka2l run recipe.yaml sample.engine=server server.url=http://localhost:8000/v1 server.model=NAME

Each answer is in the file of paid answers before anybody sees it: after `kill -9`, and when more samples are wanted,
only what is missing is asked for. `wire` talks HTTP, `dialect` knows what servers take, `paid` keeps the answers.
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
from ka2l.models.server.http_requests import Clock, Sleep, Wire
from ka2l.models.server.paid_answers import PaidAnswers, answer_key
from ka2l.models.settings import ServerConfig


class _Terms(NamedTuple):
    """What all questions of one call are asked with."""

    temperatures: Mapping[int, float]
    seed: int
    max_new_tokens: int


class _Open(NamedTuple):
    """A question, the keys of the answers wanted by sample, and those that are there; `answers` fills as they come."""

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

    The seed of a request derives from (run seed, question id, samples in it) and is best effort: a server need not
    honour it, and few give the same answer whatever else they compute at the time. What makes a run repeatable is
    the file of paid answers.

    Args:
        config: the server.
        paid: the SQLite file of paid answers; made where it is missing.
        say: told once of each thing the server does not do (also in `notes`).
        clock: seconds, for the rate of requests.
        sleep: waits, for rate and retries.

    Raises:
        ModelError: an address, name or key that cannot be right.
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
        self._wire = Wire(config, clock=clock, sleep=sleep)
        self._dialect = Dialect(config.endpoint, config.model, logprobs=config.logprobs, many=config.many)

    @property
    def notes(self) -> list[str]:
        """What the server was found not to do, as sentences for the user."""
        return [f"{self._wire.base} {note}." for note in self._dialect.notes]

    def sample(
        self,
        prompts: Sequence[Prompt],
        temperatures: Mapping[int, float],
        *,
        seed: int,
        max_new_tokens: int,
        position: Position | None = None,
    ) -> Iterator[SampledQuestion]:
        """See `Sampler.sample`. Questions already paid for come first, then the others as they are completed.

        Raises:
            ModelError: states were asked for, a chat has no messages, or the server will not answer.
            DataError: the file of paid answers is damaged.
        """
        if position is not None:
            raise ModelError(
                "A server gives answers, not hidden states. Take those from a model in this process: "
                "sample.states=same or surrogate with model.name, or sample.states=none to do without."
            )
        if self.config.endpoint == "chat":
            silent = [prompt.question_id for prompt in prompts if not prompt.messages]
            if silent:
                raise ModelError(
                    f"question {silent[0]}: server.endpoint=chat needs the prompt as messages, and it has none "
                    f"({len(silent)} such questions). Use server.endpoint=completions."
                )
        return self._sample(prompts, _Terms(dict(temperatures), seed, max_new_tokens))

    def _sample(self, prompts: Sequence[Prompt], terms: _Terms) -> Iterator[SampledQuestion]:
        with PaidAnswers(self._paid, self._wire.base, self.config.model) as paid:
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
        """Ask for what is missing, in the event loop of another thread: requests go on while the caller is busy.

        Leaving early, for whatever reason, Ctrl-C included, cancels what is under way.
        """
        workers = self.config.concurrency
        with start_blocking_portal() as portal:
            send, receive = anyio.create_memory_object_stream[SampledQuestion | Exception](workers)
            work = _Round(self._request, questions, terms, self._dialect, paid, send)
            portal.start_task_soon(work.run, self._wire, workers)
            for _ in questions:
                came = portal.call(receive.receive)
                self._tell()
                if isinstance(came, Exception):
                    raise came
                yield came

    async def _request(self, client: httpx2.AsyncClient, ask: Ask) -> list[Choice]:
        """The choices one request brings: at least one, perhaps fewer than asked for."""
        dialect = self._dialect

        def read(told: Any) -> tuple[list[Choice], Usage]:
            return dialect.read(told, ask), _usage(told)

        about = f"question {ask.prompt.question_id}"
        choices, usage = await self._wire.post(client, lambda: dialect.body(ask), read, dialect.learn, about)
        self.usage += usage
        return choices

    def _keys(self, prompt: Prompt, terms: _Terms) -> dict[int, str]:
        return {
            sample: answer_key(
                self.config.endpoint,
                prompt,
                sample,
                temperature=heat,
                max_new_tokens=terms.max_new_tokens,
                seed=terms.seed,
            )
            for sample, heat in terms.temperatures.items()
        }

    def _tell(self) -> None:
        notes = self.notes
        for note in notes[self._said :]:
            self._say(note)
        self._said = len(notes)


class _Round:
    """The requests of one call: as many workers as requests may be under way, and one heap of work."""

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
        self._fresh = self._asks(questions)
        self._rest: deque[tuple[_Open, Ask]] = deque()

    async def run(self, wire: Wire, workers: int) -> None:
        """Until every question is sent, or one error is."""
        try:
            async with wire.client() as client, anyio.create_task_group() as group:
                for _ in range(workers):
                    group.start_soon(self._work, client)
        except Exception as error:
            alone: Exception = error
            while isinstance(alone, ExceptionGroup):  # the first; the others are the same trouble
                alone = alone.exceptions[0]
            await self._send.send(alone)

    async def _work(self, client: httpx2.AsyncClient) -> None:
        while job := self._rest.popleft() if self._rest else next(self._fresh, None):
            question, ask = job
            self._take(question, ask, await self._request(client, ask))
            if question.complete:
                await self._send.send(question.result())

    def _take(self, question: _Open, ask: Ask, choices: list[Choice]) -> None:
        """Keep what came, put what did not back on the heap."""
        came, blank = {}, []
        for sample, choice in zip(ask.samples, choices, strict=False):
            # Nothing before the stop: the model began with a line break, which must not end an answer.
            if ask.stop and self._dialect.stops and not choice.text.strip() and not choice.cut:
                blank.append(sample)
            else:
                came[sample] = to_answer(choice)
        self._paid.put(
            {question.keys[sample]: answer for sample, answer in came.items()},
            logprobs=self._dialect.logprobs,
        )
        question.answers.update(came)
        if not ask.stop and any(answer.text for answer in came.values()):
            # A stop costs this model's answers; tokens after the line are the lesser price.
            self._dialect.drop("stop")
        late = ask.samples[len(choices) :]
        if late:
            self._dialect.drop("n")
        self._rest += [(question, a) for a in self._shaped(question.prompt, ask.temperature, late, ask.stop)]
        self._rest += [(question, a) for a in self._shaped(question.prompt, ask.temperature, blank, False)]

    def _asks(self, questions: list[_Open]) -> Iterator[tuple[_Open, Ask]]:
        """One request after another, shaped by what is known of the server when its turn comes."""
        for question in questions:
            heats: dict[float, list[int]] = {}
            for sample, heat in self._terms.temperatures.items():
                if sample not in question.answers:
                    heats.setdefault(heat, []).append(sample)
            for heat, samples in heats.items():
                for ask in self._shaped(question.prompt, heat, samples, True):
                    yield question, ask

    def _shaped(self, prompt: Prompt, heat: float, samples: Iterable[int], stop: bool) -> list[Ask]:
        """All samples in one request, or one in each; greedy ones are alike, and vLLM refuses several."""
        every = tuple(samples)
        groups = [every] if every and self._dialect.many and heat > 0 else [(sample,) for sample in every]
        return [
            Ask(prompt, group, heat, self._terms.max_new_tokens, self._terms.seed, stop) for group in groups
        ]


def _usage(told: dict[str, Any]) -> Usage:
    """What the server says it computed; a prompt it had in its cache counts as saved. Zeros where it does not say."""
    try:
        used = told.get("usage") or {}
        prompt, decoded = int(used.get("prompt_tokens") or 0), int(used.get("completion_tokens") or 0)
        cached = min(int((used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0), prompt)
    except (AttributeError, TypeError, ValueError):
        return Usage()  # the answers are paid for, whatever stands beside them
    return Usage(prompt=prompt - cached, prompt_saved=cached, decoded=decoded)
