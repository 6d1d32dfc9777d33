"""All that is known about one stage, declared once, as data, at the end of the stage's own file.

    STAGE = Stage("sentences", verb="map", work=embed_questions, reads=…, settings=…, writes=…)

`stage_list` lists the stages in order; `stage_graph` works out which of them a configuration needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ka2l.config.run_config import RunConfig
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.questions.question import Question

# The Context that stages work with. It stands above this file, so it is a parameter here.
ContextT = TypeVar("ContextT")
ANSWER_TOKENS = 6  # of a typical short answer; its length is not known in advance


class Identities(Protocol):
    """Names and revisions of what lies outside the configuration. A stage's `settings` read those it depends on."""

    @property
    def source(self) -> str:
        """Fingerprint of the questions' source."""

    @property
    def model(self) -> str:
        """Name, revision and type of the language model."""

    @property
    def labels(self) -> str:
        """Fingerprint of the answers people have given so far."""

    @property
    def imported(self) -> str:
        """Fingerprint of answers generated elsewhere."""

    @property
    def judge(self) -> str:
        """Name and revision of the model that judges answers."""

    @property
    def probe(self) -> str:
        """Hash of a probe trained before (`map.probe`)."""

    @property
    def state(self) -> str:
        """Layer and position of the hidden state the probe reads, once there is a probe."""

    @property
    def decoder(self) -> str:
        """Revision of a decoder trained before, or of the T5 one is made of."""

    @property
    def encoder(self) -> str:
        """Name and revision of the sentence embeddings that find near-copies among decoded questions."""

    @property
    def sentences(self) -> str:
        """Name and revision of the sentence embeddings of the pool's questions."""


class Lengths(NamedTuple):
    """Lengths in tokens of a typical question, of the prefix its prompts share, and of its teaching prompt."""

    own: int
    prefix: int
    teaching: int


@dataclass(frozen=True)
class Sizes:
    """What the cost of a stage is estimated from."""

    config: RunConfig
    roles: Mapping[str, int]  # questions of each role
    lengths: Lengths
    samples: Mapping[str, int] = field(default_factory=dict)  # by stage: samples a question has already

    def of_role(self, role: str) -> int:
        """Questions of a role."""
        return self.roles.get(role, 0)

    @property
    def selected(self) -> int:
        """Questions one arm selects."""
        return min(self.config.select.budget, self.of_role("pool"))

    @property
    def decoded(self) -> int:
        """Candidates decoded from hidden states."""
        return self.selected * self.config.augment.per_question

    def labelled(self, main: bool) -> int:
        """Labelled questions of an arm, at most: how many decoded ones will be kept is not known in advance."""
        new = min(self.config.augment.budget or self.selected, self.decoded) if main else 0
        return self.selected + new

    @property
    def replayed(self) -> int:
        """Known questions taught beside the labelled ones of an arm, at most: the map decides how many there are."""
        wanted = round(self.config.finetune.replay * self.selected)
        return min(wanted, self.of_role("pool") - self.selected)

    @property
    def answer(self) -> int:
        """Tokens of a sampled answer."""
        return min(ANSWER_TOKENS, self.config.sample.max_new_tokens)

    def sampling(self, stage: str, role: str, answers: int, temperatures: int = 1) -> "Cost":
        """The cost of asking every question of a role for so many answers, less those that are there.

        Args:
            stage: that asks.
            role: of the questions.
            answers: wanted for each question that has none yet.
            temperatures: how many of them these answers have: a server gives those of one temperature in one request.
        """
        begun = self.samples.get(stage, 0)
        if begun:
            answers, temperatures = max(self.config.sample.n - begun, 0), 1
        requests = min(answers, temperatures) if self.config.server.many else answers
        questions = self.of_role(role)
        here = self.config.sample.engine == "local"
        tokens = questions * (self.lengths.own + answers * self.answer) if here else 0
        return Cost(questions, tokens, prefix=True, answers=answers, requests=requests)


class Cost(NamedTuple):
    """An estimate of what a stage costs."""

    questions: int = 0
    tokens: int = 0  # that pass the model in this process
    weight: float = 1.0  # of one of these tokens, relative to a forward pass
    prefix: bool = False  # whether the prefix that all prompts share is computed too, once
    minutes: float = 0.0  # a limit on its time; 0: none
    answers: int = 0  # a server is asked for, a question
    requests: int = 0  # to a server, a question


def no_signals(_config: RunConfig, _arm: str) -> Sequence[str]:
    """The stage reads no signal of the pool."""
    return ()


def complete(_config: RunConfig, _record: StageRecord) -> bool:
    """A finished stage has all that is wanted of it."""
    return True


def nothing_refused(_config: RunConfig) -> None:
    """Every configuration will do."""


def nothing_needed(_config: RunConfig, _questions: Sequence[Question]) -> None:
    """Any questions will do."""


def nothing_inspected(_context: Any) -> None:
    """Nothing is looked at before the inputs are checked."""


def free(_sizes: Sizes, _arm: str) -> Cost:
    """No question is asked and no token is computed."""
    return Cost()


def nothing_shown(_context: Any, _done: frozenset[str]) -> Mapping[str, Any]:
    """The report has no part on this stage."""
    return {}


@dataclass(frozen=True)
class Stage(Generic[ContextT]):
    """One stage of the pipeline."""

    name: str
    verb: str  # the command that runs it
    work: Callable[[ContextT, Attempt], None]
    # Configuration, arm → the stages whose artifacts it reads, each with its arm.
    reads: Callable[[RunConfig, str], Sequence[str]]
    # All else that changes its output. The content key hashes this and the keys of the inputs.
    settings: Callable[[RunConfig, str, Identities], Any]
    writes: tuple[Written, ...]
    # Signals of the pool it computes, and those it reads: the stages that compute them are inputs too.
    gives: tuple[str, ...] = ()
    signals: Callable[[RunConfig, str], Sequence[str]] = no_signals
    # Inputs of which only a fact is read that `settings` has: their keys are not hashed.
    unhashed: tuple[str, ...] = ()
    # It works on whatever is finished: all finished stages are its inputs, and none is required.
    partial: bool = False
    # Whether a finished record has all this configuration wants, or something is to be added under the same key.
    complete: Callable[[RunConfig, StageRecord], bool] = complete
    # Raises, before anything is paid for, where this configuration, or these questions, cannot be worked with.
    refuses: Callable[[RunConfig], None] = nothing_refused
    needs: Callable[[RunConfig, Sequence[Question]], None] = nothing_needed
    # Raises before inputs are checked, where its own error is clearer than "out of date".
    inspects: Callable[[ContextT], None] = nothing_inspected
    costs: Callable[[Sizes, str], Cost] = free
    # Context, finished stages → its part of the report.
    shows: Callable[[ContextT, frozenset[str]], Mapping[str, Any]] = nothing_shown
