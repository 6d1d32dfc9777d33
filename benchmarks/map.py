"""Speed of the map (blocks 1…ℓ only, no head, the shared prefix once), and its memory over a large pool.

    python benchmarks/map.py [questions] [repeats] [pool]

It is compared with a plain batched forward pass of the whole prompts with hidden states, on the embedded model, at the
last layer (`ratio`) and at a middle one (`ratio_middle`). `rss_growth_mb` is the peak resident memory of `ka2l map`
over `pool` questions (100,000) minus that over 1,000, each in a process of its own, on the tests' tiny model. The last
line is JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from ka2l import RunDirectory, load_config, run_verb
from ka2l.common.progress import Reporter
from ka2l.models.interface import Prompt
from ka2l.models.loading import resolve
from ka2l.models.local.local_model import LocalModel
from ka2l.models.prompts import PromptBuilder
from ka2l.models.settings import ModelConfig, PromptConfig
from sampling import geonames_prompts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
from tiny import build_tiny_model

_CHILD = """
import re, sys
from pathlib import Path
from ka2l import RunDirectory, run_verb
from ka2l.common.progress import Reporter
run_verb("map", RunDirectory.open(Path(sys.argv[1])), Reporter(quiet=True))
# Not ru_maxrss: a new program inherits the peak of the process that started it.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def main(n_questions: int = 128, repeats: int = 5, pool: int = 100_000) -> None:
    """Time the ways of reading states in turns, then measure memory."""
    config = ModelConfig()
    model = LocalModel.load(config, resolve(config))
    builder = PromptBuilder(PromptConfig())
    prompts = geonames_prompts(builder, n_questions)
    middle = model.n_layers // 2
    contenders: dict[str, Callable[[], object]] = {
        "last": lambda: _ours(model, builder, prompts, model.n_layers),
        "middle": lambda: _ours(model, builder, prompts, middle),
        "plain": lambda: _plain(model, prompts),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    # The first call inspects the model, which takes extra time.
    _ours(model, builder, prompts[:8], middle)
    for _ in range(repeats):
        for name, work in contenders.items():
            started = time.perf_counter()
            work()
            times[name].append((time.perf_counter() - started) / n_questions)
    medians = {name: statistics.median(values) for name, values in times.items()}
    result = {f"ms_{name}": round(1000 * value, 2) for name, value in medians.items()}
    result["ratio"] = round(medians["plain"] / medians["last"], 2)
    result["ratio_middle"] = round(medians["plain"] / medians["middle"], 2)
    if pool:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
            world = build_tiny_model(Path(folder) / "model")
            few, many = (_peak_mb(world.folder, world.facts, n, Path(folder)) for n in (1_000, pool))
        result |= {
            "rss_mb_1000": round(few),
            f"rss_mb_{pool}": round(many),
            "rss_growth_mb": round(many - few),
        }
    print(json.dumps({"benchmark": "map", "questions": n_questions, "repeats": repeats, **result}))


def _ours(model: LocalModel, builder: PromptBuilder, prompts: list[Prompt], layer: int) -> object:
    model.share_prefix(builder.sensing)
    return model.states(prompts, layer, position="tbg")


def _plain(model: LocalModel, prompts: list[Prompt]) -> object:
    """Whole prompts, 16 at a time (the fastest of 4, 8, 16, 32), all hidden states, the last token's kept."""
    model.tokenizer.padding_side = "left"
    kept = []
    for start in range(0, len(prompts), 16):
        texts = [prompt.text for prompt in prompts[start : start + 16]]
        batch = model.tokenizer(texts, return_tensors="pt", padding=True)
        hidden = model.model(**batch, output_hidden_states=True).hidden_states
        kept.append(torch.stack([layer[:, -1] for layer in hidden], dim=1))
    return torch.cat(kept)


def _peak_mb(model: Path, facts: list[dict[str, Any]], pool: int, folder: Path) -> float:
    """Peak resident memory, in MB, of a process that maps `pool` questions."""
    rows = [{"question": fact["question"], "answers": fact["answers"], "role": "probe"} for fact in facts]
    rows += [{"question": f"What is the capital of Land {i}?", "answers": [], "role": "pool"} for i in range(pool)]
    source = folder / f"{pool}.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    settings = {
        "model": {"name": str(model), "device": "cpu"},
        "prompt": {"shots": 0},
        "questions": {"source": str(source), "columns": {"role": "role"}},
        "sample": {"n": 4, "max_new_tokens": 8},
        "probe": {"mlp_width": 8, "mlp_epochs": 3, "bootstrap": 100},
    }
    run = RunDirectory.create(folder / str(pool), load_config(None, [], settings))
    for verb in ("load", "sample", "measure", "probe"):
        run_verb(verb, run, Reporter(quiet=True))
    done = subprocess.run([sys.executable, "-c", _CHILD, str(run.path)], check=True, capture_output=True, text=True)
    return float(done.stdout.strip().rsplit("\n", 1)[-1])


if __name__ == "__main__":
    with torch.inference_mode():
        main(*(int(argument) for argument in sys.argv[1:]))
