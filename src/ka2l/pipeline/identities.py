"""Names and revisions of everything outside the configuration that a content key depends on."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ka2l.config.run_config import RunConfig
from ka2l.errors import ModelError
from ka2l.models.judges.kept_judgements import model_key
from ka2l.models.loading import resolve
from ka2l.models.settings import ModelConfig

if TYPE_CHECKING:
    from ka2l.knowledge.probes.probe import Probe


class Outside(NamedTuple):
    """What keys depend on besides the config."""

    source: str  # fingerprint of the questions' source
    model: str  # name and revision of the language model
    labels: str  # fingerprint of the answers people have given so far
    imported: str = ""  # fingerprint of answers made elsewhere
    judge: str = ""  # name and revision of the model that judges answers
    probe: str = ""  # revision of a probe trained before
    state: str = ""  # layer and position of the state the probe judges, once that is known
    decoder: str = ""  # revision of a decoder trained before, or of the T5 one is made of
    encoder: str = ""  # name and revision of the sentence embeddings that find near-copies
    sentences: str = ""  # name and revision of the sentence embeddings of the pool's questions


@lru_cache(maxsize=1)
def given_probe(name: str, revision: str | None) -> "Probe":
    """A probe trained before, from a folder or the Hub; read once."""
    from ka2l.knowledge.probes.probe import Probe

    return Probe.from_pretrained(name, revision)


def _fingerprint(file: Path) -> str:
    """Hash of a file's bytes; empty where there is none."""
    if not file.exists():
        return ""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


@lru_cache(maxsize=4)
def _given_key(name: str, revision: str | None) -> str:
    from ka2l.augmentation.decoder_folder import fingerprint

    return fingerprint(name, revision)


def decoder_key(config: RunConfig) -> str:
    """What pins a decoder trained before, or the T5 one is made of; empty where the language model is the decoder.

    Raises:
        ModelError: there is no such decoder or T5.
    """
    settings = config.decoder
    try:
        if settings.pretrained:
            return _given_key(settings.pretrained, settings.pretrained_revision)
        if settings.t5:
            return resolve(ModelConfig(name=settings.t5, revision=settings.t5_revision)).revision
    except ModelError as error:
        if settings.pretrained:
            raise ModelError(f"decoder.pretrained: {error}") from None
        raise ModelError(
            f"decoder.t5={settings.t5}: there is no such T5. Give the folder or Hub id of one (google-t5/t5-base), or "
            f"leave it empty: then the language model is its own decoder. ({error})"
        ) from None
    return ""


def judge_key(config: RunConfig) -> str:
    """Name and revision of the model that judges, for content keys; nothing is loaded."""
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
    """The model that judges in this process."""
    return config.measure.llm_model or config.model.name


def revision_of(name: str, revision: str | None = None) -> str:
    """A folder counts by its content, a model of the Hub by name and commit."""
    return model_key(resolve(ModelConfig(name=name, revision=revision)))
