"""The checkpoint of a decoder's training in one file: tensors, and everything else in its header.

One file is replaced atomically, so it never mixes two steps. It has no random state: everything random follows from the
seed and the step.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ka2l.common import atomic_files

_FILE = "training.safetensors"
Tensors = dict[str, torch.Tensor]


@dataclass
class Progress:
    """How far the training is."""

    step: int = 0
    tokens: int = 0
    """Of the questions trained on, all epochs together."""
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry a validation check."""
    done: bool = False


class Checkpoint(NamedTuple):
    """Progress, and by parameter: its value now, AdamW's two moments, and its value at the best validation check.

    The names of the fields are part of the names in the file.
    """

    progress: Progress
    now: Tensors
    first: Tensors
    second: Tensors
    best: Tensors


def write_checkpoint(folder: Path, fingerprint: str, checkpoint: Checkpoint) -> None:
    """Replace the previous checkpoint atomically."""
    tensors = {
        f"{part}/{name}": tensor.detach().cpu().contiguous().numpy()
        for part, group in zip(checkpoint._fields[1:], checkpoint[1:], strict=True)
        for name, tensor in group.items()
    }
    header = {"fingerprint": fingerprint, "progress": json.dumps(asdict(checkpoint.progress))}
    atomic_files.write_tensors(folder / _FILE, tensors, header)


def read_checkpoint(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint of the training with this fingerprint; one of another training, or a damaged one, is removed."""
    from safetensors import SafetensorError

    file = folder / _FILE
    if not file.is_file():
        return None
    try:
        if atomic_files.read_tensors_metadata(file).get("fingerprint") == fingerprint:
            tensors, header = atomic_files.read_tensors(file)
            return Checkpoint(Progress(**json.loads(header["progress"])), *_groups(tensors))
    except SafetensorError:
        pass
    file.unlink()
    return None


def _groups(tensors: Mapping[str, Any]) -> list[Tensors]:
    groups: dict[str, Tensors] = {part: {} for part in Checkpoint._fields[1:]}
    for key, array in tensors.items():
        part, _, name = key.partition("/")
        groups[part][name] = torch.from_numpy(array)
    return list(groups.values())
