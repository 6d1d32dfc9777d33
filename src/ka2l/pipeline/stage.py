"""The declaration of a stage: everything the program knows about it, as data, at the end of the stage's own file.

    STAGE = Stage("sentences", verb="map", work=embed_questions, reads=…, settings=…, writes=…)

`stage_list` lists the stages in order; `stage_graph` works out which of them a configuration needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import samples_locally
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import Attempt, Written
from ka2l.questions.question import Question

# The Context that stages work with. This file may not import it, so it is a type parameter here.
ContextT = TypeVar("ContextT")
# Tokens assumed for a short answer: its length is not known in advance.
ANSWER_TOKENS = 6


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
        """Layer and position of the hidden state the probe reads; empty before there is a probe."""

    @property
    def decoder(self) -> str:
        """Revision of a pretrained decoder, or of the T5 model that a decoder is trained from."""

    @property
    def encoder(self) -> str:
        """Name and revision of the sentence encoder that finds near-copies among decoded questions."""

    @property
    def sentences(self) -> str:
        """Name and revision of the sentence encoder of the pool's questions."""


class Lengths(NamedTuple):
    """Lengths in tokens of a typical question, of the prefix its prompts share, and of its teaching prompt."""

    own: int
    prefix: int
    teaching: int


@dataclass(frozen=True)
class Sizes:
    """What the cost of a stage is estimated from."""

    config: RunConfig
    # Number of questions by role.
    roles: Mapping[str, int]
    lengths: Lengths
    # Samples each question already has, by stage.
    samples: Mapping[str, int] = field(default_factory=dict)

    def of_role(self, role: str) -> int:
        """Number of questions of a role."""
        return self.roles.get(role, 0)

    @property
    def selected(self) -> int:
        """Number of questions one arm selects."""
        return min(self.config.select.budget, self.of_role("pool"))

    @property
    def decoded(self) -> int:
        """Number of candidates decoded from hidden states."""
        return self.selected * self.config.augment.per_question

    def labelled(self, main: bool) -> int:
        """Upper bound of an arm's labelled questions: how many decoded ones are kept is not known in advance."""
        new = min(self.config.augment_budget, self.decoded) if main else 0
        return self.selected + new

    @property
    def replayed(self) -> int:
        """Upper bound of an arm's replayed questions: the map decides how many known questions there are."""
        wanted = round(self.config.finetune.replay * self.selected)
        return min(wanted, self.of_role("pool") - self.selected)

    @property
    def answer(self) -> int:
        """Assumed number of tokens of a sampled answer."""
        return min(ANSWER_TOKENS, self.config.sample.max_new_tokens)

    def sampling(self, stage: str, role: str, answers: int, temperatures: int = 1) -> "Cost":
        """The cost of sampling answers to every question of a role, minus the samples that exist already.

        Args:
            stage: the stage that samples.
            role: role of the questions.
            answers: samples of a question that has none yet.
            temperatures: number of different temperatures among them. A server returns all answers of one temperature
                in one request.
        """
        sampled = self.samples.get(stage, 0)
        if sampled:
            answers, temperatures = max(self.config.sample.n - sampled, 0), 1
        requests = min(answers, temperatures) if self.config.server.many else answers
        questions = self.of_role(role)
        local = samples_locally(self.config)
        tokens = questions * (self.lengths.own + answers * self.answer) if local else 0
        return Cost(questions, tokens, prefix=True, answers=answers, requests=requests)


class Cost(NamedTuple):
    """An estimate of what a stage costs."""

    questions: int = 0
    # Tokens that the model in this process computes.
    tokens: int = 0
    # Cost of one of these tokens relative to a forward pass.
    weight: float = 1.0
    # Whether the prefix that all prompts share is computed too, once.
    prefix: bool = False
    # Time limit; 0: none.
    minutes: float = 0.0
    # Answers and requests to a server, per question.
    answers: int = 0
    requests: int = 0


def no_signals(_config: RunConfig, _arm: str) -> Sequence[str]:
    """Read no signal of the pool."""
    return ()


def complete(_config: RunConfig, _record: StageRecord) -> bool:
    """Treat every finished stage as complete."""
    return True


def nothing_refused(_config: RunConfig) -> None:
    """Accept every configuration."""


def nothing_needed(_config: RunConfig, _questions: Sequence[Question]) -> None:
    """Accept any questions."""


def nothing_inspected(_context: Any) -> None:
    """Check nothing before the inputs are checked."""


def free(_sizes: Sizes, _arm: str) -> Cost:
    """Cost nothing: no question is asked and no token is computed."""
    return Cost()


def nothing_shown(_context: Any, _done: frozenset[str]) -> Mapping[str, Any]:
    """Add nothing to the report."""
    return {}


@dataclass(frozen=True)
class Stage(Generic[ContextT]):
    """One stage of the pipeline."""

    name: str
    # The command that runs it.
    verb: str
    work: Callable[[ContextT, Attempt], None]
    # Configuration, arm → the stages whose artifacts it reads, each with its arm.
    reads: Callable[[RunConfig, str], Sequence[str]]
    # Everything else that changes its output. The content key hashes this and the keys of the inputs.
    settings: Callable[[RunConfig, str, Identities], Any]
    writes: tuple[Written, ...]
    # Signals of the pool it computes, and those it reads: the stages that compute them are inputs too.
    gives: tuple[str, ...] = ()
    signals: Callable[[RunConfig, str], Sequence[str]] = no_signals
    # Inputs whose keys are not hashed: the stage reads only a fact of theirs that `settings` contains.
    unhashed: tuple[str, ...] = ()
    # If true, all finished stages are its inputs, and none is required.
    partial: bool = False
    # Whether a finished record has everything this configuration needs. If not, the stage adds to its artifacts under
    # the same key.
    complete: Callable[[RunConfig, StageRecord], bool] = complete
    # Raise an error, before anything is paid for, if the stage cannot work with this configuration or these questions.
    refuses: Callable[[RunConfig], None] = nothing_refused
    needs: Callable[[RunConfig, Sequence[Question]], None] = nothing_needed
    # Raises an error before the inputs are checked, if that error is clearer than "out of date".
    inspects: Callable[[ContextT], None] = nothing_inspected
    costs: Callable[[Sizes, str], Cost] = free
    # Context, finished stages → the stage's part of the report.
    shows: Callable[[ContextT, frozenset[str]], Mapping[str, Any]] = nothing_shown
