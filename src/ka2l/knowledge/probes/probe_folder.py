"""Probe files, in a folder or on the Hub: weights (safetensors), card (JSON) and a README generated from the card.

    probe.save_pretrained("my-probe")
    probe.push_to_hub("me/my-probe")
    Probe.from_pretrained("me/my-probe", revision="v1").predict(states)

Files are checked before they are used: shapes that differ from the card, an unknown kind or another format are refused.
Nothing is unpickled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ka2l.common import atomic_files
from ka2l.common.hub import (
    check_files,
    check_format,
    download,
    local_folder,
    push_folder,
    read_card,
    read_weights,
)
from ka2l.common.version import __version__
from ka2l.errors import ModelError
from ka2l.knowledge.probes.calibration_curves import Floats
from ka2l.knowledge.probes.probe_readme import readme

ALL_LAYERS = -1  # `layer` of a probe that reads all layers
FORMAT = 1  # of the folder; increased when an older version could misread a newer folder
WEIGHTS, CARD, README = "probe.safetensors", "probe.json", "README.md"

TARGETS = ("label", "value", "correct", "both")
_Shape = tuple[str | int, ...]  # a name stands for the same number wherever it occurs
_SCALING: dict[str, _Shape] = {"mean": ("width",), "scale": ("width",)}
SHAPES: dict[str, dict[str, _Shape]] = {
    "linear": {**_SCALING, "weight": ("width",), "bias": (1,)},
    "mlp": {
        **_SCALING,
        "gate": ("width", "hidden"),
        "up": ("width", "hidden"),
        "down": ("hidden", "width"),
        "score": ("width", 2),
        "bias": (2,),
    },
    "mix": {
        "mean": ("layers", "width"),
        "scale": ("layers", "width"),
        "layers": ("layers",),
        "weight": ("width",),
        "bias": (1,),
    },
    "ensemble": {
        "mean": ("layers", "width"),
        "scale": ("layers", "width"),
        "weight": ("layers", "width"),
        "bias": (1,),
    },
}
_OF_ALL_LAYERS = ("mix", "ensemble")
CALIBRATIONS: dict[str, dict[str, _Shape]] = {
    "none": {},
    "platt": {"platt": (2,)},
    "isotonic": {"isotonic_x": ("steps",), "isotonic_y": ("steps",)},
}


class ProbeFields(NamedTuple):
    """The fields of `ka2l.knowledge.probes.probe.Probe`, in its order."""

    kind: str
    layer: int
    weights: dict[str, Floats]
    target: str
    calibration: str
    card: Mapping[str, Any]


def save(probe: ProbeFields, folder: Path) -> None:
    """Write `probe.safetensors`, `README.md` and, last, `probe.json`, so that a folder with it is complete.

    Args:
        probe: its kind, layer, target, calibration and width are added to its card. The README is generated from the
            card by `ka2l.knowledge.probes.probe_readme`.
        folder: created if missing; other files in it stay.

    Raises:
        ModelError: the probe's arrays do not fit together.
    """
    _write(probe, folder)


def load(
    name: str, revision: str | None = None, *, token: str | None = None, endpoint: str | None = None
) -> ProbeFields:
    """Read a probe from a folder, or from the Hub (through its cache, also offline).

    Args:
        name: a folder, else a Hub id.
        revision: branch, tag or commit on the Hub.
        token: of the Hub; None: the login of the Hub's client.
        endpoint: of the Hub; None: the public one.

    Raises:
        ModelError: no such probe, it cannot be downloaded, or its files differ from its card.
    """
    folder = local_folder(name, revision, "probe")
    if folder is not None:
        check_files(folder, (CARD, WEIGHTS), "probe", _MAKE_ONE)
        return _read(folder / CARD, folder / WEIGHTS)
    card, weights = download(name, (CARD, WEIGHTS), revision, token=token, endpoint=endpoint)
    return _read(card, weights)


def push(
    probe: ProbeFields,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a KA2L probe",
    endpoint: str | None = None,
) -> str:
    """Upload what `save` writes, in one commit, and return the repository's address; it is created if missing.

    Args:
        probe: as for `save`.
        repo_id: owner/name, or a name under the account of the token.
        token: with write access; None: the login of the Hub's client. It is not stored.
        private: of a new repository; None: the account's default.
        revision: a branch, created if missing.
        commit_message: first line of the commit message.
        endpoint: of the Hub; None: the public one.

    Raises:
        ModelError: the Hub refuses or cannot be reached, or the probe's arrays do not fit together.
    """
    return push_folder(
        lambda folder: _write(probe, folder, repo_id),
        repo_id,
        message=commit_message,
        token=token,
        private=private,
        revision=revision,
        endpoint=endpoint,
    )


_MAKE_ONE = "`ka2l probe` makes one (the run's folder probe/), and so does Probe.save_pretrained."


def _write(probe: ProbeFields, folder: Path, name: str = "FOLDER") -> Sequence[str]:
    """Write the three files and return their names; the README's examples use this name."""
    whole = {
        "ka2l": __version__,
        **probe.card,
        "format_version": FORMAT,
        "kind": probe.kind,
        "layer": probe.layer,
        "target": probe.target,
        "calibration": probe.calibration,
    }
    if "mean" in probe.weights:
        whole["width"] = int(probe.weights["mean"].shape[-1])
    _check_card(whole, "this probe")
    _check_weights(probe.weights, whole, "this probe")
    # The old card goes first: it must never stand beside new weights.
    atomic_files.remove(folder / CARD)
    weights = {name: np.ascontiguousarray(array) for name, array in probe.weights.items()}
    atomic_files.write_tensors(folder / WEIGHTS, weights, {"kind": probe.kind})
    atomic_files.write_text(folder / README, readme(whole, name))
    atomic_files.write_json(folder / CARD, whole)
    return WEIGHTS, README, CARD


