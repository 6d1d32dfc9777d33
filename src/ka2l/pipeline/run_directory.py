"""The run directory: named artifacts, the manifest, and what makes an interrupted run continue.

The manifest remembers each stage's content key: same key, finished: skipped; same key, unfinished: continued from its
parts; other key: its artifacts go, and it starts again. How a file is written so that it is whole or not there is in
`files`.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from ka2l.common import atomic_files
from ka2l.common.atomic_files import disk_full, is_disk_full, write_json, write_text
from ka2l.common.version import __version__
from ka2l.config.recipes import load_config, to_yaml
from ka2l.config.run_config import RunConfig
from ka2l.errors import ConfigError, RunError
from ka2l.pipeline.arms import MAIN, split_stage
from ka2l.pipeline.manifest import FORMAT, StageRecord, _read_manifest, library_versions, peak_memory_mb

MODEL_SCORES = "model_scores"  # parts of what `measure` asks a model for

POOL_IDS = "pool_signals/ids.parquet"  # sorted; the rows of every array of the pool's signals follow it


def signal_file(name: str) -> str:
    """Where the array of a pool signal lies."""
    return f"pool_signals/{name}.npy"


NEXT_TOKEN = ("next_token_entropy", "top_probability", "margin")  # signals of one forward pass

REPLAYED = "replayed.parquet"  # the model's own answers to known questions, taught beside the bought ones

OUTPUTS: dict[str, tuple[str, ...]] = {
    "load": ("questions.parquet",),
    "sample": ("answers", "states"),
    "measure": ("entropy.parquet", "threshold.json", MODEL_SCORES),
    "probe": ("probe",),
    "map": ("knowledge_map.parquet", POOL_IDS, signal_file("embedding"), "pool_signals/states"),
    "signals": (*map(signal_file, NEXT_TOKEN), "pool_signals/next_token"),
    "pool_answers": ("pool_answers",),
    "pool_entropy": (signal_file("semantic_entropy"),),
    "pool_likelihood": (signal_file("sequence_log_likelihood"), "pool_signals/likelihood"),
    "sentences": (signal_file("sentence_embedding"), "pool_signals/sentences"),
    "select": ("selection.parquet",),
    "decoder_states": ("decoder_states",),
    "decoder": ("decoder", "decoder_training"),
    "candidates": ("decoded",),
    "augment": ("augmented.parquet",),
    "annotate": ("annotations.parquet",),
    "replay": (REPLAYED,),
    "finetune": ("adapter", "checkpoints"),
    "evaluate": ("evaluation.json", "predictions.parquet", "predictions"),
    "outcomes": ("cell.json", "outcomes.parquet", "predictions.parquet"),
    "report": ("report.html",),
}
_SAMPLED = ("sample", "pool_answers")  # stages to which more samples can be added
WORKING = (
    "pool_signals/states",
    "pool_signals/next_token",
    "pool_signals/likelihood",
    "pool_signals/sentences",
    "checkpoints",
    "predictions",
    "decoder_training",
    MODEL_SCORES,
)  # outputs that only an unfinished stage has
# What no stage ever removes, because it was paid for or given: answers of people, of a server, of somebody before.
LABELS, PAID, IMPORTED = "labels.json", "paid.sqlite", "imported.parquet"
JUDGEMENTS = "judgements.sqlite"  # nor these: a model was asked for each of them
# What a run killed in its very first moments leaves: such a folder may be begun again.
_LEFTOVERS = {"config.yaml", ".config.yaml.tmp", ".manifest.json.tmp", IMPORTED, f".{IMPORTED}.tmp"}


class RunDirectory:
    """One run on disk. Open it with `create` or `open`; nothing is written before the first stage begins."""

    def __init__(self, path: Path, config: RunConfig, stages: dict[str, StageRecord]):
        self.path = path
        self.config = config
        self.stages = stages
        self.overrides: list[str] = []  # settings it was opened with on top of its own, for messages
        self._clocks: dict[
            str, tuple[float, float]
        ] = {}  # per running stage: seconds before, and when it started

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
        stages = _read_manifest(file)  # first: another version's config would be refused for the wrong reason
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
        """Whether this stage is finished under this key, for as many samples as wanted, and its artifacts are there."""
        record = self.stages.get(stage)
        if record is None or record.state != "done" or record.key != key:
            return False
        name, arm = split_stage(stage)
        if name in _SAMPLED and record.facts.get("samples", 0) < self.config.sample.n:
            return False
        counts = record.facts.get("parts", {})  # how many parts each folder of parts had at the end
        return all(
            len(atomic_files.parts(self.file(output, arm), "")) == counts[output]
            if output in counts
            else self.file(output, arm).exists()
            for output in OUTPUTS[name]
            if output not in WORKING
        )

    def tidy(self, stage: str) -> None:
        """Remove what only an unfinished stage needs: a kill may have come between the end of a stage and this."""
        name, arm = split_stage(stage)
        for output in OUTPUTS[name]:
            if output in WORKING:
                atomic_files.remove(self.file(output, arm))

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
                atomic_files.remove(self.file(output, arm))
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
            with suppress(RunError, OSError):  # of two errors the first is the one to tell
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


def _make_folders(folder: Path) -> list[Path]:
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]
