"""Sampling with one prefill a question against the two usual ways, on the embedded model.

    python benchmarks/sampling.py [questions] [repeats]

(a) `loop`: one `generate` call per answer, batch 1, all hidden states kept: the pattern of public code for semantic
entropy. (b) `generate`: one batched call with `num_return_sequences`. Interleaved; medians; one JSON line last.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from ka2l.config import GeonamesConfig, ModelConfig, PromptConfig
from ka2l.geonames import geonames_rows
from ka2l.models.base import Prompt
from ka2l.models.load import resolve
from ka2l.models.local import LocalModel
from ka2l.prompts import PromptBuilder

SAMPLES, NEW_TOKENS = 10, 24


def main(n_questions: int = 4, repeats: int = 3) -> None:
    """Time the three on the same questions, in turns."""
    config = ModelConfig()
    model = LocalModel.load(config, resolve(config))
    builder = PromptBuilder(PromptConfig())
    model.share_prefix(builder.sensing)
    rows = geonames_rows(GeonamesConfig(capitals=n_questions), seed=0)[:n_questions]
    prompts = [Prompt(row.id, builder.sensing(row.question)) for row in rows]
    contenders: dict[str, Callable[[], int]] = {
        "ours": lambda: _ours(model, prompts),
        "generate": lambda: _generate(model, prompts),
        "loop": lambda: _loop(model, prompts[: max(2, n_questions // 8)]),
    }
    per_question: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            started = time.perf_counter()
            done = work()
            per_question[name].append((time.perf_counter() - started) / done)
    medians = {name: statistics.median(times) for name, times in per_question.items()}
    result = {f"seconds_{name}": round(value, 4) for name, value in medians.items()}
    result |= {f"ratio_vs_{name}": round(medians[name] / medians["ours"], 2) for name in ("loop", "generate")}
    print(json.dumps({"benchmark": "sampling", "questions": n_questions, "repeats": repeats, **result}))


def _ours(model: LocalModel, prompts: list[Prompt]) -> int:
    temperatures = [0.1] + [1.0] * SAMPLES
    done = model.sample(
        prompts, temperatures, seed=0, max_new_tokens=NEW_TOKENS, batch_size=16, position="tbg"
    )
    return len(list(done))


def _generate(model: LocalModel, prompts: list[Prompt]) -> int:
    tokenizer = model.tokenizer
    tokenizer.padding_side = "left"
    for start in range(0, len(prompts), 4):
        batch = tokenizer([p.text for p in prompts[start : start + 4]], return_tensors="pt", padding=True)
        model.model.generate(
            **batch,
            do_sample=True,
            num_return_sequences=SAMPLES + 1,
            max_new_tokens=NEW_TOKENS,
            **_options(tokenizer),
        )
    return len(prompts)


def _loop(model: LocalModel, prompts: list[Prompt]) -> int:
    for prompt in prompts:
        batch = model.tokenizer(prompt.text, return_tensors="pt")
        for _ in range(SAMPLES + 1):
            model.model.generate(
                **batch, do_sample=True, max_new_tokens=NEW_TOKENS, **_options(model.tokenizer)
            )
    return len(prompts)


def _options(tokenizer: object) -> dict[str, object]:
    return {
        "output_hidden_states": True,
        "return_dict_in_generate": True,
        "stop_strings": ["\n"],
        "tokenizer": tokenizer,
    }


if __name__ == "__main__":
    with torch.inference_mode():
        main(*(int(argument) for argument in sys.argv[1:]))
