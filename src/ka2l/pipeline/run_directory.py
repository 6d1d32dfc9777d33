"""The run directory: named artifacts, the manifest, and how an interrupted run continues.

The manifest keeps each stage's content key. A finished stage with the same key is skipped; an unfinished one with the
same key continues from its parts. If the key is another, the stage's artifacts are removed and it starts again. How a
file is written so that it is complete or absent is in `common/atomic_files.py`. What a stage writes is in its
declaration (`stage.py`) and is passed in here.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Self

from ka2l.common import atomic_files
from ka2l.common.atomic_files import disk_full, is_disk_full, write_json, write_text
from ka2l.common.version import __version__
from ka2l.config.recipes import load_config, to_yaml
from ka2l.config.run_config import RunConfig
from ka2l.errors import ConfigError, RunError
from ka2l.pipeline.arms import MAIN, split_stage
from ka2l.pipeline.manifest import FORMAT, StageRecord, library_versions, peak_memory_mb, read_manifest

# No stage removes these files, because they cannot be computed again or were paid for: answers from people, answers
# from a server, answers made elsewhere.
LABELS, PAID, IMPORTED = "labels.json", "paid.sqlite", "imported.parquet"
# No stage removes the judgements either: each took a pass of a model.
JUDGEMENTS = "judgements.sqlite"
# Files that a run killed before its first stage may leave. A run may start in a folder with only these.
_LEFTOVERS = {"config.yaml", ".config.yaml.tmp", ".manifest.json.tmp", IMPORTED, f".{IMPORTED}.tmp"}


class Written(NamedTuple):
    """An artifact a stage writes."""

    # Relative to the folder of the stage's arm.
    path: str
    # Whether it is a folder of numbered parts, finished when all of them are there.
    parts: bool = False
    # Whether only an unfinished stage has it.
    working: bool = False


class RunDirectory:
    """One run on disk. Open it with `create` or `open`; nothing is written before the first stage begins."""

    def __init__(self, path: Path, config: RunConfig, stages: dict[str, StageRecord]):
        self.path = path
        self.config = config
        self.stages = stages
        # The settings given when it was opened, for messages.
        self.overrides: list[str] = []
        # The configuration in config.yaml, if stages work with another one.
        self._saved_config: RunConfig | None = None
        # For each running stage: the seconds of earlier attempts, and when this attempt started.
        self._clocks: dict[str, tuple[float, float]] = {}

    @classmethod
    def open(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """Open an existing run with its own configuration, changed by these overrides.

        Raises:
            ConfigError: an override sets a preset.
            RunError: no run there, a damaged manifest, or one of another format.
        """
        file = path / "manifest.json"
        if not file.exists():
            raise RunError(f"{path}: no run here (manifest.json is missing). Start one: ka2l run RECIPE --out {path}")
        if any(override.startswith("preset=") for override in overrides):
            raise ConfigError(
                f"{path}: a preset can only be given when a run starts; this run has every setting in its config.yaml. "
                "Start a new run with another --out."
            )
        # The manifest is read first: of a run of another version, the config would be refused for the wrong reason.
        stages = read_manifest(file)
        directory = cls(path, load_config(path / "config.yaml", overrides), stages)
        directory.overrides = list(overrides)
        return directory

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> Self:
        """The run at `path` with this configuration: a new run, or the existing one to continue."""
        if path.is_file():
            raise RunError(f"{path}: this is a file; a run needs a folder.")
        file = path / "manifest.json"
        if file.exists():
            return cls(path, config, read_manifest(file))
        if path.is_dir() and any(entry.name not in _LEFTOVERS for entry in path.iterdir()):
            raise RunError(f"{path}: the folder is not empty and holds no run. Choose another --out.")
        return cls(path, config, {})

    def file(self, name: str, arm: str = MAIN) -> Path:
        """The path of an artifact. Arms other than the main one have theirs under arms/NAME."""
        return (self.path if arm == MAIN else self.path / "arms" / arm) / name

    def save_config(self) -> None:
        """Write config.yaml, the resolved configuration."""
        write_text(self.path / "config.yaml", to_yaml(self._saved_config or self.config))

    def working_with(self, config: RunConfig) -> Self:
        """The same run on disk, with another configuration for its stages; config.yaml stays as it is."""
        other = copy.copy(self)
        other.config, other._saved_config = config, self._saved_config or self.config
        return other

    def records_to_save(self) -> Mapping[str, StageRecord]:
        """The records that this run's manifest contains."""
        return self.stages

    def is_done(self, stage: str, key: str, writes: Sequence[Written]) -> bool:
        """Whether this stage is finished under this key and its artifacts exist."""
        record = self.stages.get(stage)
        if record is None or record.state != "done" or record.key != key:
            return False
        _, arm = split_stage(stage)
        # Number of parts of each folder of parts when the stage was finished.
        counts = record.facts.get("parts", {})
        return all(
            len(atomic_files.parts(self.file(path, arm), "")) == counts[path]
            if path in counts
            else self.file(path, arm).exists()
            for path in (written.path for written in writes if not written.working)
        )

    def tidy(self, stage: str, writes: Sequence[Written]) -> None:
        """Remove what only an unfinished stage needs; if the process is killed before this, it is done next time."""
        _, arm = split_stage(stage)
        for written in writes:
            if written.working:
                atomic_files.remove(self.file(written.path, arm))

    @contextmanager
    def stage(
        self, stage: str, key: str, inputs: Mapping[str, str], writes: Sequence[Written]
    ) -> Iterator[StageRecord]:
        """Run a stage. The body fills in counts and tokens; the stage is done if the body ends without an error.

        Artifacts that an interrupted attempt under the same key has written are kept, and the body continues from them.
        Artifacts of another key are removed first.

        Args:
            stage: its name, with its arm.
            key: its content key.
            inputs: content keys of what it reads.
            writes: its artifacts.
        """
        record = self._start(stage, key, inputs, writes)
        try:
            yield record
        except BaseException as error:
            # If saving the manifest fails too, the first error is the one to report.
            with suppress(RunError, OSError):
                self.checkpoint(stage)
            if is_disk_full(error):
                raise disk_full(self.path) from error
            raise
        record.state = "done"
        self.checkpoint(stage)

    def _start(self, stage: str, key: str, inputs: Mapping[str, str], writes: Sequence[Written]) -> StageRecord:
        """Remove artifacts of another key, and write a record of the running stage to the manifest."""
        _, arm = split_stage(stage)
        old = self.stages.get(stage)
        if old is not None and old.key != key:
            # The record goes first: a crash while artifacts are removed must not leave them marked as done.
            del self.stages[stage]
            self._save_manifest()
            old = None
        if old is None:
            for written in writes:
                atomic_files.remove(self.file(written.path, arm))
        record = StageRecord("running", key, dict(inputs), seed=self.config.seed, versions=library_versions())
        if old is not None:
            # Counts and tokens of the parts that an interrupted attempt finished are added to.
            record.counts, record.tokens = dict(old.counts), dict(old.tokens)
            record.memory_mb, record.seconds = dict(old.memory_mb), old.seconds
        self.stages[stage] = record
        self._clocks[stage] = (record.seconds, time.monotonic())
        self.save_config()
        self._save_manifest()
        return record

    def checkpoint(self, stage: str) -> None:
        """Save the manifest during a stage, so that a crash does not lose its token counts and seconds."""
        before, started = self._clocks[stage]
        record = self.stages[stage]
        record.seconds = round(before + time.monotonic() - started, 3)
        computed = sum(count for name, count in record.tokens.items() if not name.endswith("saved"))
        record.tokens_per_second = round(computed / record.seconds, 1) if record.seconds else 0.0
        for name, peak in peak_memory_mb().items():
            record.memory_mb[name] = max(peak, record.memory_mb.get(name, 0))
        self._save_manifest()

    def _save_manifest(self) -> None:
        content = {
            "format": FORMAT,
            "ka2l": __version__,
            "stages": {name: asdict(record) for name, record in self.records_to_save().items()},
        }
        write_json(self.path / "manifest.json", content)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this process. The lock is a file beside the run, so that a failed start leaves nothing
        behind.

        Raises:
            RunError: another process is working on this run.
        """
        from filelock import FileLock, Timeout

        parent = self.path.resolve().parent
        created = _make_folders(parent)
        lock = FileLock(parent / f".{self.path.resolve().name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(
                f"{self.path}: another ka2l process is working on this run. Wait for it, or stop it."
            ) from None
        try:
            manifest = self.path / "manifest.json"
            # Another process may have worked on the run since it was opened.
            if manifest.exists():
                self.stages = read_manifest(manifest)
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            if not self.path.exists():
                for folder in reversed(created):
                    if not any(folder.iterdir()):
                        folder.rmdir()


@dataclass(frozen=True)
class Attempt:
    """A stage that is about to run: the value that its `work` gets."""

    run: RunDirectory
    # Its name, with its arm: `select@random`.
    stage: str
    key: str
    inputs: Mapping[str, str]
    writes: tuple[Written, ...]

    @property
    def arm(self) -> str:
        """The arm it belongs to."""
        return split_stage(self.stage)[1]

    @property
    def record(self) -> StageRecord:
        """Its record in the manifest, once it has begun."""
        return self.run.stages[self.stage]

    def begin(self) -> AbstractContextManager[StageRecord]:
        """See `RunDirectory.stage`."""
        return self.run.stage(self.stage, self.key, self.inputs, self.writes)

    def checkpoint(self) -> None:
        """See `RunDirectory.checkpoint`."""
        self.run.checkpoint(self.stage)

    def file(self, name: str) -> Path:
        """The path of an artifact of its arm."""
        return self.run.file(name, self.arm)

    def part_counts(self) -> dict[str, int]:
        """Number of parts in each of its folders of parts, for the fact `parts` of its record."""
        folders = [written.path for written in self.writes if written.parts and not written.working]
        return {path: len(atomic_files.parts(self.file(path), "")) for path in folders}


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and its parents; returns those that were missing, the outermost first."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]
