"""`ka2l run --dry-run`: what a run would do and cost, from the questions and the model's shape alone."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ka2l.common.progress import Reporter
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import answered_by, has_model, has_stand_in, limit
from ka2l.models.loading import ResolvedModel, loading_arguments, quiet_transformers, resolve
from ka2l.models.tokenizer import load_tokenizer
from ka2l.pipeline.arms import split_stage
from ka2l.pipeline.context import prompt_builder
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.stage import ANSWER_TOKENS, Cost, Lengths, Sizes
from ka2l.pipeline.stage_graph import Plan
from ka2l.pipeline.stage_list import plan_of
from ka2l.pipeline.stages.finetune import training_steps
from ka2l.pipeline.stages.load import read_questions
from ka2l.questions.question import Question

_EFFICIENCY = 0.5  # of the measured matrix rate, over a whole stage
_LETTERS = 4  # of a token, where no tokenizer is at hand


class _Local(NamedTuple):
    """The model in this process: what it can do in a second, and what it makes of a text."""

    resolved: ResolvedModel
    tokenizer: Any
    parameters: int
    rate: float  # floating-point operations per second of a matrix product here


def plan(config: RunConfig, directory: RunDirectory | None = None) -> dict[str, Any]:
    """Stages with questions, tokens and seconds, both estimates for short answers; nothing is written.

    Args:
        config: of the run.
        directory: the run that would go on, with this config, if there is one: what is done in it costs nothing more.
    """
    loaded = read_questions(config, directory)
    roles: dict[str, list[Question]] = {}
    for question in loaded.questions:
        roles.setdefault(question.role, []).append(question)
    counts = {role: len(questions) for role, questions in roles.items()}
    local = _local(config) if has_model(config) else None
    prompts = prompt_builder(config, roles.get("shot", []), lambda: local and local.tokenizer)
    example = next(iter(roles.get("probe") or loaded.questions)).question
    lengths = Lengths(
        *(_length(local, text) for text in (example, prompts.sensing(""), prompts.teaching(example)))
    )
    done, there = _done(directory, loaded.fingerprint)
    stages, sizes = plan_of(config), Sizes(config, counts, lengths, there)
    rows = _rows(stages, sizes, local, done)
    costs = [
        declared.costs(sizes, split_stage(stage)[1])
        for stage, declared in stages.stages.items()
        if config.sample.engine == "server" and stage not in done
    ]
    asked = [cost for cost in costs if cost.requests]
    end = limit(config)
    chat = config.sample.engine == "server" and config.server.endpoint == "chat"
    return {
        "model": answered_by(config),
        **({"stand_in": config.model.name} if has_stand_in(config) else {}),
        **({"revision": local.resolved.revision, "parameters": local.parameters} if local else {}),
        **({"server": _requests(config, lengths, asked)} if asked else {}),
        "questions": counts,
        "duplicates_merged": loaded.duplicates,
        "first_prompt": prompts.sensing(example),
        **({"first_messages": list(prompts.sensing_messages(example))} if chat else {}),
        **({"first_teaching_prompt": prompts.teaching(example)} if end is None else {}),
        "training_steps": _training_steps(sizes) if end is None else 0,
        "stages": rows,
        "tokens": sum(row["tokens"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "answer_tokens": ANSWER_TOKENS,
        **({"gflops": round(local.rate / 1e9, 1)} if local else {}),
        **({"ends_after": end.last, "why": end.why} if end else {}),
    }


def _rows(plan: Plan[Any], sizes: Sizes, local: _Local | None, done: set[str]) -> list[dict[str, Any]]:
    """One row a stage: what passes the model in this process, and for how long."""
    rows: list[dict[str, Any]] = []
    for stage, declared in plan.stages.items():
        cost = declared.costs(sizes, split_stage(stage)[1])
        computed = 0 if stage in done or local is None else cost.tokens
        if computed and cost.prefix:
            computed += sizes.lengths.prefix
        seconds = cost.weight * 2 * local.parameters * computed / (local.rate * _EFFICIENCY) if local else 0.0
        if cost.minutes:
            seconds = min(seconds, 60 * cost.minutes)
        row = {"stage": stage, "questions": cost.questions, "tokens": computed, "seconds": round(seconds, 1)}
        rows.append({**row, "done": stage in done})
    return rows


def _done(directory: RunDirectory | None, fingerprint: str) -> tuple[set[str], dict[str, int]]:
    """The stages that would be skipped, and by stage, how many samples a question has already."""
    loaded = directory.stages.get("load") if directory is not None else None
    if directory is None or loaded is None or loaded.facts.get("fingerprint") != fingerprint:
        return set(), {}
    context = context_of(directory, Reporter(quiet=True))
    keys = context.keys()
    done = {stage for stage, key in keys.items() if context.is_done(stage, key)}
    finished = {stage: record for stage, record in directory.stages.items() if record.state == "done"}
    there = {
        stage: int(record.facts["samples"])
        for stage, record in finished.items()
        if record.key == keys.get(stage) and "samples" in record.facts
    }
    return done, there


def _requests(config: RunConfig, lengths: Lengths, costs: Sequence[Cost]) -> dict[str, int]:
    """What the server would be asked, and what it would bill."""
    requests = sum(cost.questions * cost.requests for cost in costs)
    answers = sum(cost.questions * cost.answers for cost in costs)
    return {
        "requests": requests,
        "prompt_tokens": requests * (lengths.prefix + lengths.own),
        "answers": answers,
        "answer_tokens": answers * min(ANSWER_TOKENS, config.sample.max_new_tokens),
    }


def _training_steps(sizes: Sizes) -> int:
    """Optimizer steps of one arm."""
    return training_steps(sizes.selected + sizes.replayed, sizes.config.finetune)


def _local(config: RunConfig) -> _Local:
    """The model from its config; no weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    resolved = resolve(config.model)
    tokenizer = load_tokenizer(config.model, resolved)
    with quiet_transformers():
        shape = AutoConfig.from_pretrained(resolved.path, **loading_arguments(config.model, resolved))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape, trust_remote_code=config.model.trust_remote_code)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return _Local(resolved, tokenizer, parameters, _matrix_rate())


def _length(local: _Local | None, text: str) -> int:
    """Tokens of a text: counted, or guessed from its letters."""
    return len(local.tokenizer(text)["input_ids"]) if local else max(1, round(len(text) / _LETTERS))


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
