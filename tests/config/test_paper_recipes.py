"""The paper's 27 runs: their files are what the generator writes, what the paper says, and what the program accepts."""

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from console import Cli, assert_refused, strict_json
from hub_server import HubServer
from ka2l.config.recipes import load_config
from ka2l.config.run_config import RunConfig
from places import ROOT
from tiny import TinyWorld

PAPER = ROOT / "recipes" / "paper"
RECIPES = sorted(PAPER.glob("*.yaml"))
REAL = ROOT.parent / "shared" / "data" / "qa"
NAMES = [path.stem for path in RECIPES]

# Tables 1 and 2 once more, typed from the paper and not from the generator: model, layers on TriviaQA, NQ-Open and
# MedMCQA, learning rate, template, batch, accumulation.
TABLES = """
deepseek-r1-distill-qwen-7b 28 28 28 5.0e-5 qwen    4 4
glm4-9b-chat                38 38 24 1.0e-4 glm4    2 8
llama-2-7b-chat-hf          31 30 30 1.0e-4 llama2  4 2
llama-3.1-8b-instruct       31 32 31 1.0e-4 llama3  4 2
mistral-7b-instruct-v0.1    31 31 30 1.0e-4 mistral 4 4
mistral-7b-instruct-v0.3    31 31 31 1.0e-4 mistral 4 4
phi-3.5-mini-instruct       32 32 32 1.0e-4 phi     4 8
qwen1.5-7b-chat             32 26 19 5.0e-5 qwen    4 4
qwen2.5-7b-instruct         22 19 28 5.0e-5 qwen    4 4
"""
DATASETS = ("triviaqa", "nq-open", "medmcqa")
# Questions in the training splits after rows of the same question are merged, rounded down: see docs/paper-runs.md.
AVAILABLE = {"triviaqa": 76_000, "nq-open": 87_000, "medmcqa": 150_000}
BLOCKS = {"deepseek": 28, "glm4": 40, "llama": 32, "mistral": 32, "phi": 32, "qwen1.5": 32, "qwen2.5": 28}


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("paper_recipes", PAPER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_generator_writes() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in RECIPES}
    assert written == generator().recipes(), "run recipes/paper/generate.py"
    assert len(written) == 27


def test_the_page_has_the_generator_s_table() -> None:
    assert generator().table() in (ROOT / "docs" / "paper-runs.md").read_text(encoding="utf-8")


def test_every_recipe_says_what_the_paper_s_tables_say() -> None:
    found = []
    for line in TABLES.strip().splitlines():
        name, *columns = line.split()
        layers, (rate, template, batch, accumulation) = columns[:3], columns[3:]
        for dataset, layer in zip(DATASETS, layers, strict=True):
            config = load_config(PAPER / f"{name}--{dataset}.yaml")
            found.append(f"{name}--{dataset}")
            taught = config.finetune
            assert config.probe.layers == [int(layer)], name
            assert config.export.llama_factory_template == template
            assert taught.learning_rate == float(rate)
            assert (taught.batch_size, taught.gradient_accumulation) == (int(batch), int(accumulation))
    assert sorted(found) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_the_paper_s_run_and_has_questions_enough(name: str) -> None:
    config = load_config(PAPER / f"{name}.yaml")
    assert config.preset == "paper"
    assert (config.sample.n, config.prompt.shots, config.finetune.epochs) == (10, 5, 3)
    assert (config.model.dtype, config.model.trust_remote_code) == ("bfloat16", False)
    assert (config.probe.kinds, config.measure.judge, config.measure.threshold) == (["mlp"], "nli", "eq3")
    assert config.decoder.t5 == "google-t5/t5-base"
    # Whatever measures best and becomes the default one day, the paper's runs choose and teach as the paper does.
    chosen = config.select
    assert (chosen.strategy, chosen.draw, chosen.budget, chosen.baseline) == (
        "unknown",
        "random",
        10_000,
        "combine",
    )
    assert (chosen.known_fraction, chosen.band, chosen.near_copy) == (None, (0.0, 1.0), None)
    assert config.finetune.replay == 0
    dataset, roles = name.partition("--")[2], config.questions.roles
    total = roles.probe + roles.pool + roles.eval + roles.decoder + config.prompt.shots
    assert total <= AVAILABLE[dataset]
    assert roles.pool >= 3 * config.select.budget  # 10k unknown ones, were every third question unknown
    blocks = next(count for model, count in BLOCKS.items() if name.startswith(model))
    assert all(layer <= blocks for layer in config.probe.layers or [])


ROLES = "questions.roles={probe: 0.3, pool: 0.4, eval: 0.2, decoder: 0.1}"


