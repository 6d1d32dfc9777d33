"""Fine-tuning: learns, keeps the loss off the prompt, survives `kill -9` to the bit, and fails with advice.

Usage:

    .venv/bin/python -m pytest tests/teaching/finetuning/test_lora.py
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ka2l.errors import DataError, DegenerateError, Ka2lError, ModelError
from ka2l.teaching.finetuning.lora import FinetuneResult, ModelPlace, finetune
from ka2l.teaching.finetuning.training_examples import Example, tokenize_examples
from ka2l.teaching.settings import FinetuneConfig
from places import HELPERS
from tiny import TinyWorld, plain_prompt

# Dropout, so that an exact resume needs the random state too. 8 examples: 4 steps an epoch, 12 in all.
RESUME = FinetuneConfig(
    epochs=3, batch_size=2, gradient_accumulation=1, learning_rate=1e-2, lora_dropout=0.1, save_steps=2
)


def examples_of(world: TinyWorld) -> list[Example]:
    return [Example(plain_prompt(f["question"]), " " + f["answers"][0], f["id"]) for f in world.unknown[:8]]


def train(world: TinyWorld, config: FinetuneConfig, folder: Path, seed: int = 0, **options: Any) -> FinetuneResult:
    out, checkpoints = folder / "adapter", folder / "checkpoints"
    examples = options.pop("examples", None) or examples_of(world)
    return finetune(
        ModelPlace(str(world.folder), device="cpu"),
        examples,
        config,
        out,
        checkpoints,
        seed=seed,
        **options,
    )


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "adapter" / "adapter_model.safetensors"))


def equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    import torch

    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def greedy(world: TinyWorld, prompts: Sequence[str], adapter: Path | None = None) -> list[str]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world.folder)
    model = AutoModelForCausalLM.from_pretrained(world.folder)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    answers = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        made = model.generate(input_ids=ids, attention_mask=ids.new_ones(ids.shape), do_sample=False, max_new_tokens=8)
        answers.append(tokenizer.decode(made[0, ids.shape[1] :]))
    return answers


@pytest.fixture(scope="module")
def uninterrupted(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinetuneResult]:
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, train(tiny_world, RESUME, folder)


def test_learns_what_it_did_not_know(
    tiny_world: TinyWorld, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from huggingface_hub.utils import _telemetry

    # TRL sends nothing where CI is set, or offline: make it try.
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(_telemetry.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: pytest.fail("telemetry was sent"))
    state, python = torch.random.get_rng_state(), random.getstate()
    seen: list[tuple[int, int]] = []
    config = FinetuneConfig(epochs=60, batch_size=4, gradient_accumulation=1, learning_rate=1e-2, save_steps=1000)
    capfd.readouterr()
    result = train(tiny_world, config, tmp_path, on_step=lambda step, steps: seen.append((step, steps)))
    printed = capfd.readouterr()

    assert printed.out == ""
    assert printed.err == ""
    assert torch.equal(state, torch.random.get_rng_state())
    assert python == random.getstate()
    assert seen == [(step, 120) for step in range(1, 121)]
    assert (result.steps, result.resumed_from) == (120, None)
    assert result.last_loss < result.train_loss
    examples = examples_of(tiny_world)
    prompts, expected = [e.prompt for e in examples], [e.completion + "<|end|>" for e in examples]
    before = greedy(tiny_world, prompts)
    after = greedy(tiny_world, prompts, tmp_path / "adapter")
    assert sum(a == b for a, b in zip(before, expected, strict=True)) <= 1
    # All but one: on some processors the tiny model, trained there, mixes up two towns.
    assert sum(a == b for a, b in zip(after, expected, strict=True)) >= len(expected) - 1


def test_adapter_is_peft_without_pickle(tiny_world: TinyWorld, uninterrupted: tuple[Path, FinetuneResult]) -> None:
    folder, result = uninterrupted
    assert sorted(p.name for p in (folder / "adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    card = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert card["base_model_name_or_path"] == str(tiny_world.folder)
    linear = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert card["target_modules"] == linear
    assert sum(t.numel() for t in tensors(folder).values()) == result.trainable_parameters
    assert not list(folder.glob(".*"))
    kept = sorted(p.name for p in (folder / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-10", "checkpoint-12"]


def test_loss_only_on_completion_and_one_eos(tiny_world: TinyWorld) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_world.folder)
    eos = tokenizer.eos_token_id
    plain = examples_of(tiny_world)
    ended = [Example(e.prompt, e.completion + tokenizer.eos_token) for e in plain]
    data = tokenize_examples(tokenizer, plain, 512)
    assert tokenize_examples(tokenizer, ended, 512) == data
    for example, ids, labels in zip(plain, data.input_ids, data.labels, strict=True):
        prompt = tokenizer(example.prompt)["input_ids"]
        assert ids[: len(prompt)] == prompt
        assert labels == [-100] * len(prompt) + ids[len(prompt) :]
        assert tokenizer.decode(ids[len(prompt) : -1]) == example.completion
        assert ids.count(eos) == 1
        assert ids[-1] == eos


def test_trainer_sees_exactly_these_labels(tiny_world: TinyWorld, tmp_path: Path) -> None:
    import torch

    from ka2l.teaching.finetuning import lora as module

    place = ModelPlace(str(tiny_world.folder), dtype="float32", device="cpu")
    tokenizer, model = module._load(place)
    data = tokenize_examples(tokenizer, examples_of(tiny_world), 512)
    arguments = module._arguments(RESUME, len(data.labels), tmp_path, 0, place)
    trainer = module._trainer(model, tokenizer, data, RESUME, arguments)
    seen = []
    for batch in trainer.get_train_dataloader():
        mask = batch["attention_mask"].bool()
        assert torch.all(batch["labels"][~mask] == -100)
        seen += [
            (ids[on].tolist(), labels[on].tolist())
            for ids, labels, on in zip(batch["input_ids"], batch["labels"], mask, strict=True)
        ]
    assert sorted(seen) == sorted(zip(data.input_ids, data.labels, strict=True))


def test_prompt_wins_where_a_token_would_straddle_the_border(tiny_world: TinyWorld) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_world.folder)
    prompt, completion = "Question: What is the capi", "tal"
    assert (
        tokenizer(prompt + completion)["input_ids"][: len(tokenizer(prompt)["input_ids"])]
        != tokenizer(prompt)["input_ids"]
    )
    data = tokenize_examples(tokenizer, [Example(prompt, completion)], 512)
    ids = tokenizer(prompt)["input_ids"]
    assert data.input_ids[0][: len(ids)] == ids
    assert tokenizer.decode(data.input_ids[0]) == prompt + completion + tokenizer.eos_token


# Imports once, then forks the runs that get killed: a fresh interpreter for each would cost as much as the training.
KILLED = """
import json, os, signal, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[1])
import torch, datasets, peft, trl
from test_lora import RESUME, train
from tiny import TinyWorld
torch.set_num_threads(1)
world, folder = TinyWorld(Path(sys.argv[2]), json.loads(sys.argv[4])), Path(sys.argv[3])
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
save = torch.save

