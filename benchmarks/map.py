"""The map over a pool: blocks 1…ℓ only, no head, the shared prefix once; and its memory over a large pool.

    python benchmarks/map.py [questions] [repeats] [pool]

Against a plain batched forward pass of the whole prompts with hidden states, on the embedded model: at the last layer
(`ratio`) and at a middle one (`ratio_middle`). `rss_growth_mb`: what `ka2l map` over `pool` questions (100,000) raises
the process's highest resident memory by over 1,000, each in a process of its own, on a tiny random model. One JSON
line last.
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

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from ka2l.config import ModelConfig, PromptConfig
from ka2l.models.base import Prompt
from ka2l.models.load import resolve
from ka2l.models.local import LocalModel
from ka2l.prompts import PromptBuilder
from sampling import geonames_prompts

_CHILD = """
import json, resource, sys
from pathlib import Path
from ka2l import run_verb
run_verb("map", Path(sys.argv[1]))
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
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
    _ours(model, builder, prompts[:8], middle)  # the first call looks the model over
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
        few, many = _peak_mb(1_000), _peak_mb(pool)
        result |= {"rss_mb_1000": round(few), f"rss_mb_{pool}": round(many), "rss_growth_mb": round(many - few)}
    print(json.dumps({"benchmark": "map", "questions": n_questions, "repeats": repeats, **result}))


def _ours(model: LocalModel, builder: PromptBuilder, prompts: list[Prompt], layer: int) -> object:
    model.share_prefix(builder.sensing)
    return model.states(prompts, layer, position="tbg")


def _plain(model: LocalModel, prompts: list[Prompt]) -> object:
    """Whole prompts, 16 at a time (measured best of 4, 8, 16, 32), all hidden states, the last token's kept."""
    model.tokenizer.padding_side = "left"
    kept = []
    for start in range(0, len(prompts), 16):
        texts = [prompt.text for prompt in prompts[start : start + 16]]
        batch = model.tokenizer(texts, return_tensors="pt", padding=True)
        hidden = model.model(**batch, output_hidden_states=True).hidden_states
        kept.append(torch.stack([layer[:, -1] for layer in hidden], dim=1))
    return torch.cat(kept)


def _peak_mb(pool: int) -> float:
    """Highest resident memory of a process that maps `pool` questions, in MB."""
    raise NotImplementedError


if __name__ == "__main__":
    with torch.inference_mode():
        main(*(int(argument) for argument in sys.argv[1:]))