@pytest.mark.parametrize(
    ("name", "file", "asks"),
    [
        ("llama-3.1-8b-instruct--nq-open", "nq_open.jsonl", 14_167),
        ("phi-3.5-mini-instruct--triviaqa", "triviaqa.jsonl", 8_835),
        ("deepseek-r1-distill-qwen-7b--medmcqa", "medmcqa.jsonl", 4_183),
    ],
)
def test_a_dry_run_on_real_questions(ka2l: Cli, tiny_world: TinyWorld, name: str, file: str, asks: int) -> None:
    if not (REAL / file).exists():
        pytest.skip(f"{REAL / file} is not there")
    here = [
        f"questions.source={REAL / file}",
        "questions.subset=null",
        ROLES,
        f"model.name={tiny_world.folder}",
    ]
    result = ka2l("run", PAPER / f"{name}.yaml", *here, "--dry-run", "--json")
    assert result.code == 0, result.err
    plan = strict_json(result.out)
    assert sum(plan["questions"].values()) == asks
    assert plan["questions"]["shot"] == 5
    stages = [row["stage"] for row in plan["stages"]]
    assert {"finetune", "finetune@combine", "evaluate"} <= set(stages)
    chat = "<|user|>" in plan["first_prompt"]
    assert chat == ("deepseek" not in name)
    assert plan["first_prompt"].count("Answer the following question as briefly as possible.") == (6 if chat else 1)


ROWS: dict[str, list[dict[str, Any]]] = {
    "triviaqa": [
        {
            "question": f"Who was number {i // 2}?",  # one row for each source of evidence
            "question_id": f"tc_{i}",
            "entity_pages": {"title": ["A", "B"]},
            "answer": {"aliases": [f"N{i // 2}"], "normalized_aliases": ["n"], "value": f"Number {i // 2}"},
        }
        for i in range(80)
    ],
    "nq-open": [{"question": f"who was number {i}", "answer": [f"N{i}", f"Number {i}"]} for i in range(40)],
    "medmcqa": [
        {"id": f"m{i}", "question": f"Drug of choice in disease {i}?", "cop": i % 4, "choice_type": "single"}
        | {f"op{letter}": f"Drug {letter}{i}" for letter in "abcd"}
        for i in range(40)
    ],
}
RIGHT = {"triviaqa": {"Number 7", "N7"}, "nq-open": {"N7", "Number 7"}, "medmcqa": {"Drug d7"}}
SCRIPT = """
import json, sys
from pathlib import Path
from ka2l.pipeline.commands.dry_run import dry_run
from ka2l.questions.load import load_questions
from ka2l.config.recipes import load_config
for recipe in sys.argv[2:]:
    config = load_config(Path(recipe), [sys.argv[1], "model.device=cpu"])
    answers = {q.question: q.answers for q in load_questions(config.questions, 0, 5).questions}
    print("PLAN", json.dumps([dry_run(config).as_json(), answers]))
"""


def parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_questions_and_model_come_from_the_hub(tiny_world: TinyWorld, tmp_path: Path) -> None:
    """The whole way of a recipe, with the real clients against a Hub on this machine."""
    names = [f"mistral-7b-instruct-v0.3--{dataset}" for dataset in DATASETS]
    configs = [load_config(PAPER / f"{name}.yaml") for name in names]
    with HubServer() as hub:
        hub.add(configs[0].model.name, {f.name: f.read_bytes() for f in tiny_world.folder.iterdir()})
        for dataset, config in zip(DATASETS, configs, strict=True):
            hub.add(config.questions.source, hub_files(config, parquet(ROWS[dataset])))
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        environment = {key: value for key, value in environment.items() if key != "HF_HUB_OFFLINE"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, ROLES, *(str(PAPER / f"{name}.yaml") for name in names)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    plans = [json.loads(line.removeprefix("PLAN ")) for line in done.stdout.splitlines() if "PLAN" in line]
    assert len(plans) == 3
    for dataset, config, (plan, answers) in zip(DATASETS, configs, plans, strict=True):
        assert plan["model"] == config.model.name
        assert re.fullmatch("[0-9a-f]{40}", plan["revision"])
        assert sum(plan["questions"].values()) == 40
        assert plan["duplicates_merged"] == len(ROWS[dataset]) - 40
        (found,) = [set(a) for question, a in answers.items() if re.search(r"\b7\b", question)]
        assert found == RIGHT[dataset]


def hub_files(config: RunConfig, table: bytes) -> dict[str, bytes]:
    """A data set as these three lie on the Hub: Parquet in a folder by configuration, named in the page."""
    subset = config.questions.subset or "default"
    page = f"---\nconfigs:\n- config_name: {subset}\n  data_files:\n  - split: train\n    path: {subset}/train-*\n"
    page += f"  - split: validation\n    path: {subset}/validation-*\n---\n"
    parts = {f"{subset}/{split}-00000-of-00001.parquet": table for split in ("train", "validation")}
    return {"README.md": page.encode(), **parts}


def test_without_a_network_a_dry_run_names_what_could_not_be_reached(
    ka2l: Cli, tiny_world: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    recipe = PAPER / "llama-3.1-8b-instruct--nq-open.yaml"
    questions = ka2l("run", recipe, f"model.name={tiny_world.folder}", "--dry-run")
    assert_refused(questions, "google-research-datasets/nq_open", "network", "copy the files here")
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"question": f"Q{i}?", "answer": "a"}) + "\n" for i in range(40)))
    model = ka2l("run", recipe, f"questions.source={own}", ROLES, "--dry-run")
    assert_refused(model, "meta-llama/Llama-3.1-8B-Instruct", "the Hub says")
