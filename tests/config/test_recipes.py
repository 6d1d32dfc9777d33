"""Recipes: presets, the order of precedence, and errors that name the key and what is allowed."""

from pathlib import Path

import pytest

from ka2l.config.recipes import field_at, load_config, to_yaml
from ka2l.config.run_config import RunConfig
from ka2l.errors import ConfigError
from ka2l.models.settings import SampleConfig


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message_of(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_paper_preset_has_the_papers_values() -> None:
    config = load_config(None, ["preset=paper"])
    assert (config.measure.judge, config.measure.threshold) == ("nli", "eq3")
    assert config.measure.split == (0.7, 0.2, 0.1)
    assert config.probe.kinds == ["mlp"]
    assert (config.probe.mlp_width, config.probe.mlp_lr, config.probe.mlp_epochs) == (14336, 1e-5, 20)
    assert not config.probe.standardize
    assert (config.probe.choice, config.probe.calibration) == ("best", "none")
    assert config.measure.scores == ["p_true"]  # Table 9
    assert (config.sample.n, config.sample.temperature, config.sample.low_temperature) == (10, 1.0, 0.1)
    assert (config.finetune.epochs, config.finetune.learning_rate) == (3, 1e-4)
    assert config.evaluate.temperature == 0.1
    assert config.select.draw == "random"
    assert config.prompt.shots == 5


def test_reference_preset_differs_in_threshold_split_and_noise_only() -> None:
    paper, reference = (load_config(None, [f"preset={name}"]) for name in ("paper", "reference"))
    assert (reference.measure.threshold, reference.measure.split) == ("two_means", (0.72, 0.18, 0.1))
    alike = paper.measure.model_copy(update={"threshold": "two_means", "split": (0.72, 0.18, 0.1)})
    one_near_copy = paper.augment.model_copy(update={"noise": 0.0, "temperature": 0.0})
    changes = {"preset": "reference", "measure": alike, "augment": one_near_copy}
    assert reference == paper.model_copy(update=changes)


def test_later_wins_default_preset_recipe_override(tmp_path: Path) -> None:
    path = recipe(tmp_path, "preset: paper\nprobe: {mlp_width: 64}\nmeasure: {threshold: two_means}\n")
    config = load_config(path, ["probe.mlp_width=32", "sample.n=5"])
    assert config.probe.mlp_width == 32  # override over recipe
    assert config.measure.threshold == "two_means"  # recipe over preset
    assert config.probe.mlp_lr == 1e-5  # preset over default
    assert config.probe.mlp_batch_size == 32  # default
    assert load_config(path, ["sample.n=5", "sample.n=6"]).sample.n == 6


def test_preset_of_an_override_leaves_the_recipes_own_values(tmp_path: Path) -> None:
    path = recipe(tmp_path, "probe: {mlp_width: 64}\n")
    config = load_config(path, ["preset=paper"])
    assert (config.probe.mlp_width, config.probe.mlp_lr) == (64, 1e-5)


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.0e-4", "0.0001"])
def test_scientific_notation_is_a_number(tmp_path: Path, number: str) -> None:
    assert load_config(None, [f"finetune.learning_rate={number}"]).finetune.learning_rate == 1e-4
    path = recipe(tmp_path, f"finetune: {{learning_rate: {number}}}\n")
    assert load_config(path).finetune.learning_rate == 1e-4


def test_overrides_take_lists_nulls_and_text() -> None:
    config = load_config(
        None, ["probe.kinds=[linear]", "select.baseline=null", "report.title=a=b: ü", "model.revision=main"]
    )
    assert config.probe.kinds == ["linear"]
    assert config.select.baseline is None
    assert config.report.title == "a=b: ü"


def test_unknown_keys_are_named_with_those_that_exist() -> None:
    text = message_of("sample.temprature=1", "smaple.n=3")
    assert "2 wrong value(s)" in text
    assert "sample.temprature: no such key. Allowed here: engine, states, n, temperature" in text
    assert "smaple: no such key. Allowed here: preset, seed, model" in text
    assert "questions.roles.pol: no such key. Allowed here: probe, pool, eval" in message_of("questions.roles.pol=1")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sample.n=many", ["sample.n: ", "valid integer", "'many'"]),
        ("sample.n=1", ["sample.n: ", "greater than or equal to 2", "got 1"]),
        ("sample.temperature=0", ["sample.temperature: ", "greater than 0"]),
        ("sample.temperature=.nan", ["sample.temperature: "]),
        ("finetune.learning_rate=.inf", ["finetune.learning_rate: ", "finite number"]),
        ("measure.threshold=.nan", ["measure.threshold: "]),
        ("model.dtype=float8", ["model.dtype: ", "'float32', 'bfloat16'"]),
        ("select.strategy=best", ["select.strategy: ", "'coreset'"]),
        (
            "measure.threshold=mean",
            ["measure.threshold: ", "'two_means', 'eq3', 'median' or 'quantile'", "'mean'"],
        ),
        ("measure.threshold=-1", ["measure.threshold: ", "greater than or equal to 0"]),
        ("measure.split=[0.5, 0.2, 0.2]", ["measure: ", "sum to 1"]),
        ("probe.kinds=[]", ["probe: ", "at least one of linear, mlp"]),
        ("probe.kinds=[tree]", ["probe.kinds.0: ", "'linear', 'mlp', 'mix' or 'ensemble'"]),
        ("sample=3", ["sample: "]),
        ("preset=best", ["preset: ", "'paper'"]),
        ("preset=[paper]", ["preset: "]),
        ("seed=-1", ["seed: "]),
    ],
)
def test_wrong_values_are_refused_with_path_and_what_is_allowed(override: str, expected: list[str]) -> None:
    text = message_of(override)
    for part in expected:
        assert part in text


