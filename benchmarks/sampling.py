"""The sampling engine against the two usual ways of sampling answers, on the embedded model.

    python benchmarks/sampling.py [questions] [repeats]

(a) `loop`: one `generate` call per answer, batch 1, all hidden states kept, as in public code for semantic entropy.
(b) `generate`: `num_return_sequences=11` for four questions at once, all hidden states kept. Both stop at the first
line break, as ours does. The three take turns; times are medians per question, (a) and (b) on a part of the questions.
`over_floor` is our time divided by the time the computed tokens would take at the matrix rate measured in the same run.
The last line is JSON.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from ka2l.models.interface import Prompt, Usage
from ka2l.models.loading import resolve
from ka2l.models.local.local_model import LocalModel
from ka2l.models.prompts import PromptBuilder
from ka2l.models.settings import ModelConfig, PromptConfig
from ka2l.questions.geonames.place_questions import geonames_rows
from ka2l.questions.settings import GeonamesConfig

SAMPLES, NEW_TOKENS = 10, 24
TEMPERATURES = {0: 0.1} | dict.fromkeys(range(1, SAMPLES + 1), 1.0)


def main(n_questions: int = 64, repeats: int = 3) -> None:
    """Time the three ways in turns."""
    config = ModelConfig()
    model = LocalModel.load(config, resolve(config))
    builder = PromptBuilder(PromptConfig())
    prompts = geonames_prompts(builder, n_questions)
    stops = StoppingCriteriaList([_LineBreak(model)])
    part, few = prompts[: max(4, n_questions // 4)], prompts[:: max(1, n_questions // 4)][:4]
    contenders: dict[str, Callable[[], int]] = {
        "ours": lambda: _ours(model, builder, prompts),
        "generate": lambda: _generate(model, part, stops),
        "loop": lambda: _loop(model, few, stops),
    }
    per_question: dict[str, list[float]] = {name: [] for name in contenders}
    rates = []
    # The first call inspects the model, which takes extra time.
    _ours(model, builder, prompts[:4])
    for _ in range(repeats):
        for name, work in contenders.items():
            model.usage = Usage()
            rates.append(matrix_rate())
            started = time.perf_counter()
            done = work()
            per_question[name].append((time.perf_counter() - started) / done)
            if name == "ours":
                usage = model.usage
            rates.append(matrix_rate())
    medians = {name: statistics.median(times) for name, times in per_question.items()}
    n_parameters = model.model.num_parameters()
    rate = statistics.median(rates)
    floor = (usage.prompt + usage.decoded) * 2 * n_parameters / rate / n_questions
    result = {f"seconds_{name}": round(value, 4) for name, value in medians.items()}
    result |= {f"ratio_vs_{name}": round(medians[name] / medians["ours"], 2) for name in ("loop", "generate")}
    result |= {"over_floor": round(medians["ours"] / floor, 2), "gflops": round(rate / 1e9)}
    result |= {f"tokens_{name}": round(n / n_questions, 1) for name, n in usage._asdict().items()}
    print(json.dumps({"benchmark": "sampling", "questions": n_questions, "repeats": repeats, **result}))


def geonames_prompts(builder: PromptBuilder, count: int) -> list[Prompt]:
    """Sensing prompts of GeoNames questions of every kind, known and unknown."""
    each = -(-count // 5)
    kinds = ("capitals", "currencies", "large_cities", "middle_cities", "small_cities")
    rows = geonames_rows(GeonamesConfig(**dict.fromkeys(kinds, each)), seed=0)
    return [Prompt(row.id, builder.sensing(row.question)) for row in rows[:: max(1, len(rows) // count)][:count]]


def matrix_rate() -> float:
    """Floating-point operations per second in a large matrix product, best of five."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * 1536**3 / best


def _ours(model: LocalModel, builder: PromptBuilder, prompts: list[Prompt]) -> int:
    model.share_prefix(builder.sensing)
    made = model.sample(prompts, TEMPERATURES, seed=0, max_new_tokens=NEW_TOKENS, position="tbg")
    return len(list(made))


def _generate(model: LocalModel, prompts: list[Prompt], stops: StoppingCriteriaList) -> int:
    tokenizer = model.tokenizer
    tokenizer.padding_side = "left"
    for start in range(0, len(prompts), 4):
        batch = tokenizer([p.text for p in prompts[start : start + 4]], return_tensors="pt", padding=True)
        _call_generate(model, batch, stops, num_return_sequences=SAMPLES + 1)
    return len(prompts)


def _loop(model: LocalModel, prompts: list[Prompt], stops: StoppingCriteriaList) -> int:
    for prompt in prompts:
        batch = model.tokenizer(prompt.text, return_tensors="pt")
        for _ in range(SAMPLES + 1):
            _call_generate(model, batch, stops)
    return len(prompts)


def _call_generate(model: LocalModel, batch: Any, stops: StoppingCriteriaList, **more: Any) -> None:
    model.model.generate(
        **batch,
        do_sample=True,
        top_k=0,
        max_new_tokens=NEW_TOKENS,
        output_hidden_states=True,
        return_dict_in_generate=True,
        stopping_criteria=stops,
        pad_token_id=model.tokenizer.pad_token_id,
        **more,
    )


class _LineBreak(StoppingCriteria):
    """Stop each row at its first token with a line break; faster than the stop strings of transformers."""

    def __init__(self, model: LocalModel):
        texts = model.tokenizer.batch_decode([[i] for i in range(len(model.tokenizer))])
        self._breaks = torch.tensor([i for i, text in enumerate(texts) if "\n" in text])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        return torch.isin(input_ids[:, -1], self._breaks)


if __name__ == "__main__":
    with torch.inference_mode():
        main(*(int(argument) for argument in sys.argv[1:]))
