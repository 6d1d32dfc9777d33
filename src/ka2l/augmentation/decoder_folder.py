"""A decoder as a folder or on the Hub: weights (safetensors), card (JSON) and a README written from the card.

    parts = DecoderParts(network, mean, scale, card)
    save(parts, Path("my-decoder"))
    push(parts, "me/my-decoder")
    Decoder(*load("me/my-decoder", "v1", model_loader=lambda: (model, tokenizer)))

`ka2l.augmentation.decoder.Decoder` has all three as methods. A decoder of kind `soft_prompt` (the language model
itself) holds the trained weights only, never the language model; one of kind `t5` (the paper's) holds the whole T5,
with its tokenizer and config.json in the folder t5/. Everything is checked before it is used, and nothing is ever
unpickled.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from ka2l.augmentation.decoder_card_checks import (
    FORMAT,
    MAKE_ONE,
    SCALING,
    check_card,
    check_scaling,
    check_tensors,
    settings_of,
)
from ka2l.augmentation.decoder_readme import readme
from ka2l.augmentation.network import Network
from ka2l.augmentation.state_scaling import Floats
from ka2l.common import atomic_files
from ka2l.common.fingerprints import sync
from ka2l.common.hub import check_files, download, local_folder, push_folder, read_card, read_weights
from ka2l.common.readme_parts import short_name
from ka2l.common.version import __version__
from ka2l.errors import ModelError

WEIGHTS, CARD, README, T5 = "decoder.safetensors", "decoder.json", "README.md", "t5"
ModelLoader = Callable[[], tuple[Any, Any]]

# Settings that name files of this machine: not part of a card.
_LOCAL_SETTINGS = ("pretrained", "pretrained_revision", "t5")
# Prefix of the names of the network's parameters in the weights file.
_NETWORK = "network."


class DecoderParts(NamedTuple):
    """What a decoder is made of: the arguments of `ka2l.augmentation.decoder.Decoder`, in their order."""

    network: Network
    mean: Floats
    scale: Floats
    card: dict[str, Any]


def save(parts: DecoderParts, folder: Path) -> None:
    """Write `decoder.safetensors`, the files of a T5, `README.md` and, last, `decoder.json`.

    A folder with `decoder.json` is complete.

    Args:
        parts: the card must say which states the decoder reads: model, revision, layer, position, sensing_hash.
        folder: created if it does not exist; other files in it are kept.

    Raises:
        ModelError: the card lacks a key, or weights are not finite.
    """
    _write(parts, folder)


def load_card(
    name: str, revision: str | None = None, *, token: str | None = None, endpoint: str | None = None
) -> dict[str, Any]:
    """Read and check the card alone; nothing large is read.

    Args:
        name: a folder, else a Hub id.
        revision: branch, tag or commit on the Hub.
        token: for the Hub; None: the token the Hub's client is logged in with.
        endpoint: of another Hub than the public one.

    Raises:
        ModelError: no such decoder, it cannot be downloaded, or this version cannot read it.
    """
    return _read_card(_card_file(name, revision, token, endpoint))


def load(
    name: str,
    revision: str | None = None,
    model_loader: ModelLoader | None = None,
    *,
    device: str = "cpu",
    token: str | None = None,
    endpoint: str | None = None,
) -> DecoderParts:
    """Read a decoder from a folder, or from the Hub (through its cache, also offline).

    Args:
        name, revision, token, endpoint: as for `load_card`.
        model_loader: returns the language model that the card names, and its tokenizer. Called if the decoder is the
            language model itself, and only after all other checks. The decoder's adapters are added to that model.
        device: of a T5.

    Raises:
        ModelError: no such decoder, it cannot be downloaded, or its files do not agree with its card.
    """
    root, card = _complete(name, revision, token, endpoint)
    tensors = _read_tensors(root / WEIGHTS)
    mean, scale = (check_scaling(tensors, part, card["width"], root / WEIGHTS) for part in SCALING)
    network = _network(root, card, model_loader, device)
    _fill(network, tensors, str(root / WEIGHTS))
    network.prepare_for_inference()
    return DecoderParts(network, mean, scale, card)


def push(
    parts: DecoderParts,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a KA2L decoder",
    endpoint: str | None = None,
) -> str:
    """Upload what `save` writes, in one commit; returns the repository's address.

    Args:
        parts: as for `save`.
        repo_id: owner/name, or a name under the account of the token. The repository is created if it does not exist.
        token: with write access; None: the token the Hub's client is logged in with. It is not stored.
        private: for a new repository; None: the account's default.
        revision: a branch, created if it does not exist.
        commit_message: first line of the commit.
        endpoint: of another Hub than the public one.

    Raises:
        ModelError: the Hub refuses or cannot be reached, or the decoder cannot be saved.
    """

    def write(folder: Path) -> Sequence[str]:
        card = _write(parts, folder, repo_id)
        return [WEIGHTS, *_t5_files(card), README, CARD]

    return push_folder(
        write,
        repo_id,
        message=commit_message,
        token=token,
        private=private,
        revision=revision,
        endpoint=endpoint,
    )


def fingerprint(
    name: str, revision: str | None = None, *, token: str | None = None, endpoint: str | None = None
) -> str:
    """A SHA-256 (hex) over all files that `load` reads: it identifies a decoder wherever its files are.

    Raises:
        ModelError: as `load_card`.
    """
    root, card = _complete(name, revision, token, endpoint)
    digest = hashlib.sha256()
    for name_in_folder in (CARD, WEIGHTS, *_t5_files(card)):
        with (root / name_in_folder).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _write(parts: DecoderParts, folder: Path, name: str = "FOLDER") -> dict[str, Any]:
    """`save`, with this name in the examples of the README; returns the card."""
    network = parts.network
    card = {
        "ka2l": __version__,
        **parts.card,
        "t5_files": [],
        "format_version": FORMAT,
        "kind": network.kind,
    }
    card |= {"width": network.width, "settings": dict(card.get("settings") or {})}
    for setting in _LOCAL_SETTINGS:
        card["settings"].pop(setting, None)
    # The path of a folder would reveal something about this machine; the revision identifies its content.
    card |= {key: short_name(card[key]) for key in ("model", "base") if card.get(key)}
    check_card(card, "this decoder")
    tensors = {"mean": parts.mean, "scale": parts.scale}
    for parameter_name, parameter in network.parameters().items():
        tensors[_NETWORK + parameter_name] = parameter.detach().cpu().contiguous().numpy()
    check_tensors(tensors, "this decoder")
    # First, so that an old card is never beside new weights.
    atomic_files.remove(folder / CARD)
    atomic_files.write_tensors(folder / WEIGHTS, tensors, {"kind": network.kind})
    atomic_files.remove(folder / T5)
    if card["kind"] == "t5":
        card["t5_files"] = _write_frame(network, folder / T5)
    atomic_files.write_text(folder / README, readme(card, name))
    atomic_files.write_json(folder / CARD, card)
    return card


def _write_frame(network: Any, folder: Path) -> list[str]:
    network.save_frame(folder)
    for path in folder.iterdir():
        sync(path)
    return sorted(path.name for path in folder.iterdir())


def _card_file(name: str, revision: str | None, token: str | None, endpoint: str | None) -> Path:
    folder = local_folder(name, revision, "decoder")
    if folder is not None:
        check_files(folder, (CARD,), "decoder", MAKE_ONE)
        return folder / CARD
    return download(name, (CARD,), revision, token=token, endpoint=endpoint)[0]


def _complete(name: str, revision: str | None, token: str | None, endpoint: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder with all files of a decoder, and its card."""
    file = _card_file(name, revision, token, endpoint)
    card = _read_card(file)
    others = (WEIGHTS, *_t5_files(card))
    if Path(name).expanduser().is_dir():
        missing = [other for other in others if not (file.parent / other).is_file()]
        if missing:
            raise ModelError(f"{name}: this decoder is incomplete ({', '.join(missing)} missing). {MAKE_ONE}")
    else:
        # The card is at snapshots/<commit>/decoder.json: the other files come from the same commit, even if another
        # one was pushed in between.
        download(name, others, file.parent.name, token=token, endpoint=endpoint)
    return file.parent, card


