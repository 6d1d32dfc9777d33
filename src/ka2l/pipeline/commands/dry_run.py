"""`ka2l run --dry-run`: what a run would do and cost, from the questions and the model's shape alone.

Every stage declares its cost; this file converts it to tokens and seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ka2l.common.progress import Reporter
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import Limit, answered_by, has_model, has_stand_in, limit, samples_from_server
from ka2l.models.loading import ResolvedModel, resolve
from ka2l.models.model_shape import matrix_rate, parameter_count
from ka2l.models.prompts import Message
from ka2l.models.tokenizer import load_tokenizer
from ka2l.pipeline.arms import split_stage
from ka2l.pipeline.context import prompt_builder
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.stage import ANSWER_TOKENS, Cost, Lengths, Sizes
from ka2l.pipeline.stage_list import plan_of
from ka2l.pipeline.stages.finetune import training_steps
from ka2l.pipeline.stages.load import read_questions
from ka2l.questions.question import Question

# Share of the measured matrix rate that a whole stage reaches.
_EFFICIENCY = 0.5
# Characters per token, assumed if there is no tokenizer.
_CHARACTERS = 4


class StageEstimate(NamedTuple):
    """What one stage would do."""

    stage: str
    questions: int
    # Tokens that the model in this process computes.
    tokens: int
    seconds: float
    # Whether it is finished and would be skipped.
    done: bool


class ServerEstimate(NamedTuple):
    """Requests to a server and the tokens it would bill, without what was paid for before."""

    requests: int
    prompt_tokens: int
    answers: int
    answer_tokens: int


class LocalModelFacts(NamedTuple):
    """The model in this process."""

    resolved: ResolvedModel
    tokenizer: Any
    parameters: int
    # Floating-point operations per second of a matrix product, measured here.
    rate: float

    def seconds(self, cost: Cost, tokens: int) -> float:
        """Estimated seconds for this many tokens of a stage."""
        estimate = cost.weight * 2 * self.parameters * tokens / (self.rate * _EFFICIENCY)
        return min(estimate, 60 * cost.minutes) if cost.minutes else estimate


@dataclass(frozen=True)
class DryRun:
    """The plan of a run; tokens and seconds are estimates for short answers."""

    # The model that answers.
    model: str
    # Another model whose hidden states are read.
    stand_in: str | None
    local: LocalModelFacts | None
    server: ServerEstimate | None
    # Number of questions by role.
    questions: dict[str, int]
    duplicates_merged: int
    first_prompt: str
    # The first prompt as a chat server gets it.
    first_messages: list[Message] | None
    # None if nothing is fine-tuned.
    first_teaching_prompt: str | None
    # Optimizer steps of one arm.
    training_steps: int
    stages: list[StageEstimate]
    # Where the run has to end before `evaluate`.
    end: Limit | None

    @property
    def tokens(self) -> int:
        """Tokens of all stages."""
        return sum(row.tokens for row in self.stages)

    @property
    def seconds(self) -> float:
        """Seconds of all stages."""
        return round(sum(row.seconds for row in self.stages), 1)

    def as_json(self) -> dict[str, Any]:
        """The values of `--dry-run --json`. Values that do not apply are left out."""
        local, end = self.local, self.end
        return {
            "model": self.model,
            **({"stand_in": self.stand_in} if self.stand_in is not None else {}),
            **({"revision": local.resolved.revision, "parameters": local.parameters} if local else {}),
            **({"server": self.server._asdict()} if self.server else {}),
            "questions": self.questions,
            "duplicates_merged": self.duplicates_merged,
            "first_prompt": self.first_prompt,
            **({"first_messages": self.first_messages} if self.first_messages is not None else {}),
            **({} if self.first_teaching_prompt is None else {"first_teaching_prompt": self.first_teaching_prompt}),
            "training_steps": self.training_steps,
            "stages": [row._asdict() for row in self.stages],
            "tokens": self.tokens,
            "seconds": self.seconds,
            "answer_tokens": ANSWER_TOKENS,
            **({"gflops": round(local.rate / 1e9, 1)} if local else {}),
            **({"ends_after": end.last, "why": end.why} if end else {}),
        }


def dry_run(config: RunConfig, directory: RunDirectory | None = None) -> DryRun:
    """Estimate what `run` would do. Nothing is written.

    Args:
        config: configuration of the run.
        directory: the run that would continue with this configuration, if there is one: its finished stages cost
            nothing.
    """
    loaded = read_questions(config, directory)
    roles: dict[str, list[Question]] = {}
    for question in loaded.questions:
        roles.setdefault(question.role, []).append(question)
    counts = {role: len(questions) for role, questions in roles.items()}
    local = _local(config) if has_model(config) else None
    prompts = prompt_builder(config, roles.get("shot", []), lambda: local and local.tokenizer)
    example = next(iter(roles.get("probe") or loaded.questions)).question
    texts = (example, prompts.sensing(""), prompts.teaching(example))
    done, samples = _done(directory, loaded.fingerprint)
    sizes = Sizes(config, counts, Lengths(*(_length(local, text) for text in texts)), samples)
    rows, server_costs = _estimates(sizes, local, done)
    end = limit(config)
    chat = samples_from_server(config) and config.server.endpoint == "chat"
    steps = training_steps(sizes.selected + sizes.replayed, config.finetune)
    return DryRun(
        model=answered_by(config),
        stand_in=config.model.name if has_stand_in(config) else None,
        local=local,
        server=_server(sizes, server_costs) if server_costs else None,
        questions=counts,
        duplicates_merged=loaded.duplicates,
        first_prompt=prompts.sensing(example),
        first_messages=list(prompts.sensing_messages(example)) if chat else None,
        first_teaching_prompt=prompts.teaching(example) if end is None else None,
        training_steps=steps if end is None else 0,
        stages=rows,
        end=end,
    )


def _estimates(sizes: Sizes, local: LocalModelFacts | None, done: set[str]) -> tuple[list[StageEstimate], list[Cost]]:
    """An estimate for each stage, and the costs of the stages that ask a server."""
    rows, server_costs = [], []
    for stage, declared in plan_of(sizes.config).stages.items():
        cost = declared.costs(sizes, split_stage(stage)[1])
        tokens = 0 if stage in done or local is None else cost.tokens
        if tokens and cost.prefix:
            tokens += sizes.lengths.prefix
        seconds = round(local.seconds(cost, tokens), 1) if local else 0.0
        rows.append(StageEstimate(stage, cost.questions, tokens, seconds, stage in done))
        if cost.requests and stage not in done and samples_from_server(sizes.config):
            server_costs.append(cost)
    return rows, server_costs


def _done(directory: RunDirectory | None, fingerprint: str) -> tuple[set[str], dict[str, int]]:
    """The stages that would be skipped, and how many samples a question already has, by stage."""
    loaded = directory.stages.get("load") if directory is not None else None
    if directory is None or loaded is None or loaded.facts.get("fingerprint") != fingerprint:
        return set(), {}
    context = context_of(directory, Reporter(quiet=True))
    keys = context.keys()
    done = {stage for stage, key in keys.items() if context.is_done(stage, key)}
    finished = {stage: record for stage, record in directory.stages.items() if record.state == "done"}
    samples = {
        stage: int(record.facts["samples"])
        for stage, record in finished.items()
        if record.key == keys.get(stage) and "samples" in record.facts
    }
    return done, samples


def _server(sizes: Sizes, costs: Sequence[Cost]) -> ServerEstimate:
    requests = sum(cost.questions * cost.requests for cost in costs)
    answers = sum(cost.questions * cost.answers for cost in costs)
    prompt = sizes.lengths.prefix + sizes.lengths.own
    return ServerEstimate(requests, requests * prompt, answers, answers * sizes.answer)


def _local(config: RunConfig) -> LocalModelFacts:
    """The model's facts from its configuration. No weights are read."""
    resolved = resolve(config.model)
    tokenizer = load_tokenizer(config.model, resolved)
    return LocalModelFacts(resolved, tokenizer, parameter_count(config.model, resolved), matrix_rate())


def _length(local: LocalModelFacts | None, text: str) -> int:
    """Number of tokens of a text: counted, or estimated from its length without a tokenizer."""
    return len(local.tokenizer(text)["input_ids"]) if local else max(1, round(len(text) / _CHARACTERS))
