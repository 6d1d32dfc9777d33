"""What a changed setting redoes: exactly the stages that read it and those after them."""

from pathlib import Path

import pytest

from ka2l.errors import ConfigError
from ka2l.pipeline.arms import split_stage
from ka2l.pipeline.run import run
from ka2l.pipeline.run_directory import RunDirectory
from plans import (
    ALL,
    ANSWERS,
    AUGMENT,
    BLACK_BOX,
    BOTH_ARMS,
    END,
    IMPORTED,
    MAIN_ARM,
    OUTSIDE,
    REPLAYED,
    SAMPLED,
    STAND_IN,
    TAUGHT,
    TAUGHT_ANEW,
    keys,
    load_config,
)
from runs import WRITES, RecordingReporter, copy_of, times

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
    ("sample.n=5", ALL[2:]),  # samples are added to those that are there, or left out of what is measured
    ("sample.temperature=0.9", ALL[1:]),
    ("sample.low_temperature=0", ALL[1:]),
    ("sample.max_new_tokens=9", ALL[1:]),
    ("probe.position=mean_prompt", ALL[1:]),
    ("measure.threshold=0.5", ALL[2:]),
    ("measure.judge=nli", ALL[2:]),
    ("measure.scores=[eigenscore]", ALL[2:]),
    ("measure.bootstrap=200", ALL[2:]),
    ("measure.correct=f1", ALL[2:]),
    ("measure.split=[0.5, 0.25, 0.25]", ALL[2:]),
    ("probe.kinds=[linear]", ALL[3:]),
    ("probe.mlp_width=16", ALL[3:]),
    ("probe.bootstrap=200", ALL[3:]),
    ("select.budget=9", BOTH_ARMS + END),
    ("select.draw=random", MAIN_ARM + END),  # a random arm draws anyway
    ("select.known_fraction=0.4", MAIN_ARM + END),
    ("select.band=[0.6, 0.9]", MAIN_ARM + END),
    ("select.near_copy=0.9", MAIN_ARM + END),
    ("select.seed=4", BOTH_ARMS + END),
    ("select.strategy=known", MAIN_ARM + END),
    ("select.baseline=null", END),
    ("annotate.cost_per_label=2", ["annotate", "annotate@random", "finetune", "finetune@random", *END]),
    ("finetune.epochs=1", ["finetune", "finetune@random", *END]),
    ("finetune.learning_rate=1e-3", ["finetune", "finetune@random", *END]),
    ("finetune.lora_rank=3", ["finetune", "finetune@random", *END]),
    ("finetune.batch_size=3", ["finetune", "finetune@random", *END]),  # another number of updates
    ("finetune.replay=0.5", [*REPLAYED, "finetune", "finetune@random", *END]),
    ("finetune.seed=4", ["finetune", "finetune@random", *END]),
    ("evaluate.max_new_tokens=9", END),
    ("evaluate.temperature=0.1", END),
    ("evaluate.rewordings=0", END),
    ("evaluate.unbought=3", END),
    ("report.title=New", ["report"]),
    ("report.cases=2", ["report"]),
    # What the chosen source, judge or strategy does not read; where the questions lie.
    ("questions.source=other.jsonl", []),
    ("questions.geonames.capitals=1", []),
    ("measure.equivalence=lenient", []),
    ("measure.clusters=components", []),
    ("measure.embedding_threshold=0.5", []),
    ("measure.p_true_shots=2", []),
    ("measure.quantile=0.4", []),
    ("select.space=sentence", []),
    ("select.encoder=other", []),
    ("select.seed=0", []),  # the run's
    ("finetune.seed=0", []),
    # Nothing is paid for twice because of a smaller batch or another device.
    ("sample.part_size=3", []),
    ("measure.batch_tokens=300", []),
    ("measure.cache=shared.sqlite", []),
    ("map.part_size=3", []),
    ("finetune.save_steps=3", []),
    ("model.threads=2", []),
    ("model.device=cpu", []),
    ("model.batch_tokens=4096", []),
]

FITTED = ["measure.judge=embedding"]  # its cosine is fitted on the probe questions

