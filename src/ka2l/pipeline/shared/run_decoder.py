"""The decoder of a run: which state it decodes, where it lies, and its checks."""

from typing import TYPE_CHECKING, Any, NamedTuple

from ka2l.config.run_config import RunConfig
from ka2l.errors import RunError
from ka2l.models.interface import Position
from ka2l.models.loading import load_causal_lm, pick_device, resolve
from ka2l.pipeline.context import Context
from ka2l.pipeline.shared.run_probe import read_probe

if TYPE_CHECKING:
    from ka2l.augmentation.decoder import Decoder
    from ka2l.augmentation.network import Network


class Judged(NamedTuple):
    """Which state of the model the probe judges."""

    layer: int
    position: Position


def judged(context: Context) -> Judged:
    """Layer and position of the run's probe.

    Raises:
        RunError: it reads all layers, so there is no one state to decode.
    """
    probe, card = read_probe(context)
    if probe.layer < 0:
        raise RunError(
            f"{context.run.path}: the probe ({probe.kind}) judges the states of all layers, and a decoder reads one. "
            "Use a probe of one layer: probe.kinds=[linear, mlp], or another map.probe."
        )
    return Judged(probe.layer, card["position"])


class Place(NamedTuple):
    """Where a decoder lies."""

    name: str  # a folder, else a Hub id
    revision: str | None


def decoder_place(context: Context) -> Place:
    """Of the decoder this run decodes with: its own, or the one `decoder.pretrained` names."""
    settings = context.config.decoder
    if settings.pretrained:
        return Place(settings.pretrained, settings.pretrained_revision)
    return Place(str(context.run.file("decoder").resolve()), None)  # a path, never taken for a Hub id


def checked_card(context: Context) -> dict[str, Any]:
    """The card of that decoder; nothing large is read.

    Raises:
        RunError: it decodes another state than the probe judges.
        ModelError: there is none, or this version does not know it.
    """
    from ka2l.augmentation.decoder_card_checks import check_fits
    from ka2l.augmentation.decoder_folder import load_card

    place = decoder_place(context)
    card = load_card(*place)
    given = context.config.decoder.pretrained
    check_fits(card, _judged_state(context), f"decoder.pretrained={given}" if given else place.name)
    return card


def run_decoder(context: Context) -> "Decoder":
    """The decoder this run decodes with.

    Raises:
        RunError, ModelError: as `checked_card`, or its weights are not what the card says.
    """
    from ka2l.augmentation.decoder import Decoder

    checked_card(context)
    return Decoder.from_pretrained(
        *decoder_place(context),
        model_loader=lambda: _language_model(context.config),
        device=pick_device(context.config.model),
    )


def new_network(config: RunConfig, width: int) -> "Network":
    """An untrained decoder: of the T5 that `decoder.t5` names, else of the language model itself."""
    if config.decoder.t5:
        from ka2l.augmentation.t5 import T5Network, load_t5

        model, tokenizer = load_t5(config.decoder.t5, config.decoder.t5_revision, pick_device(config.model))
        return T5Network(model, tokenizer, width, config.decoder, config.seed)
    from ka2l.augmentation.soft_prompt import SoftPromptNetwork

    model, tokenizer = _language_model(config)
    return SoftPromptNetwork(model, tokenizer, width, config.decoder, config.seed)


def _language_model(config: RunConfig) -> tuple[Any, Any]:
    """The model in whole weights: few bits are for asking, not for learning."""
    settings = config.model.model_copy(update={"quantization": "none"})
    return load_causal_lm(settings, resolve(settings))


def _judged_state(context: Context) -> dict[str, Any]:
    """All that makes two states comparable."""
    return {
        "model": context.resolved.name,
        "revision": context.resolved.revision,
        **judged(context)._asdict(),
        "sensing_hash": context.prompts.sensing_hash,
    }
