"""What the stages of one run share: the run directory, the model in memory, the prompts, the questions."""

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ka2l.common.progress import Reporter
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_model
from ka2l.errors import ConfigError, DegenerateError, ModelError, RunError
from ka2l.models.interface import Prompt
from ka2l.models.loading import ResolvedModel
from ka2l.models.prompts import PromptBuilder, Shot, render_chat
from ka2l.pipeline.content_keys import keys
from ka2l.pipeline.identities import RunIdentities, given_probe
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import Attempt, RunDirectory
from ka2l.pipeline.stage_graph import Plan
from ka2l.questions.question import Question, from_table

if TYPE_CHECKING:
    from ka2l.models.interface import Sampler
    from ka2l.models.local.local_model import LocalModel


class _ModelInMemory:
    """The language model that contexts share: one at a time is in memory."""

    model: "LocalModel | None" = None
    adapter: Path | None = None


class Context:
    """One run at work, with one configuration. Models are loaded when first needed and kept until `release`.

    Args:
        run: the run directory.
        reporter: progress and notes.
        plan: the stages its configuration needs.
        beside: a context of another configuration with the same model and prompts, whose loaded model is shared.
    """

    def __init__(
        self, run: RunDirectory, reporter: Reporter, plan: Plan["Context"], beside: "Context | None" = None
    ):
        self.run = run
        self.reporter = reporter
        self.plan = plan
        self.identities = RunIdentities(run)
        self._memory: _ModelInMemory = _ModelInMemory() if beside is None else beside._memory
        if beside is not None:
            one, other = ([config.model, config.prompt] for config in (self.config, beside.config))
            if one != other:
                raise ValueError(
                    "contexts share a model only where the settings `model` and `prompt` are equal"
                )

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.run.config

    @property
    def resolved(self) -> ResolvedModel:
        """Name, place and revision of the language model in this process; not for runs that have none."""
        return self.identities.resolved

    def keys(self) -> dict[str, str]:
        """The content key every stage has, or would have, with this configuration and what is loaded."""
        return keys(self.config, self.plan, self.identities)

    @cached_property
    def base_key(self) -> str:
        """What the base model's answers depend on, besides the question: its prompt and its worked examples too."""
        config = self.config
        asked_as = [config.prompt.model_dump(mode="json"), self.identities.probe, config.seed]
        depends = [self.keys()["load"], self.identities.model, asked_as]
        depends.append([config.evaluate.temperature, config.evaluate.max_new_tokens])
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]

    def is_done(self, stage: str, key: str) -> bool:
        """Whether a stage is finished under this key, with all this configuration wants of it."""
        declared = self.plan.stages[stage]
        return self.run.is_done(stage, key, declared.writes) and declared.complete(
            self.config, self.run.stages[stage]
        )

    def attempt(self, stage: str) -> Attempt:
        """A stage with its key and inputs, which are checked to be finished.

        Raises:
            RunError: as `require`.
        """
        declared = self.plan.stages[stage]
        declared.inspects(self)
        now = self.keys()
        if declared.partial:
            inputs = {other: key for other, key in now.items() if other != stage and self.is_done(other, key)}
        else:
            inputs = self.require(stage)
        return Attempt(self.run, stage, now[stage], inputs, declared.writes)

    def require(self, stage: str) -> dict[str, str]:
        """Check that the stages this one reads are finished and up to date; returns their keys.

        Raises:
            RunError: one is missing or stale; the message names the verb to run.
        """
        now = self.keys()
        for needed in self.plan.inputs[stage]:
            self._check_done(needed, stage, now)
        return {needed: now[needed] for needed in self.plan.inputs[stage]}

    def _check_done(self, needed: str, stage: str, now: dict[str, str]) -> None:
        if self.is_done(needed, now[needed]):
            return
        verb = self.plan.stages[needed].verb
        was = "out of date" if needed in self.run.stages else "missing"
        settings = "".join(f" {shlex.quote(override)}" for override in self.run.overrides)
        # `load` begins a run from a recipe, and has no form for one that is there.
        alone = "" if verb == "load" else f"`ka2l {verb} {self.run.path}{settings}`, or "
        what = (
            f"`{self.plan.stages[stage].verb}` reads what `{verb}` writes, and that"
            if stage != needed
            else f"what `{verb}` writes"
        )
        raise RunError(
            f"{self.run.path}: {what} is {was}. Run {alone}`ka2l run --out {self.run.path}{settings}` for everything."
        )

    def require_done(self, stage: str) -> None:
        """Check that this stage itself is finished and up to date; errors as `require`."""
        self._check_done(stage, stage, self.keys())

    def questions(self, role: str) -> list[Question]:
        """The questions of one role."""
        return [question for batch in self.question_batches(role, 4096) for question in batch]

    def question_batches(
        self, role: str | None, size: int, wanted: Callable[[str], bool] | None = None
    ) -> Iterator[list[Question]]:
        """Questions streamed from disk in their order, in lists of exactly `size`, the last one shorter.

        Args:
            role: of the questions; None: of any role.
            size: of the lists.
            wanted: whether the question of an id is wanted; None: all are.
        """
        import pyarrow.parquet as pq

        waiting: list[Question] = []
        for batch in pq.ParquetFile(self.run.file("questions.parquet")).iter_batches(batch_size=4096):
            rows = from_table(batch)
            if role is not None:
                rows = [question for question in rows if question.role == role]
            waiting += rows if wanted is None else [question for question in rows if wanted(question.id)]
            while len(waiting) >= size:
                yield waiting[:size]
                waiting = waiting[size:]
        if waiting:
            yield waiting

    def ids(self, role: str) -> list[str]:
        """Ids of the questions of one role, in their order; the questions are not held."""
        return [question.id for batch in self.question_batches(role, 4096) for question in batch]

    def questions_by_id(self, ids: set[str] | None = None) -> dict[str, Question]:
        """Questions by id: these, or all."""
        return {
            question.id: question
            for batch in self.question_batches(None, 4096)
            for question in batch
            if ids is None or question.id in ids
        }

    def model(self, adapter: Path | None = None) -> "LocalModel":
        """The language model, with this adapter merged in; one model is in memory at a time."""
        from ka2l.models.local.local_model import LocalModel

        if self._memory.model is None or self._memory.adapter != adapter:
            self.release()
            self._memory.model = LocalModel.load(
                self.config.model,
                self.resolved,
                template=self.config.prompt.template,
                adapter=adapter,
                say=self.reporter.say,
            )
            self._memory.adapter = adapter
        return self._memory.model

    def release(self) -> None:
        """Drop the model from memory."""
        self._memory.model = None

    @cached_property
    def prompts(self) -> PromptBuilder:
        """The run's prompt builder; worked examples come from the questions of role `shot`."""
        return prompt_builder(self.config, self.questions("shot"), lambda: self.tokenizer)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer; its weights are not needed for it."""
        from ka2l.models.tokenizer import load_tokenizer

        return load_tokenizer(self.config.model, self.resolved)

    def sensing_prompt(self, question: Question) -> Prompt:
        """The prompt a question is asked with, for a server as a conversation too."""
        messages = (
            self.prompts.sensing_messages(question.question) if self.config.sample.engine == "server" else ()
        )
        return Prompt(question.id, self.prompts.sensing(question.question), messages)

    def prepared_model(self, *, teaching: bool = False, adapter: Path | None = None) -> "LocalModel":
        """The model with the prefix of the sensing (or teaching) prompt computed."""
        prompts = self.prompts
        model = self.model(adapter)
        model.share_prefix(prompts.teaching if teaching else prompts.sensing)
        return model


def prompt_builder(
    config: RunConfig, shots: Sequence[Question], tokenizer: Callable[[], Any]
) -> PromptBuilder:
    """The builder of both prompts; a tokenizer is only touched where its chat template is asked for.

    Raises:
        ConfigError: a server is to complete a chat template that no tokenizer here can write.
        ModelError: the model's tokenizer has no chat template.
    """
    worked = [Shot(question.question, question.answers[0]) for question in shots if question.answers]
    settings = config.prompt
    if config.map.probe:
        # The worked examples belong to the prompt whose states the probe reads, so they come with it.
        trained_with = given_probe(config.map.probe, config.map.probe_revision).card["prompt"]["shots"]
        worked = [Shot(*shot) for shot in trained_with]
        settings = settings.model_copy(update={"shots": len(worked)})
    if settings.template == "chat" and not has_model(config):
        if config.sample.engine == "server" and config.server.endpoint == "completions":
            raise ConfigError(
                "prompt.template=chat with server.endpoint=completions needs the chat template of an open model, and "
                "sample.states=none leaves out model.name. Use server.endpoint=chat, or prompt.template=plain."
            )
        settings = settings.model_copy(update={"template": "plain"})  # the server has the template
    if settings.template == "plain":
        return PromptBuilder(settings, worked)
    speaker = tokenizer()
    if not getattr(speaker, "chat_template", None):
        raise ModelError(
            f"prompt.template is 'chat', but {config.model.name} has no chat template. Use prompt.template=plain, "
            "or a chat model."
        )
    return PromptBuilder(settings, worked, partial(render_chat, speaker))


def add_usage(record: StageRecord, model: "Sampler", prefix: str = "") -> None:
    """Add the tokens a model has spent since the last call to a stage's record; the prefix says whose they are."""
    from ka2l.models.interface import Usage

    for name, count in model.usage._asdict().items():
        if count or not prefix:
            record.tokens[prefix + name] = record.tokens.get(prefix + name, 0) + count
    model.usage = Usage()


def need_questions(number: int, role: str, stage: str) -> None:
    """Refuse an empty role."""
    if number == 0:
        raise DegenerateError(
            f"`{stage}` has no questions: none has the role {role}. Give questions.roles.{role} a size, or a role column."
        )