def run_killed(at, where):
    steps = []
    def on_step(step, _):
        steps.append(step)
        if where == "step" and step == at:
            kill()
    def half(state, path, *args, **kwargs):
        save(state, path, *args, **kwargs)
        if where == "save" and steps[-1] == at and str(path).endswith("optimizer.pt"):
            os.truncate(path, os.path.getsize(path) // 2)
            kill()
    torch.save = half
    train(world, RESUME, folder, on_step=on_step)

for at, where in ((5, "step"), (6, "save")):
    child = os.fork()
    if child == 0:
        run_killed(at, where)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    print(sorted(path.name for path in (folder / "checkpoints").glob("checkpoint-*")))
"""


def test_killed_runs_end_with_the_same_adapter(
    tiny_world: TinyWorld, tmp_path: Path, uninterrupted: tuple[Path, FinetuneResult]
) -> None:
    checkpoints = tmp_path / "checkpoints"
    arguments = [
        json.dumps([str(Path(__file__).parent), str(HELPERS)]),
        str(tiny_world.folder),
        str(tmp_path),
        json.dumps(tiny_world.facts),
    ]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['checkpoint-2', 'checkpoint-4']",  # killed between two checkpoints
        "['checkpoint-2', 'checkpoint-4', 'checkpoint-6']",  # killed in the middle of writing the last
    ]
    assert (checkpoints / "checkpoint-6" / "optimizer.pt").exists()
    assert not (tmp_path / "adapter").exists()
    (tmp_path / ".adapter.partial").mkdir()  # left by a kill while the adapter was written
    result = train(tiny_world, RESUME, tmp_path)

    folder, whole = uninterrupted
    assert result.resumed_from == 4
    assert equal(tensors(tmp_path), tensors(folder))
    assert result._replace(seconds=0, resumed_from=None) == whole._replace(seconds=0)
    names = ("adapter_config.json", "README.md")
    assert all((tmp_path / "adapter" / n).read_bytes() == (folder / "adapter" / n).read_bytes() for n in names)

    again = train(tiny_world, RESUME, tmp_path)  # killed after the last step: nothing is trained twice
    assert again.resumed_from == again.steps == 12
    assert again.train_loss == whole.train_loss
    assert equal(tensors(tmp_path), tensors(folder))


def test_damaged_and_foreign_checkpoints_are_not_continued(
    tiny_world: TinyWorld, tmp_path: Path, uninterrupted: tuple[Path, FinetuneResult]
) -> None:
    import shutil

    shutil.copytree(uninterrupted[0] / "checkpoints", tmp_path / "checkpoints")
    damaged = tmp_path / "checkpoints" / "checkpoint-12" / "optimizer.pt"
    os.truncate(damaged, damaged.stat().st_size - 1)
    assert train(tiny_world, RESUME, tmp_path).resumed_from == 10
    assert equal(tensors(tmp_path), tensors(uninterrupted[0]))

    other = train(tiny_world, RESUME, tmp_path, seed=1)
    assert other.resumed_from is None
    assert not equal(tensors(tmp_path), tensors(uninterrupted[0]))


def test_same_seed_same_adapter(
    tiny_world: TinyWorld, tmp_path: Path, uninterrupted: tuple[Path, FinetuneResult]
) -> None:
    random.seed(99)  # the caller's random state does not matter
    train(tiny_world, RESUME, tmp_path)
    assert equal(tensors(tmp_path), tensors(uninterrupted[0]))


def test_errors_say_what_to_do(tiny_world: TinyWorld, tmp_path: Path) -> None:
    with pytest.raises(DegenerateError, match="no labelled examples"):
        finetune(ModelPlace("", device="cpu"), [], RESUME, tmp_path / "a", tmp_path / "c", seed=0)
    long = Example("Question: " + "why " * 600 + "?\nAnswer:", " so", "long")
    with pytest.raises(DataError, match=r"example 2 \(id long\): \d+ tokens, .*\n.*finetune.max_length=\d+"):
        train(tiny_world, RESUME, tmp_path, examples=[*examples_of(tiny_world)[:1], long])
    with pytest.raises(DataError, match=r"example 1 .*completion is empty"):
        train(tiny_world, RESUME, tmp_path, examples=[Example("Question: why?\nAnswer:", " ", "void")])
    with pytest.raises(ModelError, match="cannot load this model"):
        train(TinyWorld(tmp_path / "nowhere", tiny_world.facts), RESUME, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_nan_stops_and_keeps_the_checkpoint(tiny_world: TinyWorld, tmp_path: Path) -> None:
    hot = RESUME.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(
        Ka2lError, match=r"step \d+ of 12: (loss|grad_norm) is .*Lower finetune.learning_rate \(now 1e\+30\)"
    ):
        train(tiny_world, hot, tmp_path)
    assert not (tmp_path / "adapter").exists()
