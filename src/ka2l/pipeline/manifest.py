"""The manifest of a run: one record per stage, the format version, and reading it."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ka2l.common.atomic_files import read_json
from ka2l.common.version import __version__
from ka2l.errors import RunError

# Format of the run directory; increased when an older version of the program could misread a newer run.
FORMAT = 4
# A run of format 3 has its pool signals in parts, which `map` gathers.
_READ = (3, FORMAT)


@dataclass
class StageRecord:
    """One stage in the manifest."""

    state: Literal["running", "done"]
    key: str
    inputs: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    # Computed tokens only, without those saved by a cache.
    tokens_per_second: float = 0.0
    # Peak memory of the process, and of the GPU.
    memory_mb: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    # Small values that later stages and the report read.
    facts: dict[str, Any] = field(default_factory=dict)


def peak_memory_mb() -> dict[str, int]:
    """Peak memory since the process began, in MB: of the `process`, and of the `gpu` if PyTorch has used one."""
    import resource

    # ru_maxrss is in bytes on macOS, in KiB elsewhere.
    unit = 1024**2 if sys.platform == "darwin" else 1024
    peaks = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit}
    # Do not import torch for this: a stage may not need it.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        peaks["gpu"] = sum(torch.cuda.max_memory_allocated(device) for device in devices) // 1024**2
    return peaks


def library_versions() -> dict[str, str]:
    """Versions of the libraries that determine the results, without importing them."""
    from importlib import metadata

    versions = {"ka2l": __version__}
    for name in ("torch", "transformers", "peft", "trl", "scikit-learn", "numpy", "pyarrow"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def read_manifest(file: Path) -> dict[str, StageRecord]:
    """The records of a manifest.

    Raises:
        RunError: it is damaged, or its format is not one this version reads.
    """
    damaged = RunError(f"{file}: not a KA2L manifest. Choose another --out, or restore the file.")
    try:
        content = read_json(file)
        version = content["format"]
    except (ValueError, KeyError, TypeError):
        raise damaged from None
    if version not in _READ:
        raise RunError(
            f"{file.parent}: this run was made by KA2L {content.get('ka2l', '?')} (format {version}); this is KA2L "
            f"{__version__} (format {FORMAT}). Use that version, or start a new run with another --out."
        )
    try:
        return {name: StageRecord(**record) for name, record in content["stages"].items()}
    except (KeyError, TypeError, AttributeError):
        raise damaged from None
