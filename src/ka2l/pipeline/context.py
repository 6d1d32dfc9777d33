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
from ka2l.models.loading import ResolvedModel, pick_device, pick_dtype, resolve
from ka2l.models.prompts import PromptBuilder, Shot, render_chat
from ka2l.pipeline.arms import augments
from ka2l.pipeline.content_keys import keys
from ka2l.pipeline.identities import Outside, _fingerprint, given_probe
from ka2l.pipeline.manifest import StageRecord
from ka2l.pipeline.run_directory import IMPORTED, LABELS, RunDirectory
from ka2l.pipeline.stage_graph import all_stages, inputs_of, judges, verb_of
from ka2l.questions.question import Question, from_table

if TYPE_CHECKING:
    from ka2l.knowledge.probes.probe import Probe
    from ka2l.models.interface import Sampler
    from ka2l.models.local.local_model import LocalModel


class Context:
    """One run at work. Models are loaded when first needed and kept until `release`."""

    def __init__(self, run: RunDirectory, reporter: Reporter):
        self.run = run
        self.reporter = reporter
        self._model: LocalModel | None = None
        self._adapter: Path | None = None
        self._encoders: dict[str, str] = {}  # keys of sentence encoders by name

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.run.config

    @cached_property
    def resolved(self) -> ResolvedModel:
        """Name, place and revision of the language model in this process; not for runs that have none."""
        return resolve(self.config.model)

    def keys(self) -> dict[str, str]:
        """The content key every stage has, or would have, with this config and what is loaded."""
        loaded = self.run.stages.get("load")
        source = str(loaded.facts.get("fingerprint", "")) if loaded else ""
        labels, imported = (_fingerprint(self.run.file(name)) for name in (LABELS, IMPORTED))
        outside = Outside(source, self.model_key, labels, imported, self.judge_key, self._probe_key)
        if augments(self.config):
            encoder = self._encoder_key(
                self.config.augment.embedding_model, "augment.embedding_model", "augment"
            )
            outside = outside._replace(state=self._state, decoder=self._decoder_key, encoder=encoder)
        if "sentences" in all_stages(self.config):
            encoder = self._encoder_key(self.config.select.encoder, "select.encoder", "sentences")
            outside = outside._replace(sentences=encoder)
        return keys(self.config, outside)

    @cached_property
    def model_key(self) -> str:
        """What the model computes: a folder counts by its content, and `auto` by the type it stands for here."""
        if not has_model(self.config):
            return ""
        name = "" if Path(self.resolved.path).is_dir() else self.resolved.name
        settings = self.config.model
        few_bits = "" if settings.quantization == "none" else f":{settings.quantization}"
        return f"{name}@{self.resolved.revision}:{pick_dtype(settings, pick_device(settings))}{few_bits}"

    @property
    def judge_key(self) -> str:
        """Name and revision of who judges answers; where that is no longer at hand, of who did: a report needs no judge."""
        return self._judge_key if judges(self.config) else ""

    @cached_property
    def _judge_key(self) -> str:
        from ka2l.pipeline.identities import judge_key

        try:
            return judge_key(self.config)
        except ModelError:
            judged = [
                self.run.stages[name].facts for name in ("measure", "pool_entropy") if name in self.run.stages
            ]
            known = next((facts["judge"] for facts in judged if "judge" in facts), None)
            if known is None:
                raise
            return str(known)

    @cached_property
    def base_key(self) -> str:
        """What the base model's answers depend on, besides the question: its prompt and its worked examples too."""
        config = self.config
        asked_as = [config.prompt.model_dump(mode="json"), self._probe_key, config.seed]
        depends = [self.keys()["load"], self.model_key, asked_as]
        depends.append([config.evaluate.temperature, config.evaluate.max_new_tokens])
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def _probe_key(self) -> str:
        """A probe counts by its content, wherever it lies."""
        if not self.config.map.probe:
            return ""
        digest = hashlib.sha256(json.dumps(self.given_probe.card, sort_keys=True).encode())
        for name, array in sorted(self.given_probe.weights.items()):
            digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()[:16]

    @property
    def _state(self) -> str:
        """Layer and position of the state the probe judges, once there is a probe."""
        if self.config.map.probe:
            # Its prompt comes with it.
            return ":".join(
                [
                    str(self.given_probe.layer),
                    *(self.given_probe.card[k] for k in ("position", "sensing_hash")),
                ]
            )
        record = self.run.stages.get("probe")
        return f"{record.counts.get('layer', '')}:{self.config.probe.position}" if record else ""

    @cached_property
    def _decoder_key(self) -> str:
        """Of a decoder or T5 that is no longer at hand, what it was: a report needs neither."""
        from ka2l.pipeline.identities import decoder_key

        settings = self.config.decoder
        try:
            return decoder_key(self.config)
        except ModelError:
            known = self._recorded(
                "augment" if settings.pretrained else "decoder", settings.pretrained or settings.t5
            )
            if known is None:
                raise
            return known

    def _encoder_key(self, name: str, setting: str, stage: str) -> str:
        """Of sentence embeddings that are no longer at hand, what the stage that used them found."""
        from ka2l.models.sentence_encoder import encoder_key

        if name not in self._encoders:
            try:
                self._encoders[name] = encoder_key(name, setting) if name else ""
            except ModelError:
                known = self._recorded(stage, name)
                if known is None:
                    raise
                return known
        return self._encoders[name]

    def _recorded(self, stage: str, place: str) -> str | None:
        """What a finished stage found at this place, by its `places`."""
        record = self.run.stages.get(stage)
        found = record.facts.get("places", {}) if record is not None and record.state == "done" else {}
        return found.get(place)

    @property
    def given_probe(self) -> "Probe":
        """The probe that `map.probe` names, with its card."""
        return given_probe(self.config.map.probe, self.config.map.probe_revision)

    def require(self, stage: str) -> dict[str, str]:
        """Check that the stages this one reads are finished and up to date; returns their keys.

        Raises:
            RunError: one is missing or stale; the message names the verb to run.
        """
        now = self.keys()
        for needed in inputs_of(stage, self.config):
            self._check_done(needed, stage, now)
        return {needed: now[needed] for needed in inputs_of(stage, self.config)}

    def _check_done(self, needed: str, stage: str, now: dict[str, str]) -> None:
        if self.run.is_done(needed, now[needed]):
            return
        verb = verb_of(needed)
        was = "out of date" if needed in self.run.stages else "missing"
        settings = "".join(f" {shlex.quote(override)}" for override in self.run.overrides)
        # `load` begins a run from a recipe, and has no form for one that is there.
        alone = "" if verb == "load" else f"`ka2l {verb} {self.run.path}{settings}`, or "
        what = (
            f"`{verb_of(stage)}` reads what `{verb}` writes, and that"
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

    def question_batches(self, role: str | None, size: int) -> Iterator[list[Question]]:
        """Questions of one role (or all), streamed from disk in lists of exactly `size`, the last one shorter."""
        import pyarrow.parquet as pq

        waiting: list[Question] = []
        for batch in pq.ParquetFile(self.run.file("questions.parquet")).iter_batches(batch_size=4096):
            rows = from_table(batch)
            waiting += rows if role is None else [question for question in rows if question.role == role]
            while len(waiting) >= size:
                yield waiting[:size]
                waiting = waiting[size:]
        if waiting:
            yield waiting

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

        if self._model is None or self._adapter != adapter:
            self.release()
            self._model = LocalModel.load(
                self.config.model,
                self.resolved,
                template=self.config.prompt.template,
                adapter=adapter,
                say=self.reporter.say,
            )
            self._adapter = adapter
        return self._model

    def release(self) -> None:
        """Drop the model from memory."""
        self._model = None

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
            f"prompt.template is 'chat', but {config.model.name} carries no chat template. Use prompt.template=plain, "
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


def need_questions(questions: list[Question], role: str, stage: str) -> None:
    """Refuse an empty role."""
    if not questions:
        raise DegenerateError(
            f"`{stage}` has no questions: none has the role {role}. Give questions.roles.{role} a size, or a role column."
        )
