"""Names and revisions of everything outside the configuration that a content key depends on.

Each is looked up when a key first reads it: a run without a judge does not look one up.
"""

import hashlib
import json
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import has_model
from ka2l.errors import ModelError
from ka2l.models.judges.kept_judgements import model_key
from ka2l.models.loading import ResolvedModel, pick_device, pick_dtype, resolve
from ka2l.models.settings import ModelConfig
from ka2l.pipeline.run_directory import IMPORTED, LABELS, RunDirectory

if TYPE_CHECKING:
    from ka2l.knowledge.probes.probe import Probe
    from ka2l.questions.load import LoadedQuestions


class RunIdentities:
    """Implements `ka2l.pipeline.stage.Identities` for a run and its configuration.

    Args:
        run: the run directory.
        beside: those of a run with the same model, whose revision is then not looked up again.
    """

    def __init__(self, run: RunDirectory, beside: "RunIdentities | None" = None):
        self._run = run
        self._beside = beside
        self._config = run.config
        # The questions read from their source; None once stage `load` has written them.
        self.loaded: LoadedQuestions | None = None
        self._encoders: dict[str, str] = {}

    @cached_property
    def resolved(self) -> ResolvedModel:
        """Name, place and revision of the language model in this process; only for runs that have one."""
        return resolve(self._config.model) if self._beside is None else self._beside.resolved

    @property
    def given_probe(self) -> "Probe":
        """The probe that `map.probe` names, with its card."""
        return given_probe(self._config.map.probe, self._config.map.probe_revision)

    @property
    def source(self) -> str:
        """Fingerprint of the questions just read, else of those stage `load` has written."""
        if self.loaded is not None:
            return self.loaded.fingerprint
        record = self._run.stages.get("load")
        return str(record.facts.get("fingerprint", "")) if record else ""

    @cached_property
    def model(self) -> str:
        """Name, revision and type of the language model.

        A folder is identified by its content instead of its name; dtype `auto` is replaced by the type it selects here.
        """
        if not has_model(self._config):
            return ""
        name = "" if Path(self.resolved.path).is_dir() else self.resolved.name
        settings = self._config.model
        quantization = "" if settings.quantization == "none" else f":{settings.quantization}"
        return f"{name}@{self.resolved.revision}:{pick_dtype(settings, pick_device(settings))}{quantization}"

    @property
    def labels(self) -> str:
        """Fingerprint of the answers people have given so far."""
        return file_fingerprint(self._run.file(LABELS))

    @property
    def imported(self) -> str:
        """Fingerprint of answers generated elsewhere."""
        return file_fingerprint(self._run.file(IMPORTED))

    @cached_property
    def judge(self) -> str:
        """Name and revision of the judge.

        If the judge is no longer available, those of the judge that was used: a report does not need a judge.
        """
        try:
            return judge_key(self._config)
        except ModelError:
            records = [self._run.stages[name] for name in ("measure", "pool_entropy") if name in self._run.stages]
            known = next((record.facts["judge"] for record in records if "judge" in record.facts), None)
            if known is None:
                raise
            return str(known)

    @cached_property
    def probe(self) -> str:
        """Hash of the content of the probe that `map.probe` names, wherever it is stored; empty if it names none."""
        if not self._config.map.probe:
            return ""
        digest = hashlib.sha256(json.dumps(self.given_probe.card, sort_keys=True).encode())
        for name, array in sorted(self.given_probe.weights.items()):
            digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()[:16]

    @property
    def state(self) -> str:
        """Layer and position of the state the probe reads; empty before there is a probe."""
        if self._config.map.probe:
            # The prompt comes with the probe.
            card = self.given_probe.card
            return ":".join([str(self.given_probe.layer), card["position"], card["sensing_hash"]])
        record = self._run.stages.get("probe")
        return f"{record.counts.get('layer', '')}:{self._config.probe.position}" if record else ""

    @cached_property
    def decoder(self) -> str:
        """Revision of a pretrained decoder, or of the T5 model that a decoder is trained from.

        If it is no longer available, the one that was used: a report needs neither.
        """
        settings = self._config.decoder
        try:
            return decoder_key(self._config)
        except ModelError:
            stage = "augment" if settings.pretrained else "decoder"
            known = self._recorded(stage, settings.pretrained or settings.t5)
            if known is None:
                raise
            return known

    @property
    def encoder(self) -> str:
        """Name and revision of the sentence encoder that finds near-copies among decoded questions."""
        return self._encoder(self._config.augment.embedding_model, "augment.embedding_model", "augment")

    @property
    def sentences(self) -> str:
        """Name and revision of the sentence encoder of the pool's questions."""
        return self._encoder(self._config.select.encoder, "select.encoder", "sentences")

    def _encoder(self, name: str, setting: str, stage: str) -> str:
        """Key of a sentence encoder; if it is no longer available, what the stage that used it recorded."""
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
        """The key a finished stage recorded for a name or folder, in its fact `places`."""
        record = self._run.stages.get(stage)
        places = record.facts.get("places", {}) if record is not None and record.state == "done" else {}
        return places.get(place)


def file_fingerprint(file: Path) -> str:
    """Hash of a file's bytes; empty if there is no file. It is read again only when its size or time has changed."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return ""
    # Files are replaced whole, so that a new one has another inode even within one tick of the clock.
    return _file_hash(file, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=16)
def _file_hash(file: Path, _size: int, _modified: int, _inode: int) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


@lru_cache(maxsize=1)
def given_probe(name: str, revision: str | None) -> "Probe":
    """A probe trained before, from a folder or the Hub; read once."""
    from ka2l.knowledge.probes.probe import Probe

    return Probe.from_pretrained(name, revision)


@lru_cache(maxsize=4)
def _given_decoder_key(name: str, revision: str | None) -> str:
    from ka2l.augmentation.decoder_folder import fingerprint

    return fingerprint(name, revision)


def decoder_key(config: RunConfig) -> str:
    """Key of a pretrained decoder, or of the T5 model a decoder is trained from.

    It is empty if the language model itself is the decoder.

    Raises:
        ModelError: no such decoder or T5.
    """
    settings = config.decoder
    try:
        if settings.pretrained:
            return _given_decoder_key(settings.pretrained, settings.pretrained_revision)
        if settings.t5:
            return resolve(ModelConfig(name=settings.t5, revision=settings.t5_revision)).revision
    except ModelError as error:
        if settings.pretrained:
            raise ModelError(f"decoder.pretrained: {error}") from None
        raise ModelError(
            f"decoder.t5={settings.t5}: no such T5. Give the folder or Hub id of one (google-t5/t5-base), or leave "
            f"decoder.t5 empty: then the language model itself is the decoder. ({error})"
        ) from None
    return ""


def judge_key(config: RunConfig) -> str:
    """Name and revision of the model that judges answers. No model is loaded."""
    settings = config.measure
    if settings.judge == "lexical":
        return ""
    if settings.judge == "llm":
        if config.judge_server.url:
            return f"{config.judge_server.model} at a server ({config.judge_server.endpoint})"
        return revision_of(llm_name(config), config.model.revision if not settings.llm_model else None)
    if settings.judge == "nli":
        return revision_of(settings.nli_model)
    from ka2l.models.sentence_encoder import encoder_key

    return encoder_key(settings.embedding_model)


def llm_name(config: RunConfig) -> str:
    """Name of the language model that judges in this process."""
    return config.measure.llm_model or config.model.name


def revision_of(name: str, revision: str | None = None) -> str:
    """Key of a model: the content hash of a folder, or the name and commit of a model from the Hub."""
    return model_key(resolve(ModelConfig(name=name, revision=revision)))
