"""A decoder as a folder or on the Hub: weights (safetensors), card (JSON) and a README written from the card.

    save(decoder, "my-decoder")
    push(decoder, "me/my-decoder")
    load("me/my-decoder", "v1", model_loader=lambda: (model, tokenizer)).decode(states, names, …)

A decoder that is the language model itself (`soft_prompt`) holds what was trained, never the model; the paper's (`t5`)
holds its whole T5, with tokenizer and config.json in the folder t5/. What is read is checked before it is used, and
nothing is ever unpickled.
"""

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from ka2l.augmentation.decoder import Decoder
from ka2l.augmentation.decoder_card_checks import (
    FORMAT,
    MAKE_ONE,
    SCALING,
    check_card,
    check_scaling,
    check_tensors,
    settings_of,
)
from ka2l.augmentation.decoder_card_checks import check_fits as check_fits
from ka2l.augmentation.decoder_readme import readme
from ka2l.augmentation.network import Network
from ka2l.common import atomic_files
from ka2l.common.fingerprints import sync
from ka2l.common.hub import download, local_folder, upload
from ka2l.common.readme_parts import short_name
from ka2l.common.version import __version__
from ka2l.errors import ModelError

WEIGHTS, CARD, README, T5 = "decoder.safetensors", "decoder.json", "README.md", "t5"
ModelLoader = Callable[[], tuple[Any, Any]]

_OF_THIS_MACHINE = ("pretrained", "pretrained_revision", "t5")  # settings that name files
_NETWORK = "network."  # before the names of its parameters


def save(decoder: Decoder, folder: Path) -> None:
    """Write `decoder.safetensors`, what a T5 needs, `README.md` and, last, `decoder.json`: a folder that has it is whole.

    Args:
        decoder: its card must say which states it reads: model, revision, layer, position, sensing_hash.
        folder: made where it is missing; other files in it stay.

    Raises:
        ModelError: the card lacks something, or weights are not finite.
    """
    _write(decoder, folder)


def load_card(
    name: str, revision: str | None = None, *, token: str | None = None, endpoint: str | None = None
) -> dict[str, Any]:
    """The card alone, checked: what a decoder is, before anything large is read.

    Args:
        name: a folder, else a Hub id.
        revision: branch, tag or commit on the Hub.
        token: of the Hub; the one the Hub's client is logged in with where there is none.
        endpoint: of the Hub, where it is not the public one.

    Raises:
        ModelError: there is none, it cannot be fetched, or this version does not know it.
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
) -> Decoder:
    """Read a decoder from a folder, or from the Hub (through its cache, offline too).

    Args:
        name, revision, token, endpoint: as for `load_card`.
        model_loader: gives the language model that the card names, and its tokenizer; asked where the model is itself
            the decoder, and only after everything else was found whole. The model gets the decoder's adapters.
        device: where a T5 goes.

    Raises:
        ModelError: there is none, it cannot be fetched, or it is not what its card says.
    """
    root, card = _whole(name, revision, token, endpoint)
    tensors = _read_tensors(root / WEIGHTS)
    mean, scale = (check_scaling(tensors, part, card["width"], root / WEIGHTS) for part in SCALING)
    network = _network(root, card, model_loader, device)
    _fill(network, tensors, str(root / WEIGHTS))
    network.settle()
    return Decoder(network, mean, scale, card)


def push(
    decoder: Decoder,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a KA2L decoder",
    endpoint: str | None = None,
) -> str:
    """Upload what `save` writes, in one commit, to a repository that is made where it is missing; returns its address.

    Args:
        decoder: as for `save`.
        repo_id: owner/name, or a name under the account of the token.
        token: one that may write; the one the Hub's client is logged in with where there is none. It is not kept.
        private: of a new repository; the account's default where None.
        revision: a branch, made where it is missing.
        commit_message: first line of the commit.
        endpoint: of the Hub, where it is not the public one.

    Raises:
        ModelError: the Hub refuses or cannot be reached, or the decoder cannot be saved.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        card = _write(decoder, root, repo_id)
        return upload(
            [root / part for part in (WEIGHTS, *_t5_files(card), README, CARD)],
            repo_id,
            token=token,
            private=private,
            revision=revision,
            message=commit_message,
            endpoint=endpoint,
            root=root,
        )