# The same on top of other settings, for what counts only there.
BASED: list[tuple[list[str], str, list[str]]] = [
    (["questions.source=geonames"], "questions.geonames.capitals=1", ALL),
    (["measure.judge=nli"], "measure.equivalence=lenient", ALL[2:]),
    (["measure.judge=nli"], "measure.clusters=components", ALL[2:]),
    (["measure.judge=embedding"], "measure.clusters=components", ALL[2:]),
    (["measure.judge=embedding"], "measure.equivalence=lenient", []),
    (["measure.judge=embedding"], "measure.embedding_threshold=0.5", ALL[2:]),
    (["measure.scores=[p_true]"], "measure.p_true_shots=2", ALL[2:]),
    (["measure.threshold=quantile"], "measure.quantile=0.4", ALL[2:]),
    (["select.strategy=combine"], "select.known_fraction=0.4", MAIN_ARM + END),
    (["select.strategy=combine"], "select.draw=random", []),
    (["select.strategy=random"], "select.near_copy=0.9", []),
    (["select.strategy=entropy"], "select.band=[0.6, 0.9]", []),
    (["select.strategy=coreset"], "select.known_fraction=0.4", []),
    (["select.strategy=coreset"], "select.space=sentence", ["sentences", *MAIN_ARM, *END]),
    (["select.near_copy=0.9"], "select.space=sentence", ["sentences", *MAIN_ARM, *END]),
    # What a strategy reads of the pool beside the map.
    (["select.strategy=semantic_entropy"], "sample.n=5", [*ALL[2:], "pool_entropy"]),
    (["select.strategy=semantic_entropy"], "sample.temperature=0.9", [*ALL[1:], *SAMPLED]),
    (["select.strategy=semantic_entropy"], "sample.low_temperature=0", ALL[1:]),
    (["select.strategy=semantic_entropy"], "prompt.instruction=Answer.", [*ALL[1:], *SAMPLED]),
    (["select.strategy=semantic_entropy"], "measure.judge=nli", [*ALL[2:], "pool_entropy"]),
    (["select.strategy=semantic_entropy"], "measure.threshold=0.5", ALL[2:]),
    (["select.strategy=semantic_entropy"], "probe.position=mean_prompt", ALL[1:]),
    (["select.strategy=semantic_entropy", *FITTED], "measure.threshold=0.5", [*ALL[2:], "pool_entropy"]),
    (["select.strategy=likelihood"], "sample.n=5", ALL[2:]),
    (["select.strategy=likelihood"], "sample.temperature=0.9", ALL[1:]),
    (["select.strategy=likelihood"], "sample.low_temperature=0", [*ALL[1:], "pool_likelihood"]),
    (["finetune.replay=0.5"], "finetune.seed=4", [*REPLAYED, "finetune", "finetune@random", *END]),
    (["finetune.replay=0.5"], "finetune.epochs=1", ["finetune", "finetune@random", *END]),
    (["finetune.replay=0.5"], "sample.low_temperature=0", [*ALL[1:], *REPLAYED]),
    (["select.strategy=margin"], "select.strategy=badge", [*MAIN_ARM, *END]),
    (BLACK_BOX, "server.model=other", ANSWERS[1:]),
    (BLACK_BOX, "server.endpoint=completions", ANSWERS[1:]),
    (BLACK_BOX, "server.logprobs=false", ANSWERS[1:]),
    (BLACK_BOX, "sample.temperature=0.9", ANSWERS[1:]),
    (BLACK_BOX, "prompt.shots=1", ANSWERS),
    (BLACK_BOX, "sample.n=5", ANSWERS[2:]),
    (BLACK_BOX, "sample.states=surrogate", TAUGHT[1:]),
    (STAND_IN, "sample.states=same", ["probe", "map", *BOTH_ARMS, *END]),  # the states are the same ones
    (STAND_IN, "probe.position=mean_prompt", TAUGHT[1:]),
    # How the server is reached, and how hard and how often it is asked.
    (BLACK_BOX, "server.url=http://elsewhere/v1", []),
    (BLACK_BOX, "server.api_key_env=MY_KEY", []),
    (BLACK_BOX, "server.concurrency=3", []),
    (BLACK_BOX, "server.requests_per_minute=3", []),
    (BLACK_BOX, "server.retries=3", []),
    (BLACK_BOX, "server.timeout=3", []),
    (BLACK_BOX, "server.many=false", []),
    # What answers from elsewhere were made with is in the file; nobody reads a state.
    (IMPORTED, "sample.temperature=0.9", []),
    (IMPORTED, "prompt.instruction=Answer.", []),
    (IMPORTED, "probe.position=mean_prompt", []),
    (IMPORTED, "sample.n=5", ANSWERS[2:]),
    (IMPORTED, "sample.states=same", ALL[1:]),
    ([], "sample.engine=imported", ALL[1:]),
]


