"""`ka2l export`: what LLaMA-Factory and others read says what `ka2l finetune` trains."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from console import Cli, assert_refused, strict_json
from ka2l.config.recipes import load_config, to_yaml
from ka2l.errors import ConfigError, DataError, RunError
from ka2l.models.prompts import PromptBuilder, Shot
from ka2l.pipeline.commands.export_training_data import export
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.training_questions import read_annotations
from ka2l.questions.load import load_questions
from ka2l.questions.settings import QuestionsConfig
from ka2l.teaching.exports.llama_factory import (
    Conversation,
    Ends,
    TrainingSections,
    alpaca_rows,
    dataset_info,
    sharegpt_rows,
    train_settings,
)
from ka2l.teaching.exports.text_formats import TrainingQuestion, as_csv
from ka2l.teaching.finetuning.training_examples import Example, tokenize_examples
from places import ROOT
from runs import BUDGET, RecordingReporter, copy_of
from tiny import TinyWorld

RECIPE = ROOT / "recipes" / "paper" / "qwen2.5-7b-instruct--triviaqa.yaml"
GPU = ["model.name=m/m", "model.device=cuda"]


def settings(*overrides: str) -> dict[str, Any]:
    config = load_config(None, [*GPU, *overrides])
    sections = TrainingSections(config.model, config.prompt, config.finetune, config.export, config.teaching_seed)
    return train_settings(sections, "m/m", "ka2l_train")


def test_every_setting_of_finetune_is_carried_over() -> None:
    """All of LLaMA-Factory's arguments, by hand; what is not in the table is not there."""
    found = settings(
        "finetune.lora_rank=3", "finetune.lora_alpha=5", "finetune.lora_dropout=0.25",
        "finetune.learning_rate=5e-5", "finetune.epochs=7", "finetune.batch_size=2",
        "finetune.gradient_accumulation=9", "finetune.warmup_ratio=0.03", "finetune.max_length=333",
        "finetune.seed=11", "finetune.save_steps=44", "prompt.template=chat", "export.llama_factory_template=qwen",
    )  # fmt: skip
    assert found == {
        "model_name_or_path": "m/m", "use_fast_tokenizer": True, "bf16": True, "flash_attn": "fa2",
        "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_target": "all",
        "lora_rank": 3, "lora_alpha": 5, "lora_dropout": 0.25,
        "dataset_dir": ".", "dataset": "ka2l_train", "template": "qwen", "cutoff_len": 333,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 9, "learning_rate": 5e-5,
        "num_train_epochs": 7.0, "lr_scheduler_type": "cosine", "warmup_ratio": 0.03,
        "optim": "adamw_torch", "weight_decay": 0.0, "seed": 11, "data_seed": 11,
        "output_dir": "saves/ka2l_train", "logging_steps": 10, "save_steps": 44, "save_total_limit": 2,
        "report_to": "none",
    }  # fmt: skip


def test_no_setting_of_finetune_is_forgotten() -> None:
    """A new one changes the YAML, or is named here with the reason."""
    elsewhere = {"replay"}  # decides which examples there are
    before = settings()
    for name, field in type(load_config(None).finetune).model_fields.items():
        if name in elsewhere:
            continue
        value = 0.37 if isinstance(field.default, float) else 177
        assert settings(f"finetune.{name}={value}") != before, f"finetune.{name} is not exported"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"bf16": True, "flash_attn": "fa2"}),
        (["model.dtype=float16"], {"fp16": True, "flash_attn": "fa2"}),
        (["model.dtype=float32"], {"flash_attn": "auto"}),
        (["model.device=cpu"], {"flash_attn": "auto"}),
        (["model.device=cpu", "model.dtype=bfloat16"], {"flash_attn": "auto"}),
        (["seed=5"], {"seed": 5, "data_seed": 5}),
        (["seed=5", "finetune.seed=0"], {"seed": 0, "data_seed": 0}),
        (["model.revision=abc"], {"model_revision": "abc"}),
        (["model.trust_remote_code=true"], {"trust_remote_code": True}),
        (["prompt.template=plain"], {"template": "empty"}),
        (["prompt.template=chat"], {"template": None}),  # LLaMA-Factory reads the tokenizer's own
        (["prompt.template=chat", "prompt.teaching_shots=2"], {"mask_history": True}),
        (["prompt.template=plain", "prompt.teaching_shots=2"], {"mask_history": None}),
    ],
)
def test_settings_that_depend_on_the_model_and_the_prompt(overrides: list[str], expected: dict[str, Any]) -> None:
    found = settings(*overrides)
    assert {key: found.get(key) for key in expected} == expected
    for key in {"bf16", "fp16", "model_revision", "trust_remote_code"} - expected.keys() - {"bf16"}:
        assert key not in found


