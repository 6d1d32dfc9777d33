"""A setting that a stage reads is in its content key: else a result made with another setting would look up to date."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config_recorder import ConfigRecorder
from ka2l.config.absolute_paths import with_absolute_paths
from ka2l.config.run_config import RunConfig
from ka2l.errors import DegenerateError
from ka2l.pipeline.arms import split_stage
from ka2l.pipeline.content_keys import keys, unread_of_measure
from ka2l.pipeline.context import Context
from ka2l.pipeline.identities import RunIdentities
from ka2l.pipeline.run import do_stage, load_stage
from ka2l.pipeline.run_directory import Attempt, RunDirectory
from ka2l.pipeline.stage import Stage
from ka2l.pipeline.stage_graph import plan
from ka2l.pipeline.stage_list import STAGES
from plans import OUTSIDE
from runs import RecordingReporter, questions_file, tiny_config
from tiny import TinyWorld

# These change the order of rounding, how often something is saved, or where a thing with an identity of its own lies.
ONLY_SPEED = {
    "finetune.save_steps",
    "map.part_size",
    "measure.batch_tokens",
    "measure.cache",
    "model.batch_tokens",
    "model.device",
    "model.threads",
    "sample.part_size",
    "server.url",
}
# What else is read and changes no result, and why.
EXPLAINED = {
    # Whether code that comes with a model may run; the revision says which code that is.
    "*": {"model.trust_remote_code"},
    # With a probe trained before there are no such stages.
    "sample": {"map.probe"},
    "measure": {"map.probe"},
    "probe": {"map.probe"},
    # Read by the check that the probe fits the model that answers; the check changes no output.
    "decoder_states": {"sample.engine"},
    # As before. The others are copied into the decoder's card, which also has settings that its kind does not read.
    "decoder": {"sample.engine", "decoder.pseudo_tokens", "decoder.t5_revision", "decoder.pretrained_revision"},
}
# Every stage works in one of these; a run ends at the named stage.
CASES: dict[str, tuple[str, list[str]]] = {
    "whole": ("report", ["select.strategy=unknown_diverse", "finetune.replay=0.5", "finetune.epochs=1"]),
    "signals": (
        "select@likelihood",
        [
            "select.strategy=badge",
            "select.baseline=likelihood",
            "select.space=sentence",
            "select.near_copy=0.95",
            "measure.scores=[p_true, eigenscore, kernel_entropy]",
        ],
    ),
    "entropy": (
        "select",
        [
            "select.strategy=semantic_entropy",
            "select.baseline=null",
            "measure.judge=embedding",
            "measure.embedding_threshold=0.7",
        ],
    ),
    # With the probe of the first case.
    "given": ("replay", ["map.probe=whole/probe", "finetune.replay=0.5", "select.baseline=null", "seed=1"]),
    "augment": (
        "augment",
        [
            "questions.roles={probe: 0.35, pool: 0.2, eval: 0.1, decoder: 0.35}",
            "annotate.annotator=file",
            "select.budget=2",
            "decoder.validation=4",
            "decoder.epochs=1",
            "augment.per_question=1",
            "augment.max_new_tokens=4",
        ],
    ),
}


def forget(context: Context) -> None:
    """Drop what earlier stages have read of the configuration and kept, so that the next stage reads it again."""
    loaded = context.identities.loaded
    context.release()
    context.identities = RunIdentities(context.run)
    context.identities.loaded = loaded
    for name in ("prompts", "tokenizer", "base_key"):
        vars(context).pop(name, None)


def run_recorded(recorder: ConfigRecorder, config: RunConfig, out: Path, last: str) -> dict[str, set[str]]:
    """Run the stages up to `last`; returns what their keys do not cover."""
    config = with_absolute_paths(config)
    directory = RunDirectory.create(out, config)
    stages = plan([recorder.watched(stage, forget) for stage in STAGES], config)
    with directory.locked():
        context = Context(directory, RecordingReporter(), stages)
        load_stage(context)
        for stage in list(stages.stages)[1:]:
            try:
                do_stage(context, stage)
            except DegenerateError:
                # The tiny decoder has learned nothing in one epoch, so no question is kept.
                assert stage == "augment"
            if stage == last:
                break
    fields = recorder.identity_fields(RunIdentities(directory))
    found = recorder.uncovered(stages, fields, ONLY_SPEED | EXPLAINED["*"])
    # Passed on to functions that do not use them with this judge, these scores and this rule.
    unread = {f"measure.{name}" for name in unread_of_measure(config)}
    explained = {**EXPLAINED, "measure": EXPLAINED["measure"] | unread, "pool_entropy": unread}
    left = {stage: names - explained.get(split_stage(stage)[0], set()) for stage, names in found.items()}
    return {stage: names for stage, names in left.items() if names}


def test_what_a_stage_reads_is_in_its_key(tiny_world: TinyWorld, tmp_path: Path) -> None:
    worked: set[str] = set()
    for case, (last, settings) in CASES.items():
        here = [setting.replace("=whole/", f"={tmp_path}/whole/") for setting in settings]
        config = tiny_config(tiny_world, questions_file(tiny_world, tmp_path), *here)
        with pytest.MonkeyPatch.context() as patch:
            recorder = ConfigRecorder(patch)
            assert run_recorded(recorder, config, tmp_path / case, last) == {}, case
        worked |= {split_stage(stage)[0] for stage in recorder.work}
    assert recorder.work["sample"] >= {"sample.n", "sample.temperature", "seed", "model.name"}
    assert worked == {stage.name for stage in STAGES}


def test_a_planted_reading_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that reads two settings and hashes one; what an input's key has is covered, and what is copied counts."""
    recorder = ConfigRecorder(monkeypatch)

    def work(context: Any, _attempt: Attempt) -> None:
        copied = context.config.sample.model_copy(update={"n": 3})
        read = (copied.temperature, context.config.select.budget, context.config.teaching_seed)
        context.config.measure.model_dump(include={"judge", "cache"})
        assert len(read) == 3

    def nothing(_context: Any, _attempt: Attempt) -> None:
        """The first stage reads no setting."""

    first = Stage[Any](
        "first",
        "load",
        work=nothing,
        reads=lambda _config, _arm: [],
        settings=lambda config, _arm, known: [config.sample.temperature, known.model],
        writes=(),
    )
    second = Stage[Any](
        "report",
        "report",
        work=work,
        reads=lambda _config, _arm: ["first"],
        settings=lambda config, _arm, _known: [config.seed],
        writes=(),
    )
    config = RunConfig()
    stages = plan([recorder.watched(first), recorder.watched(second)], config)
    keys(config, stages, OUTSIDE)
    context = SimpleNamespace(config=config)
    for stage in stages.stages.values():
        stage.work(context, Attempt(RunDirectory(tmp_path, config, {}), stage.name, "", {}, ()))
    found = recorder.uncovered(stages, {"model": {"model.name"}}, {"measure.cache"})
    assert found == {"report": {"select.budget", "finetune.seed", "measure.judge"}}
    assert recorder.identities == {"first": {"model"}, "report": set()}
