"""The decoder of a run: the hidden state it decodes, where it is stored, and its checks."""

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


class ProbedState(NamedTuple):
    """The hidden state that the probe reads."""

    layer: int
    position: Position


def probed_state(context: Context) -> ProbedState:
    """Layer and position of the hidden state that the run's probe reads.

    Raises:
        RunError: the probe reads all layers, so there is no single state to decode.
    """
    probe, card = read_probe(context)
    if probe.layer < 0:
        raise RunError(
            f"{context.run.path}: the probe ({probe.kind}) reads the states of all layers, and a decoder reads one. "
            "Use a probe of one layer: probe.kinds=[linear, mlp], or another map.probe."
        )
    return ProbedState(probe.layer, card["position"])


class DecoderPlace(NamedTuple):
    """Where a decoder is stored."""

    # A folder, else a Hub id.
    name: str
    revision: str | None


def decoder_place(context: Context) -> DecoderPlace:
    """The place of the decoder this run uses: its own, or the one `decoder.pretrained` names."""
    settings = context.config.decoder
    if settings.pretrained:
        return DecoderPlace(settings.pretrained, settings.pretrained_revision)
    # An absolute path cannot be mistaken for a Hub id.
    return DecoderPlace(str(context.run.file("decoder").resolve()), None)


def checked_card(context: Context) -> dict[str, Any]:
    """The card of the decoder this run uses; its weights are not read.

    Raises:
        RunError: it decodes another hidden state than the one the probe reads.
        ModelError: no such decoder, or this version does not know its format.
    """
    from ka2l.augmentation.decoder_card_checks import check_fits
    from ka2l.augmentation.decoder_folder import load_card

    place = decoder_place(context)
    card = load_card(*place)
    given = context.config.decoder.pretrained
    check_fits(card, probed_state_card(context), f"decoder.pretrained={given}" if given else place.name)
    return card


def run_decoder(context: Context) -> "Decoder":
    """The decoder this run uses.

    Raises:
        RunError, ModelError: as `checked_card`, or its weights do not match the card.
    """
    from ka2l.augmentation.decoder import Decoder

    checked_card(context)
    return Decoder.from_pretrained(
        *decoder_place(context),
        model_loader=lambda: _language_model(context.config),
        device=pick_device(context.config.model),
    )


def new_network(config: RunConfig, width: int) -> "Network":
    """An untrained decoder, made from the T5 that `decoder.t5` names, else from the language model itself."""
    if config.decoder.t5:
        from ka2l.augmentation.t5 import T5Network, load_t5

        model, tokenizer = load_t5(config.decoder.t5, config.decoder.t5_revision, pick_device(config.model))
        return T5Network(model, tokenizer, width, config.decoder, config.seed)
    from ka2l.augmentation.soft_prompt import SoftPromptNetwork

    model, tokenizer = _language_model(config)
    return SoftPromptNetwork(model, tokenizer, width, config.decoder, config.seed)


def _language_model(config: RunConfig) -> tuple[Any, Any]:
    """The model and its tokenizer, without quantization: quantized weights are not trained."""
    settings = config.model.model_copy(update={"quantization": "none"})
    return load_causal_lm(settings, resolve(settings))


def probed_state_card(context: Context) -> dict[str, Any]:
    """What identifies the hidden state the probe reads: only states with the same values are comparable."""
    return {
        "model": context.resolved.name,
        "revision": context.resolved.revision,
        **probed_state(context)._asdict(),
        "sensing_hash": context.prompts.sensing_hash,
    }