def test_conversations_are_sharegpt_with_worked_examples_as_earlier_turns() -> None:
    config = load_config(None, ["prompt.teaching_shots=1", "prompt.instruction=Be brief."])
    build = PromptBuilder(config.prompt, [Shot("2 + 2?", "4")])
    rows = sharegpt_rows([Conversation(build.teaching_messages("3 + 3?"), "6", "q1")])
    assert rows == [
        {
            "id": "q1",
            "conversations": [
                {"from": "human", "value": "Be brief.\n2 + 2?"},
                {"from": "gpt", "value": "4"},
                {"from": "human", "value": "Be brief.\n3 + 3?"},
                {"from": "gpt", "value": "6"},
            ],
        }
    ]


def test_a_dataset_is_listed_with_its_columns() -> None:
    assert dataset_info(["a", "b"], conversations=True)["b"] == {
        "file_name": "b.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
    }
    assert dataset_info(["a"], conversations=False) == {
        "a": {
            "file_name": "a.json",
            "formatting": "alpaca",
            "columns": {"prompt": "instruction", "query": "input", "response": "output"},
        }
    }


def test_plain_text_has_the_tokens_of_our_own_training(tiny_world: TinyWorld) -> None:
    """LLaMA-Factory's `empty` template: the two parts tokenized apart, no special tokens added, loss on the second."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_world.folder)
    examples = [Example(f"Question: {f['question']}\nAnswer:", f" {f['answers'][0]}") for f in tiny_world.facts]
    ours = tokenize_examples(tokenizer, examples, 512)
    rows = alpaca_rows(examples, Ends("", tokenizer.eos_token))
    for row, ids, labels in zip(rows, ours.input_ids, ours.labels, strict=True):
        prompt, answer = (
            tokenizer(row[key], add_special_tokens=False)["input_ids"] for key in ("instruction", "output")
        )
        assert prompt + answer == ids
        assert [-100] * len(prompt) + answer == labels
    first = alpaca_rows(examples[:1], Ends("<s>", "</s>"))[0]
    assert first["instruction"].startswith("<s>Question: ")
    assert first["output"].endswith("</s>")


def test_a_run_gives_a_dataset_for_each_arm(finished: RunDirectory, tmp_path: Path) -> None:
    written = export(finished.path, tmp_path, "llama-factory")
    assert written == {
        "written": str(tmp_path),
        "ka2l_train.json": BUDGET,
        "train.yaml": "settings",
        "ka2l_train_random.json": BUDGET,
        "train_random.yaml": "settings",
    }
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    from ka2l.common.progress import Reporter

    context = context_of(finished, Reporter(quiet=True))
    for arm, page in (("main", "train.yaml"), ("random", "train_random.yaml")):
        training = yaml.safe_load((tmp_path / page).read_text())
        assert training["model_name_or_path"] == finished.config.model.name
        assert training["template"] == "empty"
        rows = json.loads((tmp_path / info[training["dataset"]]["file_name"]).read_text())
        annotated = read_annotations(context, arm)
        questions = context.questions_by_id(set(annotated))
        assert [row["id"] for row in rows] == list(annotated)
        for row in rows:
            asked = context.prompts.teaching(questions[row["id"]].question)
            assert row["instruction"] == asked
            assert row["output"] == f" {annotated[row['id']][0]}<|end|>"


def test_a_named_template_turns_plain_prompts_into_conversations(
    ka2l: Cli, finished: RunDirectory, tmp_path: Path
) -> None:
    result = ka2l("export", finished.path, "--to", tmp_path, "--template", "qwen", "--json")
    assert result.code == 0, result.err
    assert strict_json(result.out)["ka2l_train.json"] == BUDGET
    first = json.loads((tmp_path / "ka2l_train.json").read_text())[0]["conversations"]
    assert [turn["from"] for turn in first] == ["human", "gpt"]
    assert first[0]["value"].startswith("Answer the following question as briefly as possible.\nW")
    assert yaml.safe_load((tmp_path / "train.yaml").read_text())["template"] == "qwen"


def test_other_datasets_in_the_folder_stay(finished: RunDirectory, tmp_path: Path) -> None:
    listed = tmp_path / "dataset_info.json"
    listed.write_text('{"identity": {"file_name": "identity.json"}, "ka2l_train": {"file_name": "old"}}')
    for _ in range(2):
        export(finished.path, tmp_path, "llama-factory")
    info = json.loads(listed.read_text())
    assert info["identity"] == {"file_name": "identity.json"}
    assert info["ka2l_train"]["file_name"] == "ka2l_train.json"
    listed.write_text("[1]")
    with pytest.raises(DataError, match="not a JSON object of datasets"):
        export(finished.path, tmp_path, "llama-factory")
    assert listed.read_text() == "[1]"


def test_a_recipe_alone_gives_the_settings(ka2l: Cli, tmp_path: Path) -> None:
    result = ka2l("export", RECIPE, "--to", tmp_path)
    assert result.code == 0, result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dataset_info.json",
        "train.yaml",
        "train_combine.yaml",
    ]
    training = yaml.safe_load((tmp_path / "train.yaml").read_text())
    taken = ("model_name_or_path", "template", "learning_rate", "per_device_train_batch_size", "bf16")
    assert [training[key] for key in taken] == ["Qwen/Qwen2.5-7B-Instruct", "qwen", 5e-5, 4, True]
    assert_refused(ka2l("export", RECIPE, "--to", tmp_path, "--format", "csv"), "a recipe has no answers yet")


def test_jsonl_and_csv_are_questions_of_a_next_run(finished: RunDirectory, tmp_path: Path) -> None:
    export(finished.path, tmp_path, "jsonl")
    export(finished.path, tmp_path, "csv")
    loaded = []
    for kind in ("jsonl", "csv"):
        source = {"source": str(tmp_path / f"train.{kind}"), "roles": {"probe": 0, "pool": 1, "eval": 0}}
        questions = load_questions(QuestionsConfig.model_validate(source), 0, 0).questions
        assert {q.meta["source"] for q in questions} == {"bought"}
        loaded.append({q.id: (q.question, q.answers) for q in questions})
    assert loaded[0] == loaded[1]
    assert len(loaded[0]) == BUDGET


def test_chat_lines_hold_messages(finished: RunDirectory, tmp_path: Path) -> None:
    export(finished.path, tmp_path, "chat")
    lines = (tmp_path / "train.chat.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == BUDGET
    for line in lines:
        asked, answered = json.loads(line)["messages"]
        assert (asked["role"], answered["role"]) == ("user", "assistant")
        assert asked["content"].startswith(finished.config.prompt.instruction + "\n")


answers = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(str.strip).filter(bool),
    min_size=1,
    unique=True,
)


@given(answers)
def test_any_answers_come_back_from_csv(given_answers: list[str]) -> None:
    from ka2l.questions.columns import RowMapper

    taught = [TrainingQuestion("1", "Who?", tuple(given_answers), "bought")]
    header, row = csv.reader(io.StringIO(as_csv(taught, lambda _: ()), newline=""))
    mapper = RowMapper(QuestionsConfig(source="x.csv"))
    assert mapper(dict(zip(header, row, strict=True))).answers == tuple(given_answers)


def test_answers_for_a_model_that_is_not_here_are_exported_as_data(finished: RunDirectory, tmp_path: Path) -> None:
    """Where a stand-in's states are read nothing is taught, and so nothing is replayed; what was bought is there."""
    there = copy_of(finished, tmp_path)
    settings = ["sample.engine=imported", "sample.states=surrogate", "measure.scores=[]", "finetune.replay=1"]
    config = RunDirectory.open(there.path, settings).config
    run = RunDirectory(there.path, config, there.stages)
    run.save_config()
    context = context_of(run, RecordingReporter())
    annotate = run.stages["annotate"]
    annotate.key = context.keys()["annotate"]
    run._save_manifest()
    assert export(there.path, tmp_path / "out", "chat")["train.chat.jsonl"] == annotate.counts["labels"]


