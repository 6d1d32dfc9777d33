"""The run directory: named artifacts, the manifest, and what makes an interrupted run continue.

Every artifact is written to a temporary file, synced and renamed, so a file that exists is whole. A stage that works
for long writes numbered parts; a part that exists is done. The manifest remembers each stage's content key: same key,
finished: skipped; same key, unfinished: continued from its parts; other key: its artifacts go, and it starts again.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ka2l import __version__
from ka2l.config import RunConfig
from ka2l.errors import ConfigError, RunError
from ka2l.recipe import load_config, to_yaml

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

FORMAT = 1  # of the run directory; raised when an older program could misread a newer one
MAIN = "main"  # the arm of select.strategy; select.baseline has its own folder under arms/

OUTPUTS: dict[str, tuple[str, ...]] = {
    "load": ("questions.parquet",),
    "sample": ("answers", "states"),
    "measure": ("entropy.parquet", "threshold.json"),
    "probe": ("probe",),
    "map": ("knowledge_map.parquet", "pool_signals/states"),
    "signals": ("pool_signals/next_token",),
    "select": ("selection.parquet",),
    "annotate": ("annotations.parquet",),
    "finetune": ("adapter", "checkpoints"),
    "evaluate": ("evaluation.json", "predictions.parquet", "predictions"),
    "report": ("report.html",),
}
WORKING = ("checkpoints", "predictions")  # outputs that only an unfinished stage has
# What a run killed in its very first moments leaves: such a folder may be begun again.
_LEFTOVERS = {"config.yaml", ".config.yaml.tmp", ".manifest.json.tmp"}


@dataclass
class StageRecord:
    """One stage in the manifest."""

    state: str  # running | done
    key: str
    inputs: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    facts: dict[str, Any] = field(default_factory=dict)  # small things later stages and the report read


class RunDirectory:
    """One run on disk. Open it with `create` or `open`; nothing is written before the first stage begins."""

    def __init__(self, path: Path, config: RunConfig, stages: dict[str, StageRecord]):
        self.path = path
        self.config = config
        self.stages = stages
        self._clocks: dict[
            str, tuple[float, float]
        ] = {}  # per running stage: seconds before, and when it started

    @classmethod
    def open(cls, path: Path, overrides: Sequence[str] = ()) -> "RunDirectory":
        """An existing run, with the config it was made with and these overrides on top.

        Raises:
            RunError: no run there, a damaged manifest, or one of another format.
        """
        file = path / "manifest.json"
        if not file.exists():
            raise RunError(
                f"{path}: no run here (manifest.json is missing). Start one: ka2l run RECIPE --out {path}"
            )
        if any(override.startswith("preset=") for override in overrides):
            raise ConfigError(
                f"{path}: a preset is where a run starts from; this one has every setting spelled out in config.yaml. "
                "Start a new run with another --out."
            )
        stages = _read_manifest(file)  # first: another version's config would be refused for the wrong reason
        return cls(path, load_config(path / "config.yaml", overrides), stages)

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunDirectory":
        """The run at `path` with this config: a new one, or the one that is there, to be continued."""
        if path.is_file():
            raise RunError(f"{path}: this is a file; a run needs a folder.")
        file = path / "manifest.json"
        if file.exists():
            return cls(path, config, _read_manifest(file))
        if path.is_dir() and any(entry.name not in _LEFTOVERS for entry in path.iterdir()):
            raise RunError(f"{path}: the folder is not empty and holds no run. Choose another --out.")
        return cls(path, config, {})

    def file(self, name: str, arm: str = MAIN) -> Path:
        """Where an artifact lies. Arms other than the main one keep theirs under arms/NAME."""
        return (self.path if arm == MAIN else self.path / "arms" / arm) / name

    def save_config(self) -> None:
        """Write config.yaml, the resolved configuration."""
        write_text(self.path / "config.yaml", to_yaml(self.config))

    def is_done(self, stage: str, key: str) -> bool:
        """Whether this stage is finished under this key and its artifacts are there."""
        record = self.stages.get(stage)
        if record is None or record.state != "done" or record.key != key:
            return False
        name, arm = split_stage(stage)
        return all(self.file(output, arm).exists() for output in OUTPUTS[name] if output not in WORKING)

    @contextmanager
    def stage(self, stage: str, key: str, inputs: Mapping[str, str]) -> Iterator[StageRecord]:
        """Run a stage: the body fills in counts and tokens; leaving it without an error marks the stage done.

        What an earlier, interrupted attempt under the same key has written stays for the body to find; artifacts of
        another key are removed first.
        """
        name, arm = split_stage(stage)
        old = self.stages.get(stage)
        if old is not None and old.key != key:
            # The record goes first: a crash while artifacts are removed must not leave them marked as done.
            del self.stages[stage]
            self._save_manifest()
            old = None
        if old is None:
            for output in OUTPUTS[name]:
                remove(self.file(output, arm))
        spent = old.seconds if old is not None else 0.0
        # Counts and tokens of the parts an interrupted attempt finished are kept and added to.
        record = StageRecord("running", key, dict(inputs), seed=self.config.seed, versions=library_versions())
        if old is not None:
            record.counts, record.tokens = dict(old.counts), dict(old.tokens)
        record.seconds = spent
        self.stages[stage] = record
        self._clocks[stage] = (spent, time.monotonic())
        self.save_config()
        self._save_manifest()
        try:
            yield record
        except BaseException as error:
            with suppress(RunError, OSError):  # of two errors the first is the one to tell
                self.checkpoint(stage)
            if is_disk_full(error):
                raise _disk_full(self.path) from error
            raise
        record.state = "done"
        self.checkpoint(stage)

    def checkpoint(self, stage: str) -> None:
        """Save the manifest in the middle of a stage, so that a crash keeps its token counts and seconds."""
        before, started = self._clocks[stage]
        self.stages[stage].seconds = round(before + time.monotonic() - started, 3)
        self._save_manifest()

    def _save_manifest(self) -> None:
        content = {
            "format": FORMAT,
            "ka2l": __version__,
            "stages": {name: asdict(record) for name, record in self.stages.items()},
        }
        write_json(self.path / "manifest.json", content)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; a second one gets a clear error instead of a mess.

        The lock is a file beside the run, so that a run that fails before its first stage leaves nothing behind.
        """
        from filelock import FileLock, Timeout

        parent = self.path.resolve().parent
        made = _make_folders(parent)
        lock = FileLock(parent / f".{self.path.resolve().name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(
                f"{self.path}: another ka2l process is working on this run. Wait for it, or stop it."
            ) from None
        try:
            manifest = self.path / "manifest.json"
            if manifest.exists():  # another process may have worked on it since it was opened
                self.stages = _read_manifest(manifest)
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            if not self.path.exists():
                for folder in reversed(made):
                    if not any(folder.iterdir()):
                        folder.rmdir()


