"""Checks of a decoder's card and weights, made before anything is used or written."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ka2l.augmentation.settings import DecoderConfig
from ka2l.common.hub import check_format
from ka2l.common.version import __version__
from ka2l.errors import ModelError, RunError

# Of the folder; raised when an older version could misread a newer folder.
FORMAT = 1
KINDS = ("soft_prompt", "t5")
SCALING = ("mean", "scale")
MAKE_ONE = "`ka2l augment` trains one (the run's folder decoder/)."

# What must be equal where a decoder is used, by its name in error messages.
_IDENTITY = {
    "model": "model",
    "revision": "model revision",
    "layer": "layer",
    "position": "position",
    "sensing_hash": "sensing prompt (its hash)",
}
_PLAIN_NAME = re.compile(r"\w[\w.-]*")


def check_fits(card: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Refuse a decoder that was trained on other states than those to be decoded.

    Args:
        card: of the decoder.
        wanted: the values here of model, revision, layer, position and sensing_hash.
        where: the decoder's name in the error message.

    Raises:
        RunError: values differ; all of them are named.
    """
    names = [key for key in wanted if card.get(key) != wanted[key]]
    if card["revision"] == wanted.get("revision") and str(card["revision"]).startswith("sha256-"):
        # The same model files, in whatever folder they are.
        names = [key for key in names if key != "model"]
    if names:
        differ = "; ".join(f"{_IDENTITY.get(key, key)} {card.get(key)}, but here {wanted[key]}" for key in names)
        raise RunError(
            f"{where}: this decoder was trained on the states of another model, prompt, layer or position: {differ}. "
            "Give the probe, model.* and prompt.* settings it was trained with (its README has the prompt), or train "
            "one here: decoder.pretrained= (empty)."
        )


def check_card(card: Any, where: str) -> None:
    """Refuse a card that this version cannot read, or that does not say which states the decoder reads.

    Raises:
        ModelError: the format, the kind or a value is not valid here, or a key is missing.
    """
    check_format(card, "decoder", FORMAT, where, MAKE_ONE)
    if card.get("kind") not in KINDS:
        raise ModelError(
            f"{where}: kind is {card.get('kind')!r}, and KA2L {__version__} knows {', '.join(KINDS)}. "
            "Install a newer KA2L, or train the decoder again."
        )
    missing = [key for key in _IDENTITY if card.get(key) is None]
    if missing:
        raise ModelError(
            f"{where}: the card lacks {', '.join(missing)}, so it does not say which states the decoder reads. Train "
            "the decoder again."
        )
    for key, least in (("layer", 0), ("width", 1)):
        if type(card.get(key)) is not int or card[key] < least:
            raise ModelError(
                f"{where}: {key} is {card.get(key)!r}, not a whole number of at least {least}. Train the decoder again."
            )
    names = card.get("t5_files", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and _PLAIN_NAME.fullmatch(name) for name in names):
        raise ModelError(f"{where}: t5_files is {names!r}, not a list of file names. Save the decoder again.")
    settings_of(card, where)


def settings_of(card: Mapping[str, Any], where: str) -> DecoderConfig:
    """The settings the decoder was trained with; keys of other versions are ignored.

    Raises:
        ModelError: a setting is not valid.
    """
    given = card.get("settings") or {}
    try:
        return DecoderConfig(**{key: value for key, value in given.items() if key in DecoderConfig.model_fields})
    except (ValidationError, AttributeError) as error:
        raise ModelError(
            f"{where}: the settings are not those of a decoder ({error}). Train the decoder again."
        ) from error


def check_tensors(tensors: Mapping[str, NDArray[Any]], where: str) -> None:
    """Refuse weights that are not float32 or not finite.

    Raises:
        ModelError: the first such weight, by name.
    """
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise ModelError(f"{where}: {name} is {array.dtype}, but a decoder's weights are float32. Save it again.")
        if not np.isfinite(array).all():
            raise ModelError(f"{where}: {name} has values that are not finite. Train the decoder again.")


def check_scaling(tensors: Mapping[str, NDArray[Any]], name: str, width: int, where: Path) -> NDArray[np.float32]:
    """Mean or scale of the states, [width] float32, checked against the card's width.

    Raises:
        ModelError: it is missing, has another shape, or a scale is not positive.
    """
    if name not in tensors or tensors[name].shape != (width,):
        shape = list(tensors[name].shape) if name in tensors else "missing"
        raise ModelError(f"{where}: {name} is {shape}, but the card has a width of {width}. Save the decoder again.")
    if name == "scale" and not (tensors[name] > 0).all():
        raise ModelError(f"{where}: scale has values that are not positive. Train the decoder again.")
    return tensors[name]
