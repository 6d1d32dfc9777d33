"""What a changed setting redoes: exactly the stages that read it and those after them."""

from pathlib import Path

import pytest

from ka2l.pipeline import run
from ka2l.recipe import load_config
from ka2l.stages import Outside, all_stages, keys
from ka2l.store import OUTPUTS, WORKING, RunDirectory, split_stage
from runs import Ear, copy_of, times

OUTSIDE = Outside(source="questions-1", model="tiny@1", labels="")
SENSE = ["load", "sample", "measure", "probe", "map"]
MAIN_ARM = ["select", "annotate", "finetune"]
BASELINE_ARM = ["select@random", "annotate@random", "finetune@random"]
END = ["evaluate", "report"]
BOTH_ARMS = MAIN_ARM + BASELINE_ARM
ALL = SENSE + BOTH_ARMS + END

# What is changed, and what is redone: everything else stays.
TABLE: list[tuple[str, list[str]]] = [
    ("seed=1", ALL),
    ("questions.limit=50", ALL),
    ("questions.roles.pool=0.4", ALL),
    ("questions.columns.answers=[gold]", ALL),
    ("prompt.shots=1", ALL),
    ("prompt.teaching_shots=1", ALL),
    ("prompt.instruction=Answer.", ALL[1:]),
    ("prompt.template=chat", ALL[1:]),
    ("sample.n=5", ALL[1:]),
    ("sample.temperature=0.9", ALL[1:]),
    ("sample.low_temperature=0", ALL[1:]),
    ("sample.max_new_tokens=9", ALL[1:]),
    ("probe.position=mean_prompt", ALL[1:]),
    ("measure.threshold=0.5", ALL[2:]),
    ("measure.judge=nli", ALL[2:]),
    ("measure.correct=f1", ALL[2:]),
    ("measure.split=[0.5, 0.25, 0.25]", ALL[2:]),
    ("probe.kinds=[linear]", ALL[3:]),
    ("probe.mlp_width=16", ALL[3:]),
    ("probe.bootstrap=200", ALL[3:]),
    ("select.budget=9", BOTH_ARMS + END),
    ("select.draw=random", MAIN_ARM + END),  # a random arm draws anyway
    ("select.strategy=known", MAIN_ARM + END),
    ("select.baseline=null", END),
    ("annotate.cost_per_label=2", ["annotate", "annotate@random", "finetune", "finetune@random", *END]),
    ("finetune.epochs=1", ["finetune", "finetune@random", *END]),
    ("finetune.learning_rate=1e-3", ["finetune", "finetune@random", *END]),
    ("finetune.lora_rank=3", ["finetune", "finetune@random", *END]),
    ("finetune.batch_size=3", ["finetune", "finetune@random", *END]),  # another number of updates
    ("evaluate.max_new_tokens=9", END),
    ("evaluate.temperature=0.1", END),
    ("evaluate.rewordings=0", END),
    ("evaluate.unbought=3", END),
    ("report.title=New", ["report"]),
    ("report.cases=2", ["report"]),
    # What the chosen source, judge or strategy does not read; where the questions lie.
    ("questions.source=other.jsonl", []),
    ("questions.geonames.capitals=1", []),
    ("measure.nli_model=mine", []),
    ("select.known_fraction=0.4", []),
    # Nothing is paid for twice because of a smaller batch or another device.
    ("sample.part_size=3", []),
    ("measure.nli_batch_size=3", []),
    ("map.part_size=3", []),
    ("finetune.save_steps=3", []),
    ("model.threads=2", []),
    ("model.device=cpu", []),
]


@pytest.mark.parametrize(("change", "redone"), TABLE, ids=[change for change, _ in TABLE])
def test_a_changed_setting_redoes_what_depends_on_it(change: str, redone: list[str]) -> None:
    before = keys(load_config(None), OUTSIDE)
    after = keys(load_config(None, [change]), OUTSIDE)
    changed = {stage for stage in after if after[stage] != before.get(stage)}
    assert sorted(changed) == sorted(redone)


@pytest.mark.parametrize(
    ("base", "change", "redone"),
    [
        ("questions.source=geonames", "questions.geonames.capitals=1", ALL),
        ("measure.judge=nli", "measure.nli_model=mine", ALL[2:]),
        ("select.strategy=combine", "select.known_fraction=0.4", MAIN_ARM + END),
        ("select.strategy=combine", "select.draw=random", []),
    ],
)
def test_a_setting_counts_where_it_is_read(base: str, change: str, redone: list[str]) -> None:
    before, after = keys(load_config(None, [base]), OUTSIDE), keys(load_config(None, [base, change]), OUTSIDE)
    assert sorted(stage for stage in after if after[stage] != before[stage]) == sorted(redone)