@pytest.mark.parametrize(("change", "redone"), TABLE, ids=[change for change, _ in TABLE])
def test_a_changed_setting_redoes_what_depends_on_it(change: str, redone: list[str]) -> None:
    before = keys(load_config(None), OUTSIDE)
    after = keys(load_config(None, [change]), OUTSIDE)
    changed = {stage for stage in after if after[stage] != before.get(stage)}
    assert sorted(changed) == sorted(redone)


@pytest.mark.parametrize(
    ("base", "change", "redone"),
    BASED,
    ids=[" ".join([*base[:1], *base[3:], change]) for base, change, _ in BASED],
)
def test_a_setting_counts_where_it_is_read(base: list[str], change: str, redone: list[str]) -> None:
    before, after = keys(load_config(None, base), OUTSIDE), keys(load_config(None, [*base, change]), OUTSIDE)
    assert sorted(stage for stage in after if after[stage] != before.get(stage)) == sorted(redone)


@pytest.mark.parametrize(
    ("changes", "redone"),
    [
        (["augment.noise=0.7"], ["candidates", "augment", *TAUGHT_ANEW]),
        (["augment.per_question=4"], ["candidates", "augment", *TAUGHT_ANEW]),
        (["augment.temperature=0.5"], ["candidates", "augment", *TAUGHT_ANEW]),
        (["augment.near_copy=0.5"], ["augment", *TAUGHT_ANEW]),
        (["augment.max_new_tokens=9"], ["candidates", "augment", *TAUGHT_ANEW]),
        (["augment.budget=9"], ["augment", *TAUGHT_ANEW]),
        (["decoder.epochs=9"], ["decoder", "candidates", "augment", *TAUGHT_ANEW]),
        (["decoder.soft_tokens=2"], ["decoder", "candidates", "augment", *TAUGHT_ANEW]),
        (["decoder.minutes=1"], ["decoder", "candidates", "augment", *TAUGHT_ANEW]),
        (["decoder.pseudo_tokens=2"], []),  # of a T5
        (["select.budget=3"], [*BOTH_ARMS, "candidates", "augment", *END]),
        # the same layer judges: the states and the decoder stay
        (["probe.mlp_width=16"], ["probe", "map", "candidates", "augment", *BOTH_ARMS, *END]),
        (["annotate.cost_per_label=2"], ["annotate", "annotate@random", "finetune", "finetune@random", *END]),
    ],
)
def test_of_new_questions_only_what_a_setting_changes_is_redone(changes: list[str], redone: list[str]) -> None:
    before, after = (keys(load_config(None, [*AUGMENT, *more]), OUTSIDE) for more in ([], changes))
    assert sorted(s for s in after if after[s] != before[s]) == sorted(redone)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["probe.kinds=[linear, ensemble]"], "a probe of kind ensemble judges all layers"),
        (["questions.source=mine.jsonl"], "gold answers .* came with the old ones"),
    ],
)
def test_new_questions_without_a_state_or_an_answer_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [*AUGMENT, *settings])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sample.states=none"], "sample.states=none is for answers of a server or imported ones"),
        (["sample.engine=server", "server.model=gpt"], "needs server.url"),
        (["server.api_key_env=sk-proj-123"], "the key itself belongs into that variable"),
        (["server.url=https://me:secret@host/v1"], "no user and password in the URL"),
    ],
)
def test_impossible_engines_are_refused_and_no_secret_is_repeated(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, settings)
    assert "sk-proj" not in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_every_setting_is_in_the_table_or_changes_nothing_by_name() -> None:
    """A new setting must not be forgotten in the keys."""
    changes = [change for change, _ in TABLE] + [change for _, change, _ in BASED]
    listed = {change.partition("=")[0] for change in changes} | {"questions.geonames"}
    unlisted = []
    for section, field in type(load_config(None)).model_fields.items():
        names = getattr(field.annotation, "model_fields", {})
        unlisted += [f"{section}.{name}" for name in names if f"{section}.{name}" not in listed]
    ours = keys(load_config(None), OUTSIDE)
    examples = {
        "probe.standardize": "false",
        "probe.target": "value",
        "probe.choice": "best",
        "probe.layers": "[2]",
        "probe.calibration": "isotonic",
        "questions.columns": "{question: q}",
        "questions.roles": "{pool: 0.1}",
        "questions.subset": "x",
        "questions.split": "x",
        "annotate.annotator": "file",
        "finetune.lora_dropout": "0.5",
        "finetune.warmup_ratio": "0.5",
        "select.budget": "3",
    }
    # In `Outside.model`: name, revision and the type the weights have here; in the others likewise.
    outside = {f"model.{name}" for name in ("name", "revision", "trust_remote_code", "dtype", "quantization")}
    outside |= {f"measure.{name}_model" for name in ("nli", "embedding", "llm")}
    outside |= {"map.probe", "map.probe_revision", "augment.embedding_model"}
    outside |= {f"decoder.{name}" for name in ("pretrained", "pretrained_revision", "t5", "t5_revision")}
    apart = {name for name in unlisted if name.startswith(("decoder.", "augment."))}  # see AUGMENT
    outside |= {name for name in unlisted if name.startswith(("judge_server.", "export."))}  # no stage exports
    for name in unlisted:
        if name in outside or name in apart:
            continue
        value = examples.get(name, "177")
        changed = keys(load_config(None, [f"{name}={value}"]), OUTSIDE)
        assert changed["report"] != ours["report"], f"{name} changes no stage: add it to the keys, or to TABLE"
    augmenting = keys(load_config(None, AUGMENT), OUTSIDE)
    for name in sorted(apart - outside):
        told = ["decoder.t5=some/t5"] if name == "decoder.pseudo_tokens" else []
        ours = keys(load_config(None, [*AUGMENT, *told]), OUTSIDE) if told else augmenting
        value = {"augment.near_copy": "0.5", "augment.noise": "7", "augment.temperature": "2"}.get(name, "17")
        changed = keys(load_config(None, [*AUGMENT, *told, f"{name}={value}"]), OUTSIDE)
        assert changed["report"] != ours["report"], f"{name} changes no stage: add it to the keys"


def test_a_score_that_asks_the_model_depends_on_its_prompt() -> None:
    """Imported answers were asked with whatever prompt; EigenScore reads states behind the run's own."""
    imported = ["sample.engine=imported", "measure.scores=[eigenscore]"]
    before, after = (keys(load_config(None, [*imported, f"prompt.shots={k}"]), OUTSIDE) for k in (2, 3))
    assert before["measure"] != after["measure"]


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
    reporter = RecordingReporter()
    run(RunDirectory.open(directory.path, changes).config, directory.path, reporter)
    after = times(directory.path)
    for stage in ALL:
        name, arm = split_stage(stage)
        for written in WRITES[name]:
            if written.working:
                continue
            place = str(directory.file(written.path, arm).relative_to(directory.path))
            files = [file for file in before if file == place or file.startswith(f"{place}/")]
            assert files
            for file in files:
                rewritten = after.get(file) != before[file]
                assert rewritten == (stage in redone), f"{file} of {stage}"
    again = RecordingReporter()
    run(RunDirectory.open(directory.path).config, directory.path, again)
    assert again.messages[-1].startswith("Nothing to do")