def test_broken_recipes_are_named(tmp_path: Path) -> None:
    path = recipe(tmp_path, "sample: {n: 3\n")
    assert f"{path}: not valid YAML" in message_of(path=path)
    path.write_text("- a\n- b\n")
    assert "a recipe is a mapping of sections, not list" in message_of(path=path)
    path.write_bytes(b"report: {title: \xff}")
    assert f"{path}: not valid YAML" in message_of(path=path)
    assert "cannot read the recipe" in message_of(path=tmp_path / "none.yaml")
    assert "cannot read the recipe" in message_of(path=tmp_path)
    path.write_text("sample: {n: 1}\n")
    assert message_of(path=path).startswith(f"{path}: 1 wrong value(s)")
    path.write_text("")
    assert load_config(path) == RunConfig()


@pytest.mark.parametrize("text", ["sample.n", "=3", "sample.n=[1", " =3"])
def test_broken_overrides_are_quoted(text: str) -> None:
    assert f"'{text}'" in message_of(text)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["preset=paper", "finetune.learning_rate=1e-6", "measure.threshold=0.7"],
        ["preset=reference", "report.title='1e5: ☂ # no'", "annotate.annotator=file"],
        ["questions.columns.answers=[answer.value]", "probe.kinds=[linear]", "model.revision='1e5'"],
    ],
)
def test_resolved_config_comes_back_the_same(tmp_path: Path, overrides: list[str]) -> None:
    config = load_config(None, overrides)
    path = recipe(tmp_path, to_yaml(config))
    assert load_config(path) == config
    assert to_yaml(load_config(path)) == path.read_text(encoding="utf-8")


def test_people_label_one_arm_unless_a_baseline_is_asked_for() -> None:
    assert load_config(None).select.baseline == "random"
    assert load_config(None, ["annotate.annotator=file"]).select.baseline is None
    assert load_config(None, ["annotate.annotator=file", "select.budget=3"]).select.baseline is None
    both = load_config(None, ["annotate.annotator=file", "select.baseline=random"])
    assert both.select.baseline == "random"


@pytest.mark.parametrize("override", ["select.budget=yes", "measure.threshold=true", "sample.n='10'"])
def test_a_value_of_the_wrong_type_is_refused_not_converted(override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0].replace(".", r"\.")):
        load_config(None, [override])


def test_text_stays_what_was_typed() -> None:
    typed = ["questions.source=my #1 file.jsonl", "model.revision=123", "report.title=Rivers: what it knows"]
    config = load_config(None, typed)
    assert config.questions.source == "my #1 file.jsonl"
    assert config.model.revision == "123"
    assert config.report.title == "Rivers: what it knows"


def test_a_field_is_found_by_its_path() -> None:
    assert field_at(["report", "title"]).annotation is str
    assert field_at(["sample"]).annotation is SampleConfig
    assert field_at(["sample", "n"])[:2] == (("sample", "n"), SampleConfig)
    assert field_at(["sample", "m"])[1:] == (SampleConfig, None)
    assert field_at(["report", "title", "x"]).annotation is None
    # pydantic adds the names of the types it tried; places in a list are part of the key
    assert field_at(("measure", "threshold", "constrained-float")).keys == ("measure", "threshold")
    assert field_at(("probe", "layers", 0, "int")).keys == ("probe", "layers", "0")
    assert field_at(()) == ((), RunConfig, RunConfig)
