"""The run directory: named artifacts, the manifest, and what makes an interrupted run continue.

The manifest keeps each stage's content key. Same key, finished: skipped. Same key, unfinished: continued from its parts.
Another key: its artifacts are removed, and it starts again. How a file is written so that it is whole or absent is in
`common/atomic_files.py`. What a stage writes is in its declaration (`stage.py`) and is passed in here.
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

# No stage ever removes these, because they were paid for or given: answers of people, of a server, made elsewhere.
LABELS, PAID, IMPORTED = "labels.json", "paid.sqlite", "imported.parquet"
# Nor these: a model was asked for each of them.
JUDGEMENTS = "judgements.sqlite"
# What a run killed in its first moments leaves: such a folder may be started again.
_LEFTOVERS = {"config.yaml", ".config.yaml.tmp", ".manifest.json.tmp", IMPORTED, f".{IMPORTED}.tmp"}


class Written(NamedTuple):
    """An artifact a stage writes."""

    path: str  # below the folder of the stage's arm
    parts: bool = False  # a folder of numbered parts, finished when all of them are there
    working: bool = False  # only an unfinished stage has it


class RunDirectory:
    """One run on disk. Open it with `create` or `open`; nothing is written before the first stage begins."""

    def __init__(self, path: Path, config: RunConfig, stages: dict[str, StageRecord]):
        self.path = path
        self.config = config
        self.stages = stages
        # Settings it was opened with on top of its own, for messages.
        self.overrides: list[str] = []
        # What config.yaml holds, where stages work with another configuration.
        self._saved_config: RunConfig | None = None
        # Of each running stage: seconds spent before, and when it started.
        self._clocks: dict[str, tuple[float, float]] = {}

    @classmethod
    def open(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
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
        stages = read_manifest(file)  # first: another version's config would be refused for the wrong reason
        directory = cls(path, load_config(path / "config.yaml", overrides), stages)
        directory.overrides = list(overrides)
        return directory

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> Self:
        """The run at `path` with this config: a new one, or the one that is there, to be continued."""
        if path.is_file():
            raise RunError(f"{path}: this is a file; a run needs a folder.")
        file = path / "manifest.json"
        if file.exists():
            return cls(path, config, read_manifest(file))
        if path.is_dir() and any(entry.name not in _LEFTOVERS for entry in path.iterdir()):
            raise RunError(f"{path}: the folder is not empty and holds no run. Choose another --out.")
        return cls(path, config, {})

    def file(self, name: str, arm: str = MAIN) -> Path:
        """Where an artifact lies. Arms other than the main one keep theirs under arms/NAME."""
        return (self.path if arm == MAIN else self.path / "arms" / arm) / name

    def save_config(self) -> None:
        """Write config.yaml, the resolved configuration."""
        write_text(self.path / "config.yaml", to_yaml(self._saved_config or self.config))

    def working_with(self, config: RunConfig) -> Self:
        """The same run on disk, whose stages read another configuration; config.yaml stays as it is."""
        other = copy.copy(self)
        other.config, other._saved_config = config, self._saved_config or self.config
        return other

    def records_to_save(self) -> Mapping[str, StageRecord]:
        """The records that belong into this run's manifest."""
        return self.stages

    def is_done(self, stage: str, key: str, writes: Sequence[Written]) -> bool:
        """Whether this stage is finished under this key and what it writes is there."""
        record = self.stages.get(stage)
        if record is None or record.state != "done" or record.key != key:
            return False
        _, arm = split_stage(stage)
        # How many parts each folder of parts had at the end.
        counts = record.facts.get("parts", {})
        return all(
            len(atomic_files.parts(self.file(path, arm), "")) == counts[path]
            if path in counts
            else self.file(path, arm).exists()
            for path in (written.path for written in writes if not written.working)
        )

    def tidy(self, stage: str, writes: Sequence[Written]) -> None:
        """Remove what only an unfinished stage needs: a kill may have come between the end of a stage and this."""
        _, arm = split_stage(stage)
        for written in writes:
            if written.working:
                atomic_files.remove(self.file(written.path, arm))

    @contextmanager
    def stage(
        self, stage: str, key: str, inputs: Mapping[str, str], writes: Sequence[Written]
    ) -> Iterator[StageRecord]:
        """Run a stage: the body fills in counts and tokens; leaving it without an error marks the stage done.

        What an earlier, interrupted attempt under the same key has written is kept for the body to continue from;
        artifacts of another key are removed first.

        Args:
            stage: its name, with its arm.
            key: its content key.
            inputs: content keys of what it reads.
            writes: its artifacts.
        """
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
        spent = old.seconds if old is not None else 0.0
        # Counts and tokens of the parts an interrupted attempt finished are kept and added to.
        record = StageRecord("running", key, dict(inputs), seed=self.config.seed, versions=library_versions())
        if old is not None:
            record.counts, record.tokens = dict(old.counts), dict(old.tokens)
            record.memory_mb = dict(old.memory_mb)
        record.seconds = spent
        self.stages[stage] = record
        self._clocks[stage] = (spent, time.monotonic())
        self.save_config()
        self._save_manifest()
        try:
            yield record
        except BaseException as error:
            # Of two errors the first is the one to report.
            with suppress(RunError, OSError):
                self.checkpoint(stage)
            if is_disk_full(error):
                raise disk_full(self.path) from error
            raise
        record.state = "done"
        self.checkpoint(stage)

    def checkpoint(self, stage: str) -> None:
        """Save the manifest in the middle of a stage, so that a crash keeps its token counts and seconds."""
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
                self.stages = read_manifest(manifest)
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            if not self.path.exists():
                for folder in reversed(made):
                    if not any(folder.iterdir()):
                        folder.rmdir()


@dataclass(frozen=True)
class Attempt:
    """One stage about to be done in a run: what its work is given."""

    run: RunDirectory
    stage: str  # its name, with its arm: `select@random`
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
        """Where an artifact of its arm lies."""
        return self.run.file(name, self.arm)

    def part_counts(self) -> dict[str, int]:
        """How many parts each of its folders of parts has, for the fact `parts` of its record."""
        folders = [written.path for written in self.writes if written.parts and not written.working]
        return {path: len(atomic_files.parts(self.file(path), "")) for path in folders}


def _make_folders(folder: Path) -> list[Path]:
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]
