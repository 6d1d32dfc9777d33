"""The manifest of a run: one record per stage, its format version, and how it is read."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ka2l.common.atomic_files import read_json
from ka2l.common.version import __version__
from ka2l.errors import RunError

# Of the run directory; raised when an older program could misread a newer one.
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
    tokens_per_second: float = 0.0  # of those that were computed
    memory_mb: dict[str, int] = field(default_factory=dict)  # highest so far: of the process, and of the GPU
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    facts: dict[str, Any] = field(default_factory=dict)  # small things later stages and the report read


def peak_memory_mb() -> dict[str, int]:
    """High-water marks since the process began: `process`, and `gpu` where PyTorch has used one."""
    import resource

    unit = 1024**2 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit}
    torch = sys.modules.get("torch")  # a stage that did not need it does not load it for this
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        found["gpu"] = sum(torch.cuda.max_memory_allocated(device) for device in devices) // 1024**2
    return found


def library_versions() -> dict[str, str]:
    """Versions of what decides the results, without importing any of it."""
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
        RunError: it is damaged, or of a format this version does not read.
    """
    damaged = RunError(f"{file}: not a KA2L manifest. Choose another --out, or restore the file.")
    try:
        content = read_json(file)
        found = content["format"]
    except (ValueError, KeyError, TypeError):
        raise damaged from None
    if found not in _READ:
        raise RunError(
            f"{file.parent}: this run was made by KA2L {content.get('ka2l', '?')} (format {found}); this is KA2L "
            f"{__version__} (format {FORMAT}). Use that version, or start a new run with another --out."
        )
    try:
        return {name: StageRecord(**record) for name, record in content["stages"].items()}
    except (KeyError, TypeError, AttributeError):
        raise damaged from None
