"""`ka2l run --dry-run`: what a run would do and cost, from the questions and the model's shape alone."""

import math
import time
from typing import Any, NamedTuple

from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import answered_by, has_model, has_stand_in, limit
from ka2l.models.loading import ResolvedModel, loading_arguments, quiet_transformers, resolve
from ka2l.models.tokenizer import load_tokenizer
from ka2l.pipeline.arms import arms, split_stage
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.stage_graph import all_stages
from ka2l.questions.question import Question

_EFFICIENCY = 0.5  # of the measured matrix rate, over a whole stage
_ANSWER_TOKENS = 6  # of a typical short answer; nobody knows before it is given
_LETTERS = 4  # of a token, where no tokenizer is at hand


class _Local(NamedTuple):
    """The model in this process: what it can do in a second, and what it makes of a text."""

    resolved: ResolvedModel
    tokenizer: Any
    parameters: int
    rate: float  # floating-point operations per second of a matrix product here


class _Asked(NamedTuple):
    """What a stage still asks for: of so many questions, so many answers to each, in so many requests to a server."""

    questions: int
    answers: int
    requests: int


class _Lengths(NamedTuple):
    """Tokens of a typical question, of what its prompts share, and of its teaching prompt."""

    own: int
    prefix: int
    teaching: int


def plan(config: RunConfig, directory: RunDirectory | None = None) -> dict[str, Any]:
    """Stages with questions, tokens and seconds, both estimates for short answers; nothing is written.

    Args:
        config: of the run.
        directory: the run that would go on, with this config, if there is one: what is done in it costs nothing more.
    """
    from ka2l.pipeline.context import prompt_builder
    from ka2l.pipeline.stages.load import read_questions

    loaded = read_questions(config, directory)
    roles: dict[str, list[Question]] = {}
    for question in loaded.questions:
        roles.setdefault(question.role, []).append(question)
    counts = {role: len(questions) for role, questions in roles.items()}
    local = _local(config) if has_model(config) else None
    prompts = prompt_builder(config, roles.get("shot", []), lambda: local and local.tokenizer)
    example = next(iter(roles.get("probe") or loaded.questions)).question
    lengths = _Lengths(
        *(_length(local, text) for text in (example, prompts.sensing(""), prompts.teaching(example)))
    )
    done, there = _done(directory, loaded.fingerprint)
    asked = _asked(config, counts, there)
    rows = _rows(config, counts, lengths, local, done, asked)
    of_server = [
        one for stage, one in asked.items() if config.sample.engine == "server" and stage not in done
    ]
    end = limit(config)
    chat = config.sample.engine == "server" and config.server.endpoint == "chat"
    return {
        "model": answered_by(config),
        **({"stand_in": config.model.name} if has_stand_in(config) else {}),
        **({"revision": local.resolved.revision, "parameters": local.parameters} if local else {}),
        **({"server": _requests(config, lengths, of_server)} if of_server else {}),
        "questions": counts,
        "duplicates_merged": loaded.duplicates,
        "first_prompt": prompts.sensing(example),
        **({"first_messages": list(prompts.sensing_messages(example))} if chat else {}),
        **({"first_teaching_prompt": prompts.teaching(example)} if end is None else {}),
        "training_steps": _training_steps(config, counts.get("pool", 0)) if end is None else 0,
        "stages": rows,
        "tokens": sum(row["tokens"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "answer_tokens": _ANSWER_TOKENS,
        **({"gflops": round(local.rate / 1e9, 1)} if local else {}),
        **({"ends_after": end.last, "why": end.why} if end else {}),
    }


def _rows(
    config: RunConfig,
    counts: dict[str, int],
    lengths: _Lengths,
    local: _Local | None,
    done: set[str],
    asked: dict[str, _Asked],
) -> list[dict[str, Any]]:
    """One row a stage: what passes the model in this process, and for how long."""
    tokens = _tokens(config, counts, lengths, asked)
    rows: list[dict[str, Any]] = []
    for stage in all_stages(config):
        name, _ = split_stage(stage)
        questions, computed, weight = tokens.get(stage, tokens.get(name, (0, 0, 0.0)))
        if stage in done or local is None:
            computed = 0
        if computed and name in (
            "sample",
            "map",
            "signals",
            "pool_answers",
            "pool_likelihood",
            "replay",
            "evaluate",
        ):
            computed += lengths.prefix
        seconds = weight * 2 * local.parameters * computed / (local.rate * _EFFICIENCY) if local else 0.0
        if name == "decoder" and config.decoder.minutes:
            seconds = min(seconds, 60 * config.decoder.minutes)
        rows.append(
            {"stage": stage, "questions": questions, "tokens": computed, "seconds": round(seconds, 1)}
        )
        rows[-1]["done"] = stage in done
    return rows


def _done(directory: RunDirectory | None, fingerprint: str) -> tuple[set[str], dict[str, int]]:
    """The stages that would be skipped, and by stage, how many samples a question has already."""
    from ka2l.common.progress import Reporter
    from ka2l.pipeline.context import Context

    loaded = directory.stages.get("load") if directory is not None else None
    if directory is None or loaded is None or loaded.facts.get("fingerprint") != fingerprint:
        return set(), {}
    keys = Context(directory, Reporter(quiet=True)).keys()
    done = {stage for stage, key in keys.items() if directory.is_done(stage, key)}
    finished = {stage: record for stage, record in directory.stages.items() if record.state == "done"}
    there = {
        stage: int(record.facts["samples"])
        for stage, record in finished.items()
        if record.key == keys.get(stage) and "samples" in record.facts
    }
    return done, there


def _asked(config: RunConfig, counts: dict[str, int], there: dict[str, int]) -> dict[str, _Asked]:
    """By stage, what is asked for: N samples, of probe questions also the low-temperature one; less what is there."""
    n, asked = config.sample.n, {}
    for stage, all_ in (("sample", n + 1), ("pool_answers", n), ("pool_likelihood", 1)):
        if stage in all_stages(config):
            begun = there.get(stage, 0)
            answers = max(n - begun, 0) if begun else all_
            temperatures = 2 if stage == "sample" and not begun else 1
            requests = min(answers, temperatures) if config.server.many else answers
            role = "probe" if stage == "sample" else "pool"
            asked[stage] = _Asked(counts.get(role, 0), answers, requests)
    return asked


def _requests(config: RunConfig, lengths: _Lengths, asked: list[_Asked]) -> dict[str, int]:
    """What the server would be asked, and what it would bill."""
    requests = sum(one.questions * one.requests for one in asked)
    answers = sum(one.questions * one.answers for one in asked)
    return {
        "requests": requests,
        "prompt_tokens": requests * (lengths.prefix + lengths.own),
        "answers": answers,
        "answer_tokens": answers * min(_ANSWER_TOKENS, config.sample.max_new_tokens),
    }


def _tokens(
    config: RunConfig, counts: dict[str, int], lengths: _Lengths, asked_for: dict[str, _Asked]
) -> dict[str, tuple[int, int, float]]:
    """Per stage: questions, tokens that pass the model, and the cost of one relative to a forward pass."""
    own, teaching = lengths.own, lengths.teaching
    probe, pool, held_out = (counts.get(role, 0) for role in ("probe", "pool", "eval"))
    bought = min(config.select.budget, pool)
    asked = (
        held_out + bought * (1 + config.evaluate.rewordings) + min(config.evaluate.unbought, pool - bought)
    )
    answer = min(_ANSWER_TOKENS, config.evaluate.max_new_tokens)
    evaluated = 2 * held_out + (asked - held_out) * len(arms(config)) + asked * len(arms(config))
    kept_apart, new = counts.get("decoder", 0), bought * config.augment.per_question
    taught = bought + min(config.augment.budget or bought, new)  # at most: nobody knows how many will be kept
    epochs, alone = config.finetune.epochs, f"@{config.select.baseline}"
    replayed = _replayed(config, bought, pool)
    drawn = min(_ANSWER_TOKENS, config.sample.max_new_tokens)
    here = config.sample.engine == "local"
    answered = {
        stage: (one.questions, one.questions * (own + one.answers * drawn) if here else 0, 1.0)
        for stage, one in asked_for.items()
    }
    return {
        "load": (sum(counts.values()), 0, 0.0),
        **answered,
        # Answers from elsewhere cost nothing here; their states one pass over the prompt.
        **({} if here else {"sample": (probe, probe * own, 1.0)}),
        "measure": (probe, 0, 0.0),
        "probe": (probe, 0, 0.0),
        "map": (pool, pool * own, 1.0),
        "signals": (pool, pool * own, 1.0),
        "pool_entropy": (pool, 0, 0.0),
        "sentences": (pool, 0, 0.0),  # a small model of its own
        "select": (bought, 0, 0.0),
        "decoder_states": (kept_apart, kept_apart * own, 1.0),
        # as for fine-tuning; a T5's cost is not known from this model's
        "decoder": (kept_apart, config.decoder.epochs * kept_apart * own, 0.0 if config.decoder.t5 else 2.2),
        "candidates": (new, bought * own + new * own, 1.0),
        "augment": (new, new * own, 1.0),
        "annotate": (taught, 0, 0.0),
        "annotate" + alone: (bought, 0, 0.0),
        "replay": (replayed, replayed * (own + drawn), 1.0),
        # forward and backward through frozen weights: twice a forward pass, and a little for the adapter
        "finetune": (taught + replayed, epochs * (taught + replayed) * (teaching + _ANSWER_TOKENS), 2.2),
        "finetune" + alone: (
            bought + replayed,
            epochs * (bought + replayed) * (teaching + _ANSWER_TOKENS),
            2.2,
        ),
        "evaluate": (evaluated, evaluated * (teaching + answer), 1.0),
        "report": (0, 0, 0.0),
    }


def _training_steps(config: RunConfig, pool: int) -> int:
    """Of one arm."""
    from ka2l.pipeline.stages.finetune import training_steps

    bought = min(config.select.budget, pool)
    return training_steps(bought + _replayed(config, bought, pool), config.finetune)


def _replayed(config: RunConfig, bought: int, pool: int) -> int:
    """Known questions beside the bought ones of an arm, at most: nobody knows how many the map will have."""
    return min(round(config.finetune.replay * bought), pool - bought)


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