def _read(card_file: Path, weights_file: Path) -> ProbeFields:
    card = read_card(card_file, "probe")
    _check_card(card, str(card_file))
    weights = read_weights(weights_file, "probe")
    _check_weights(weights, card, str(weights_file))
    return ProbeFields(card["kind"], card["layer"], weights, card["target"], card["calibration"], card)


def _check_card(card: Any, where: str) -> None:
    check_format(card, "probe", FORMAT, where, _MAKE_ONE)
    for key, known in (("kind", tuple(SHAPES)), ("target", TARGETS), ("calibration", tuple(CALIBRATIONS))):
        if card.get(key) not in known:
            raise ModelError(
                f"{where}: {key} is {card.get(key)!r}, and KA2L {__version__} knows {', '.join(known)}. "
                "Install a newer KA2L, or train the probe again."
            )
    layer: Any = card.get("layer")
    top = card.get("n_layers")
    fits = isinstance(layer, int) and (layer == ALL_LAYERS if card["kind"] in _OF_ALL_LAYERS else layer >= 0)
    if not fits or not (top is None or (isinstance(top, int) and layer <= top)):
        raise ModelError(
            f"{where}: layer {layer!r} of {top!r} does not fit kind {card['kind']} ({ALL_LAYERS} for "
            f"{' and '.join(_OF_ALL_LAYERS)}, else 0 to n_layers). Correct the card, or train the probe again."
        )


def _check_weights(weights: Mapping[str, Floats], card: Mapping[str, Any], where: str) -> None:
    wanted = SHAPES[card["kind"]] | CALIBRATIONS[card["calibration"]]
    whose = f"a probe of kind {card['kind']} with calibration {card['calibration']}"
    odd = sorted(set(wanted) ^ set(weights))
    if odd:
        which = "is missing" if odd[0] in wanted else "does not belong there"
        raise ModelError(f"{where}: {odd[0]} {which}; {whose} has {', '.join(wanted)}. Save the probe again.")
    sizes: dict[str | int, int] = {}
    if isinstance(card.get("width"), int):
        sizes["width"] = card["width"]
    if isinstance(card.get("n_layers"), int):
        sizes["layers"] = card["n_layers"] + 1
    for name, shape in wanted.items():
        array = weights[name]
        if array.ndim == len(shape):
            for size, label in zip(array.shape, shape, strict=True):
                sizes.setdefault(label, size if isinstance(label, str) else label)
        expected = tuple(sizes.get(label, label) for label in shape)
        if array.shape != expected or array.dtype != np.float32:
            raise ModelError(
                f"{where}: {name} is {array.dtype} {list(array.shape)}, where {whose} has float32 {list(expected)} "
                f"({', '.join(map(str, shape))}). Card and weights are of two probes: save the probe again."
            )
        if not np.isfinite(array).all():
            raise ModelError(f"{where}: {name} has values that are not finite. Train the probe again.")