def _t5_files(card: Mapping[str, Any]) -> list[str]:
    return [f"{T5}/{name}" for name in card.get("t5_files", [])]


def _read_card(file: Path) -> dict[str, Any]:
    card: dict[str, Any] = read_card(file, "decoder")
    check_card(card, str(file))
    return card


def _read_tensors(file: Path) -> dict[str, NDArray[Any]]:
    tensors = read_weights(file, "decoder")
    check_tensors(tensors, str(file))
    return tensors


def _network(root: Path, card: Mapping[str, Any], model_loader: ModelLoader | None, device: str) -> Network:
    """The untrained network the card describes."""
    settings = settings_of(card, str(root / CARD))
    if card["kind"] == "t5":
        from ka2l.augmentation.t5 import T5Network, empty_t5

        return T5Network(*empty_t5(root / T5, device), card["width"], settings, seed=0)
    from ka2l.augmentation.soft_prompt import SoftPromptNetwork

    if model_loader is None:
        raise ModelError(
            f"{root}: this decoder is an adapter for {card['model']} and needs that model. Give model_loader."
        )
    return SoftPromptNetwork(*model_loader(), card["width"], settings, seed=0)


@torch.no_grad()
def _fill(network: Network, tensors: Mapping[str, NDArray[Any]], where: str) -> None:
    """Copy the weights into the network, after checking the names and shapes of all of them."""
    parameters = network.parameters()
    shapes = {_NETWORK + name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: array.shape for name, array in tensors.items() if name not in SCALING}
    for name in sorted(shapes.keys() | found.keys()):
        if shapes.get(name) != found.get(name):
            raise ModelError(
                f"{where}: the shape of {name} is {_shape(found.get(name))} here and {_shape(shapes.get(name))} in a "
                f"decoder of kind {network.kind} on this model ('none': no such weight). The weights belong to another "
                "model or other settings: save it again."
            )
    for name, parameter in parameters.items():
        parameter.copy_(torch.from_numpy(tensors[_NETWORK + name]))


def _shape(shape: Sequence[int] | None) -> str:
    return "none" if shape is None else str(list(shape))