def fingerprint(
    name: str, revision: str | None = None, *, token: str | None = None, endpoint: str | None = None
) -> str:
    """Pins a decoder: of everything `load` reads, wherever it lies.

    Raises:
        ModelError: as `load_card`.
    """
    root, card = _whole(name, revision, token, endpoint)
    digest = hashlib.sha256()
    for part in (CARD, WEIGHTS, *_t5_files(card)):
        with (root / part).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _write(decoder: Decoder, folder: Path, called: str = "FOLDER") -> dict[str, Any]:
    """`save`, with a README whose examples call the decoder by this name; returns the card."""
    network = decoder.network
    card = {
        "ka2l": __version__,
        **decoder.card,
        "t5_files": [],
        "format_version": FORMAT,
        "kind": network.kind,
    }
    card |= {"width": network.width, "settings": dict(card.get("settings") or {})}
    for name in _OF_THIS_MACHINE:
        card["settings"].pop(name, None)
    # A folder's path tells about a machine; what is in it is told by the revision.
    card |= {key: short_name(card[key]) for key in ("model", "base") if card.get(key)}
    check_card(card, "this decoder")
    tensors = {"mean": decoder.mean, "scale": decoder.scale}
    for name, parameter in network.parameters().items():
        tensors[_NETWORK + name] = parameter.detach().cpu().contiguous().numpy()
    check_tensors(tensors, "this decoder")
    atomic_files.remove(folder / CARD)  # never an old card beside new weights
    atomic_files.write_tensors(folder / WEIGHTS, tensors, {"kind": network.kind})
    atomic_files.remove(folder / T5)
    if card["kind"] == "t5":
        card["t5_files"] = _write_frame(network, folder / T5)
    atomic_files.write_text(folder / README, readme(card, called))
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
        if not (folder / CARD).is_file():
            inside = folder / "decoder"
            hint = f"Give {inside}." if (inside / CARD).is_file() else MAKE_ONE
            raise ModelError(f"{folder}: this folder holds no decoder ({CARD} missing). {hint}")
        return folder / CARD
    return download(name, (CARD,), revision, token=token, endpoint=endpoint)[0]


def _whole(
    name: str, revision: str | None, token: str | None, endpoint: str | None
) -> tuple[Path, dict[str, Any]]:
    """The folder with all files of a decoder, and its card."""
    file = _card_file(name, revision, token, endpoint)
    card = _read_card(file)
    parts = (WEIGHTS, *_t5_files(card))
    if Path(name).expanduser().is_dir():
        missing = [part for part in parts if not (file.parent / part).is_file()]
        if missing:
            raise ModelError(f"{name}: this decoder is not whole ({', '.join(missing)} missing). {MAKE_ONE}")
    else:  # snapshots/<commit>/decoder.json: the rest of the same commit, whatever is pushed meanwhile
        download(name, parts, file.parent.name, token=token, endpoint=endpoint)
    return file.parent, card


def _t5_files(card: Mapping[str, Any]) -> list[str]:
    return [f"{T5}/{name}" for name in card.get("t5_files", [])]


def _read_card(file: Path) -> dict[str, Any]:
    try:
        card = atomic_files.read_json(file)
    except ValueError as error:
        raise ModelError(f"{file}: this is not JSON ({error}). Fetch or save the decoder again.") from error
    check_card(card, str(file))
    checked: dict[str, Any] = card
    return checked


def _read_tensors(file: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError

    try:
        tensors, _ = atomic_files.read_tensors(file)
    except SafetensorError as error:
        raise ModelError(
            f"{file}: these are no weights ({error}). Fetch or save the decoder again."
        ) from error
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
            f"{root}: this decoder is {card['model']} itself, with an adapter, and needs that model. Give model_loader."
        )
    return SoftPromptNetwork(*model_loader(), card["width"], settings, seed=0)


@torch.no_grad()
def _fill(network: Network, tensors: Mapping[str, NDArray[Any]], where: str) -> None:
    """Put the weights where they belong, after all of them were found to fit."""
    parameters = network.parameters()
    shapes = {_NETWORK + name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: array.shape for name, array in tensors.items() if name not in SCALING}
    for name in sorted(shapes.keys() | found.keys()):
        if shapes.get(name) != found.get(name):
            raise ModelError(
                f"{where}: {name} is {_shape(found.get(name))}, where a decoder of kind {network.kind} on this model "
                f"has {_shape(shapes.get(name))}. The weights are of another model or other settings: save it again."
            )
    for name, parameter in parameters.items():
        parameter.copy_(torch.from_numpy(tensors[_NETWORK + name]))


def _shape(shape: Sequence[int] | None) -> str:
    return "not there" if shape is None else str(list(shape))
