"""What the stages of a run share: the run directory, the model in memory, the prompts and the questions."""

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ka2l.common.progress import Reporter
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_model, samples_from_server
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


class Context:
    """A run with its configuration, while it works. The model is loaded when first needed and kept until `release`.

    Args:
        run: the run directory.
        reporter: progress and notes.
        plan: the stages the run's configuration needs.
        beside: a context of another configuration with the same model and prompts, whose loaded model, tokenizer and
            model revision are shared.
    """

    def __init__(self, run: RunDirectory, reporter: Reporter, plan: Plan["Context"], beside: "Context | None" = None):
        self.run = run
        self.reporter = reporter
        self.plan = plan
        self.identities: RunIdentities = RunIdentities(run, None if beside is None else beside.identities)
        # Of the contexts that share a model, the one that holds it.
        self._owner: Context = self if beside is None else beside._owner
        self._model: LocalModel | None = None
        self._adapter: Path | None = None
        if beside is not None:
            own, shared = ([config.model, config.prompt] for config in (self.config, beside.config))
            if own != shared:
                raise ValueError("contexts share a model only where the settings `model` and `prompt` are equal")

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.run.config

    @property
    def resolved(self) -> ResolvedModel:
        """Name, place and revision of the language model in this process; only for runs that have one."""
        return self.identities.resolved

    def keys(self) -> dict[str, str]:
        """The content key of every stage with this configuration, models and questions."""
        return keys(self.config, self.plan, self.identities)

    @cached_property
    def base_key(self) -> str:
        """Hash of everything the base model's answers depend on besides the question, worked examples included."""
        config = self.config
        prompted = [config.prompt.model_dump(mode="json"), self.identities.probe, config.seed]
        hashed = [self.keys()["load"], self.identities.model, prompted]
        hashed.append([config.evaluate.temperature, config.evaluate.max_new_tokens])
        return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]

    def is_done(self, stage: str, key: str) -> bool:
        """Whether a stage is finished under this key, with everything this configuration needs of it."""
        declared = self.plan.stages[stage]
        return self.run.is_done(stage, key, declared.writes) and declared.complete(self.config, self.run.stages[stage])

    def attempt(self, stage: str) -> Attempt:
        """A stage with its key and its inputs, after a check that the inputs are finished.

        Raises:
            RunError: as `require`.
        """
        declared = self.plan.stages[stage]
        declared.inspects(self)
        key_of = self.keys()
        if declared.partial:
            inputs = {other: key for other, key in key_of.items() if other != stage and self.is_done(other, key)}
        else:
            inputs = self._required(stage, key_of)
        return Attempt(self.run, stage, key_of[stage], inputs, declared.writes)

    def require(self, stage: str) -> dict[str, str]:
        """Check that the stages this one reads are finished and up to date; returns their keys.

        Raises:
            RunError: one is missing or out of date; the message names the verb to run.
        """
        return self._required(stage, self.keys())

    def _required(self, stage: str, key_of: dict[str, str]) -> dict[str, str]:
        for needed in self.plan.inputs[stage]:
            self._check_done(needed, stage, key_of)
        return {needed: key_of[needed] for needed in self.plan.inputs[stage]}

    def _check_done(self, needed: str, stage: str, key_of: dict[str, str]) -> None:
        """Refuse to run `stage` if `needed`, which it reads, is not finished under its key."""
        if self.is_done(needed, key_of[needed]):
            return
        verb = self.plan.stages[needed].verb
        state = "out of date" if needed in self.run.stages else "missing"
        settings = "".join(f" {shlex.quote(override)}" for override in self.run.overrides)
        # `load` starts a new run from a recipe; it does not take an existing run.
        only_verb = "" if verb == "load" else f"`ka2l {verb} {self.run.path}{settings}`, or "
        what = (
            f"`{self.plan.stages[stage].verb}` reads what `{verb}` writes, and that"
            if stage != needed
            else f"what `{verb}` writes"
        )
        raise RunError(
            f"{self.run.path}: {what} is {state}. "
            f"Run {only_verb}`ka2l run --out {self.run.path}{settings}` for everything."
        )

    def require_done(self, stage: str) -> None:
        """Check that this stage itself is finished and up to date.

        Raises:
            RunError: as `require`.
        """
        self._check_done(stage, stage, self.keys())

    def questions(self, role: str) -> list[Question]:
        """The questions of one role."""
        return [question for batch in self.question_batches(role, 4096) for question in batch]

    def question_batches(
        self, role: str | None, size: int, wanted: Callable[[str], bool] | None = None
    ) -> Iterator[list[Question]]:
        """Questions streamed from disk in their order, in lists of exactly `size`; only the last one may be shorter.

        Args:
            role: role of the questions; None: any role.
            size: number of questions in a list.
            wanted: whether the question with an id is wanted; None: all are.
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
        """Ids of the questions of one role, in their order. The questions are not kept in memory."""
        return [question.id for batch in self.question_batches(role, 4096) for question in batch]

    def questions_by_id(self, ids: set[str] | None = None) -> dict[str, Question]:
        """Questions by id: the ones with these ids, or all."""
        return {
            question.id: question
            for batch in self.question_batches(None, 4096)
            for question in batch
            if ids is None or question.id in ids
        }

    def model(self, adapter: Path | None = None) -> "LocalModel":
        """The language model, with this adapter merged in. A model that is in memory with another adapter is
        dropped.
        """
        from ka2l.models.local.local_model import LocalModel

        owner = self._owner
        if owner._model is None or owner._adapter != adapter:
            self.release()
            owner._model = LocalModel.load(
                self.config.model,
                self.resolved,
                template=self.config.prompt.template,
                adapter=adapter,
                say=self.reporter.say,
            )
            owner._adapter = adapter
        return owner._model

    def release(self) -> None:
        """Drop the model from memory."""
        self._owner._model = None

    @cached_property
    def prompts(self) -> PromptBuilder:
        """The run's prompt builder; worked examples come from the questions of role `shot`."""
        return prompt_builder(self.config, self.questions("shot"), lambda: self.tokenizer)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer. The model itself is not loaded for it."""
        from ka2l.models.tokenizer import load_tokenizer

        return load_tokenizer(self.config.model, self.resolved) if self._owner is self else self._owner.tokenizer

    def sensing_prompt(self, question: Question) -> Prompt:
        """The sensing prompt of a question; if a server is asked, also as chat messages."""
        messages = self.prompts.sensing_messages(question.question) if samples_from_server(self.config) else ()
        return Prompt(question.id, self.prompts.sensing(question.question), messages)

    def prepared_model(self, *, teaching: bool = False, adapter: Path | None = None) -> "LocalModel":
        """The model, with the shared prefix of all sensing (or teaching) prompts computed."""
        prompts = self.prompts
        model = self.model(adapter)
        model.share_prefix(prompts.teaching if teaching else prompts.sensing)
        return model


def prompt_builder(config: RunConfig, shots: Sequence[Question], tokenizer: Callable[[], Any]) -> PromptBuilder:
    """The builder of the sensing and the teaching prompt.

    Args:
        config: of the run.
        shots: questions of role `shot`; those with answers are the worked examples.
        tokenizer: called only if its chat template is needed.

    Raises:
        ConfigError: a server is to complete a chat template, and there is no tokenizer here that has it.
        ModelError: the model's tokenizer has no chat template.
    """
    worked = [Shot(question.question, question.answers[0]) for question in shots if question.answers]
    settings = config.prompt
    if config.map.probe:
        # The worked examples are part of the prompt whose states the probe reads, so they come with the probe.
        trained_with = given_probe(config.map.probe, config.map.probe_revision).card["prompt"]["shots"]
        worked = [Shot(*shot) for shot in trained_with]
        settings = settings.model_copy(update={"shots": len(worked)})
    if settings.template == "chat" and not has_model(config):
        if samples_from_server(config) and config.server.endpoint == "completions":
            raise ConfigError(
                "prompt.template=chat with server.endpoint=completions needs the chat template of an open model, and "
                "sample.states=none leaves out model.name. Use server.endpoint=chat, or prompt.template=plain."
            )
        # The server applies the template.
        settings = settings.model_copy(update={"template": "plain"})
    if settings.template == "plain":
        return PromptBuilder(settings, worked)
    loaded = tokenizer()
    if not getattr(loaded, "chat_template", None):
        raise ModelError(
            f"prompt.template is 'chat', but {config.model.name} has no chat template. Use prompt.template=plain, "
            "or a chat model."
        )
    return PromptBuilder(settings, worked, partial(render_chat, loaded))


def add_usage(record: StageRecord, model: "Sampler", prefix: str = "") -> None:
    """Add the tokens a model has used since the last call to a stage's record, under names that begin with `prefix`."""
    from ka2l.models.interface import Usage

    for name, count in model.usage._asdict().items():
        if count or not prefix:
            record.tokens[prefix + name] = record.tokens.get(prefix + name, 0) + count
    model.usage = Usage()


def need_questions(number: int, role: str, stage: str) -> None:
    """Refuse an empty role."""
    if number == 0:
        raise DegenerateError(
            f"`{stage}` has no questions: none has the role {role}. Set a size for questions.roles.{role}, or give the "
            "questions a role column."
        )
