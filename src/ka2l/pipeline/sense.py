"""Stage 1 around the answers: load the questions, and map the pool. Asking is in `sampling`, judging in `judge`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ka2l import files
from ka2l.errors import DegenerateError, RunError
from ka2l.knowledge.probe import Probe
from ka2l.models.base import Prompt
from ka2l.pipeline.artifacts import compact, gather, id_table, signal_ids, write_map, write_signals
from ka2l.pipeline.context import Context, add_usage
from ka2l.probe_folder import load as load_probe
from ka2l.questions import LoadedQuestions, Question, to_table
from ka2l.reach import answered_by, has_model, limit
from ka2l.store import POOL_IDS, StageRecord, signal_file

if TYPE_CHECKING:
    from ka2l.models.local import LocalModel

Arrays = dict[str, NDArray[np.generic]]


def load(context: Context, loaded: LoadedQuestions) -> bool:
    """Write the questions with their roles; skipped, and False, where the same questions are there."""
    run = context.run
    old = run.stages.get("load")
    same = old is not None and old.facts.get("fingerprint") == loaded.fingerprint
    if same and run.is_done("load", context.keys()["load"]):
        return False
    roles: dict[str, int] = {}
    for question in loaded.questions:
        roles[question.role] = roles.get(question.role, 0) + 1
    facts = {"fingerprint": loaded.fingerprint, "source": loaded.source}
    key = _load_key(context, facts)
    with run.stage("load", key, {}) as record:
        record.facts = facts
        record.counts = {**dict(sorted(roles.items())), "duplicates_merged": loaded.duplicates}
        files.write_table(run.file("questions.parquet"), to_table(loaded.questions))
    return True


def map_pool(context: Context, stage: str, key: str, inputs: dict[str, str]) -> None:
    """p_unknown of every pool question; the model runs only up to the probe's layer, and nothing holds the pool."""
    run = context.run
    fitted, card = read_probe(context)
    total = run.stages["load"].counts.get("pool", 0)
    if total == 0:
        raise DegenerateError(
            "The pool is empty: no question has the role pool. Give questions.roles.pool a size."
        )
    model = context.prepared_model()

    layer = None if fitted.layer < 0 else fitted.layer  # a mix reads all of them

    def signals(prompts: list[Prompt]) -> Arrays:
        states = model.states(prompts, layer, position=card["position"])
        embedding = states if layer is not None else states[:, -1]
        return {"p_unknown": fitted.predict(states), "embedding": compact(embedding)}

    with run.stage(stage, key, inputs) as record:
        folder = run.file("pool_signals/states")
        over_role(context, stage, "pool", model, folder, signals)
        n_unknown = write_map(folder, run.file("knowledge_map.parquet"))
        ids = gather(folder, {"embedding": run.file(signal_file("embedding"))})
        files.write_table(run.file(POOL_IDS), id_table(ids))
        record.counts = {"questions": total, "unknown": n_unknown}
        if context.config.map.probe:
            record.facts["probe"] = {
                name: card[name] for name in ("kind", "layer", "n_layers", "answered_by")
            }


def over_role(
    context: Context,
    stage: str,
    role: str,
    model: "LocalModel",
    folder: Path,
    signals: Callable[[list[Prompt]], Arrays],
) -> None:
    """Ask a model for signals of every question of a role that has none yet, part by part, see `over_questions`."""

    def of_questions(chunk: list[Question]) -> Arrays:
        return signals([Prompt(one.id, context.prompts.sensing(one.question)) for one in chunk])

    over_questions(context, stage, role, folder, of_questions, model)


def over_questions(
    context: Context,
    stage: str,
    role: str,
    folder: Path,
    signals: Callable[[list[Question]], Arrays],
    model: "LocalModel | None" = None,
) -> None:
    """Compute signals for every question of a role that has none yet, part by part, so that a crash costs one part.

    Args:
        context: of the run.
        stage: that is at work.
        role: of the questions.
        folder: of the parts.
        signals: gives arrays whose rows follow the questions.
        model: whose tokens count, if one is asked.
    """
    run = context.run
    done = signal_ids(folder)
    with context.reporter.bar(stage, run.stages["load"].counts.get(role, 0), len(done)) as advance:
        for chunk in _todo_batches(context, role, done, context.config.map.part_size):
            write_signals(files.next_part(folder, ".safetensors"), chunk, signals(chunk))
            if model is not None:
                add_usage(run.stages[stage], model)
            run.checkpoint(stage)
            advance(len(chunk))


def read_probe(context: Context) -> tuple[Probe, dict[str, Any]]:
    """The probe this run's pool is mapped with, and its card: its own, or the one `map.probe` names.

    Raises:
        RunError: it was trained for another model, revision or prompt; its numbers would mean nothing here.
    """
    config, end = context.config, limit(context.config)
    if end is not None and not has_model(config):
        raise RunError(f"{context.run.path}: there can be no probe here. {end.why}")
    if config.map.probe:
        probe = context.given_probe
        card = dict(probe.card)
        _check_probe(context, f"map.probe={config.map.probe}", card, given=True)
        return probe, card
    folder = context.run.file("probe")
    if not (folder / "probe.json").exists():
        raise RunError(f"{context.run.path}: there is no probe yet. Run `ka2l probe {context.run.path}`.")
    # The card first: what differs is said before anything is read that may not fit.
    card = files.read_json(folder / "probe.json")
    _check_probe(context, str(folder), card, given=False)
    return load_probe(str(folder))[0], card


def _check_probe(context: Context, where: str, card: dict[str, Any], *, given: bool) -> None:
    config, resolved = context.config, context.resolved
    now = {
        "model": ("model", resolved.name),
        "revision": ("model revision", resolved.revision),
        "sensing_hash": ("sensing prompt (its hash)", context.prompts.sensing_hash),
    }
    if given:
        fix = "Give the model and prompt.* settings it was trained with, or train one here with map.probe= (empty)."
        prompt = card.get("prompt", {})
        now["instruction"] = ("prompt.instruction", config.prompt.instruction)
        now["template"] = ("prompt.template", config.prompt.template)
        card = {**card, **{name: prompt.get(name) for name in ("instruction", "template")}}
        now = {name: now[name] for name in ("model", "revision", "template", "instruction", "sensing_hash")}
    else:
        fix = f"Train it anew: ka2l run --out {context.run.path}"
        now["answered_by"] = ("model that answered", answered_by(config))
        now["position"] = ("probe.position", config.probe.position)
    if card["revision"] == resolved.revision and resolved.revision.startswith("sha256-"):
        del now["model"]  # the same files, wherever they lie
        if card["answered_by"] == card["model"]:
            now.pop("answered_by", None)
    for name, (title, value) in now.items():
        if card[name] != value:
            raise RunError(
                f"{where}: this probe was trained with another {title}: {card[name]}, but the run now has {value}. A "
                f"probe reads the states of one model and one prompt. {fix}"
            )


def _load_key(context: Context, facts: dict[str, str]) -> str:
    """The key of `load` once these facts are recorded."""
    stages = context.run.stages
    before = stages.get("load")
    stages["load"] = StageRecord("running", "", facts=dict(facts))
    try:
        return context.keys()["load"]
    finally:
        if before is None:
            del stages["load"]
        else:
            stages["load"] = before


def _todo_batches(context: Context, role: str, done: set[str], size: int) -> Any:
    """Questions of a role that are not done, in lists of `size` cut from the todo list: resuming keeps the same cuts."""
    waiting: list[Question] = []
    for batch in context.question_batches(role, size):
        waiting += [question for question in batch if question.id not in done]
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]
    if waiting:
        yield waiting