def test_what_cannot_be_exported_says_why(finished: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--format xml: there are llama-factory, jsonl, csv, chat"):
        export(finished.path, tmp_path, "xml")
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot read the recipe"):
        export(Path("nowhere.yaml"), tmp_path, "llama-factory")
    with pytest.raises(RunError, match="no run here"):
        export(tmp_path, tmp_path, "jsonl")
    with pytest.raises(ConfigError, match=r"export\.llama_factory_template"):
        export(RECIPE, tmp_path, "llama-factory", ["export.llama_factory_template=../x"])
    run = copy_of(finished, tmp_path)
    with pytest.raises(RunError, match="`finetune` reads what `annotate` writes, and that is out of date"):
        export(run.path, tmp_path, "jsonl", ["select.budget=3"])
    black_box = [
        "sample.engine=server",
        "server.url=http://h/v1",
        "server.model=gpt",
        "sample.states=surrogate",
    ]
    with pytest.raises(RunError, match=r"only stand in for gpt.*--format chat"):
        export(RECIPE, tmp_path, "llama-factory", [*black_box, "measure.scores=[]"])


def test_exporting_changes_no_run(finished: RunDirectory, tmp_path: Path) -> None:
    from runs import times

    before = times(finished.path)
    export(finished.path, tmp_path, "llama-factory", ["export.llama_factory_template=llama3"])
    assert times(finished.path) == before
    assert "llama_factory_template: ''" in to_yaml(RunDirectory.open(finished.path).config)


def test_one_layer_through_the_pipeline(finished: RunDirectory, tmp_path: Path) -> None:
    """What the paper's recipes do: the probe of the named layer is kept, whatever others would have been worth."""
    from ka2l.common.progress import Reporter
    from ka2l.pipeline.run import run_verb

    copy = copy_of(finished, tmp_path)
    opened = RunDirectory.open(copy.path, ["probe.layers=[1]"])
    run_verb("probe", opened, Reporter(quiet=True))
    card = json.loads((copy.path / "probe" / "probe.json").read_text())
    assert opened.stages["probe"].counts == {"probes": 2, "layer": 1}
    assert set(card["layers"].values()) == {1}
    assert card["layer_0"]["test_auroc"] is None