def test_every_setting_is_in_the_table_or_changes_nothing_by_name() -> None:
    """A new setting must not be forgotten in the keys."""
    listed = {change.partition("=")[0] for change, _ in TABLE} | {"questions.geonames"}
    unlisted = []
    for section, field in type(load_config(None)).model_fields.items():
        names = getattr(field.annotation, "model_fields", {})
        unlisted += [f"{section}.{name}" for name in names if f"{section}.{name}" not in listed]
    ours = keys(load_config(None), OUTSIDE)
    examples = {
        "probe.standardize": "false",
        "questions.columns": "{question: q}",
        "questions.roles": "{pool: 0.1}",
        "questions.subset": "x",
        "questions.split": "x",
        "annotate.annotator": "file",
        "finetune.lora_dropout": "0.5",
        "finetune.warmup_ratio": "0.5",
        "select.budget": "3",
    }
    # In `Outside.model`: name, revision and the type the weights have here.
    outside = {"model.name", "model.revision", "model.trust_remote_code", "model.dtype"}
    for name in unlisted:
        if name in outside:
            continue
        value = examples.get(name, "177")
        changed = keys(load_config(None, [f"{name}={value}"]), OUTSIDE)
        assert changed["report"] != ours["report"], (
            f"{name} changes no stage: add it to the keys, or to TABLE"
        )


@pytest.mark.parametrize(
    ("outside", "redone"),
    [
        (OUTSIDE._replace(source="questions-2"), ALL),
        (OUTSIDE._replace(model="tiny@2"), ALL[1:]),
        (OUTSIDE._replace(labels="more"), []),  # gold answers: what people say is not read
    ],
)
def test_a_changed_world_redoes_what_depends_on_it(outside: Outside, redone: list[str]) -> None:
    before, after = (keys(load_config(None), world) for world in (OUTSIDE, outside))
    assert sorted(stage for stage in after if after[stage] != before[stage]) == sorted(redone)


def test_new_answers_from_people_redo_from_annotate_on() -> None:
    config = load_config(None, ["annotate.annotator=file"])
    before, after = (keys(config, world) for world in (OUTSIDE, OUTSIDE._replace(labels="more")))
    assert [s for s in after if after[s] != before[s]] == ["annotate", "finetune", *END]


def test_strategies_that_read_signals_get_them() -> None:
    assert all_stages(load_config(None)) == [*SENSE, *_by_verb(BOTH_ARMS), *END]
    with_signals = all_stages(load_config(None, ["select.strategy=entropy"]))
    assert with_signals.index("map") < with_signals.index("signals") < with_signals.index("select")
    assert "select@random" not in all_stages(load_config(None, ["select.strategy=random"]))


def _by_verb(stages: list[str]) -> list[str]:
    return sorted(stages, key=lambda stage: MAIN_ARM.index(split_stage(stage)[0]))


@pytest.mark.parametrize(
    ("changes", "redone"),
    [
        (["report.title=New"], {"report"}),
        (["evaluate.unbought=3"], {"evaluate", "report"}),
        (["select.budget=4", "finetune.epochs=1"], {*BOTH_ARMS, *END}),
        (["measure.threshold=0.4", "finetune.epochs=1"], set(ALL) - {"load", "sample"}),
        (["sample.part_size=5", "map.part_size=3"], set()),
    ],
    ids=["title", "evaluate", "budget", "threshold", "batch"],
)
def test_on_disk_the_other_artifacts_are_not_touched(
    finished: RunDirectory, tmp_path: Path, changes: list[str], redone: set[str]
) -> None:
    directory = copy_of(finished, tmp_path)
    before = times(directory.path)
    ear = Ear()
    run(RunDirectory.open(directory.path, changes).config, directory.path, ear)
    after = times(directory.path)
    for stage in ALL:
        name, arm = split_stage(stage)
        for output in OUTPUTS[name]:
            if output in WORKING or output == "pool_signals/next_token":
                continue
            place = str(directory.file(output, arm).relative_to(directory.path))
            files = [file for file in before if file == place or file.startswith(f"{place}/")]
            assert files
            for file in files:
                rewritten = after.get(file) != before[file]
                assert rewritten == (stage in redone), f"{file} of {stage}"
    again = Ear()
    run(RunDirectory.open(directory.path).config, directory.path, again)
    assert again.said[-1].startswith("Nothing to do")
