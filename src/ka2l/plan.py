"""`ka2l run --dry-run`: what a run would do and cost, from the questions and the model's shape alone."""

import math
import time
from functools import partial
from typing import Any

from ka2l.config import RunConfig
from ka2l.models.load import resolve
from ka2l.prompts import PromptBuilder, Shot, render_chat
from ka2l.questions import Question, load_questions
from ka2l.stages import all_stages, arms
from ka2l.store import split_stage

_EFFICIENCY = 0.5  # of the measured matrix rate, over a whole stage
_ANSWER_TOKENS = 6  # of a typical short answer; nobody knows before it is given


def plan(config: RunConfig) -> dict[str, Any]:
    """Stages with questions, tokens and seconds, both estimates for short answers; nothing is written."""
    from ka2l.pipeline.act import training_steps

    shots = max(config.prompt.shots, config.prompt.teaching_shots)
    loaded = load_questions(config.questions, config.seed, shots)
    roles: dict[str, list[Question]] = {}
    for question in loaded.questions:
        roles.setdefault(question.role, []).append(question)
    resolved = resolve(config.model)
    tokenizer, parameters = _shape(config, resolved.path)
    render = None
    if config.prompt.template == "chat" and getattr(tokenizer, "chat_template", None):
        render = partial(render_chat, tokenizer)
    worked = [Shot(q.question, q.answers[0]) for q in roles.get("shot", [])]
    prompts = PromptBuilder(config.prompt, worked, render)
    example = next(iter(roles.get("probe") or loaded.questions)).question
    rate = _matrix_rate()
    prefix = len(tokenizer(prompts.sensing(""))["input_ids"])
    own = len(tokenizer(example)["input_ids"])
    counts = {role: len(questions) for role, questions in roles.items()}
    tokens = _tokens(config, counts, own, len(tokenizer(prompts.teaching(example))["input_ids"]))
    rows: list[dict[str, Any]] = []
    for stage in all_stages(config):
        name, _ = split_stage(stage)
        questions, computed, weight = tokens.get(name, (0, 0, 0.0))
        extra = prefix if name in ("sample", "map", "signals", "evaluate") else 0
        seconds = weight * 2 * parameters * (computed + extra) / (rate * _EFFICIENCY)
        rows.append(
            {"stage": stage, "questions": questions, "tokens": computed + extra, "seconds": round(seconds, 1)}
        )
    return {
        "model": resolved.name,
        "revision": resolved.revision,
        "parameters": parameters,
        "questions": counts,
        "duplicates_merged": loaded.duplicates,
        "first_prompt": prompts.sensing(example),
        "first_teaching_prompt": prompts.teaching(example),
        "training_steps": training_steps(min(config.select.budget, counts.get("pool", 0)), config.finetune),
        "stages": rows,
        "tokens": sum(row["tokens"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "answer_tokens": _ANSWER_TOKENS,
        "gflops": round(rate / 1e9, 1),
    }


def _tokens(
    config: RunConfig, counts: dict[str, int], own: int, teaching: int
) -> dict[str, tuple[int, int, float]]:
    """Per stage: questions, tokens that pass the model, and the cost of one relative to a forward pass."""
    probe, pool, held_out = (counts.get(role, 0) for role in ("probe", "pool", "eval"))
    bought = min(config.select.budget, pool)
    asked = (
        held_out + bought * (1 + config.evaluate.rewordings) + min(config.evaluate.unbought, pool - bought)
    )
    answer = min(_ANSWER_TOKENS, config.evaluate.max_new_tokens)
    evaluated = 2 * held_out + (asked - held_out) * len(arms(config)) + asked * len(arms(config))
    return {
        "load": (sum(counts.values()), 0, 0.0),
        "sample": (
            probe,
            probe * (own + (config.sample.n + 1) * min(_ANSWER_TOKENS, config.sample.max_new_tokens)),
            1.0,
        ),
        "measure": (probe, 0, 0.0),
        "probe": (probe, 0, 0.0),
        "map": (pool, pool * own, 1.0),
        "signals": (pool, pool * own, 1.0),
        "select": (bought, 0, 0.0),
        "annotate": (bought, 0, 0.0),
        # forward and backward through frozen weights: twice a forward pass, and a little for the adapter
        "finetune": (bought, config.finetune.epochs * bought * (teaching + _ANSWER_TOKENS), 2.2),
        "evaluate": (evaluated, evaluated * (teaching + answer), 1.0),
        "report": (0, 0, 0.0),
    }


def _shape(config: RunConfig, path: str) -> tuple[Any, int]:
    """Tokenizer and number of parameters, from the model's config; no weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from ka2l.models.load import quiet_transformers

    trust = config.model.trust_remote_code
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=config.model.revision, trust_remote_code=trust
        )
        shape = AutoConfig.from_pretrained(path, revision=config.model.revision, trust_remote_code=trust)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape, trust_remote_code=trust)
    return tokenizer, sum(parameter.numel() for parameter in model.parameters())


def _matrix_rate() -> float:
    """Floating-point operations per second of a matrix product on the device in use, best of five."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = math.inf
    for _ in range(5):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