def split_stage(stage: str) -> tuple[str, str]:
    """`select@random` → (`select`, `random`); `select` → (`select`, `main`)."""
    name, _, arm = stage.partition("@")
    return name, arm or MAIN


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN is not JSON and is refused."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: Path, table: "pa.Table") -> None:
    """Write a Parquet file atomically."""
    import pyarrow.parquet as pq

    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: Path, columns: list[str] | None = None) -> "pa.Table":
    """Read a Parquet file."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read(columns=columns)


def write_tensors(
    path: Path, tensors: Mapping[str, "NDArray[np.generic]"], metadata: Mapping[str, str]
) -> None:
    """Write arrays to a safetensors file atomically."""
    from safetensors.numpy import save_file

    with atomic(path) as temporary:
        save_file(dict(tensors), temporary, metadata=dict(metadata))


def read_tensors(path: Path) -> tuple[dict[str, "NDArray[Any]"], dict[str, str]]:
    """Arrays and metadata of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_tensors_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, without reading its arrays."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata() or {})


def parts(folder: Path, suffix: str) -> list[Path]:
    """The finished parts of a folder in order."""
    return sorted(folder.glob(f"part-*{suffix}"))


def next_part(folder: Path, suffix: str) -> Path:
    """Where the next part goes."""
    finished = parts(folder, suffix)
    number = int(finished[-1].name.removesuffix(suffix).split("-")[1]) + 1 if finished else 0
    return folder / f"part-{number:05d}{suffix}"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when the body ends without an error, else goes away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except Exception as error:
        if is_disk_full(error):
            raise _disk_full(path) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether this error means a full disk or quota; not every library raises it as an OSError."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors says it in words; torch.save only that it could not write where it was.
    words = ("No space left on device", "PytorchStreamWriter failed writing", "unexpected pos")
    return not isinstance(error, RunError) and any(word in str(error) for word in words)


def _disk_full(path: Path) -> RunError:
    return RunError(
        f"{path}: the disk is full. Free some space and run the same command again: the parts written so far are "
        "whole and will be used."
    )


def remove(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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


def _read_manifest(file: Path) -> dict[str, StageRecord]:
    damaged = RunError(f"{file}: not a KA2L manifest. Choose another --out, or restore the file.")
    try:
        content = read_json(file)
        found = content["format"]
    except (ValueError, KeyError, TypeError):
        raise damaged from None
    if found != FORMAT:
        raise RunError(
            f"{file.parent}: this run was made by KA2L {content.get('ka2l', '?')} (format {found}); this is KA2L "
            f"{__version__} (format {FORMAT}). Use that version, or start a new run with another --out."
        )
    try:
        return {name: StageRecord(**record) for name, record in content["stages"].items()}
    except (KeyError, TypeError, AttributeError):
        raise damaged from None


def _make_folders(folder: Path) -> list[Path]:
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]
