"""What a run teaches, as files for other programs: LLaMA-Factory's, JSON lines, CSV, or conversations.

    ka2l export runs/mine --to llama-factory-data
    ka2l export recipes/paper/llama-3.1-8b-instruct--nq-open.yaml --to llama-factory-data

A run that has its annotations gives one dataset for each arm. A recipe alone has no data yet, and gives the settings of
the training, to look at or to put beside data of one's own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ka2l.common import atomic_files
from ka2l.common.progress import Reporter
from ka2l.config.recipes import load_config
from ka2l.config.run_config import RunConfig
from ka2l.config.run_limits import limit
from ka2l.errors import ConfigError, DataError, RunError
from ka2l.models import embedded_model
from ka2l.models.loading import resolve
from ka2l.models.prompts import PromptBuilder, Shot
from ka2l.pipeline.arms import MAIN, arm_stage, arms
from ka2l.pipeline.context import Context
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.training_questions import training_example, training_questions
from ka2l.teaching.exports import llama_factory as factory
from ka2l.teaching.exports.text_formats import FORMATS, Messages, TrainingQuestion

LLAMA_FACTORY = "llama-factory"


def export(target: Path, folder: Path, kind: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Write what the run or recipe at `target` teaches into `folder`; returns what was written.

    Args:
        target: a run whose `annotate` is done, or a recipe (for `llama-factory` only: it has no data yet).
        folder: made where it is missing. Other datasets in its `dataset_info.json` stay.
        kind: `llama-factory`, `jsonl`, `csv` or `chat` (messages, as fine-tuning services take them).
        overrides: `section.key=value`.

    Raises:
        ConfigError: no such format, or a recipe where data is asked for.
        RunError: nothing is annotated yet, or it is out of date; or the model that answered cannot be fine-tuned here.
        DataError: `dataset_info.json` is there and cannot be read.
    """
    if kind not in (LLAMA_FACTORY, *FORMATS):
        raise ConfigError(f"--format {kind}: there are {', '.join((LLAMA_FACTORY, *FORMATS))}.")
    if not target.is_dir():
        if kind != LLAMA_FACTORY:
            raise ConfigError(
                f"{target}: a recipe has no answers yet, and --format {kind} is nothing but data. Give a run directory."
            )
        config = load_config(target, overrides)
        _check_open(config, target)
        model = resolve(config.model).path if config.model.name == embedded_model.NAME else config.model.name
        return _llama_factory(config, model, folder, dict.fromkeys(arms(config)))
    run = RunDirectory.open(target, overrides)
    context = context_of(run, Reporter(quiet=True))
    questions = {arm: _training_questions(context, arm) for arm in arms(run.config)}
    if kind == LLAMA_FACTORY:
        _check_open(run.config, target)
        rows = {arm: _rows(context, examples) for arm, examples in questions.items()}
        return _llama_factory(run.config, context.resolved.path, folder, rows)
    suffix, write = FORMATS[kind]
    messages = _messages(context)
    for arm, examples in questions.items():
        atomic_files.write_text(folder / f"{_name(arm)}{suffix}", write(examples, messages))
    return {"written": str(folder)} | {f"{_name(arm)}{suffix}": len(examples) for arm, examples in questions.items()}


def _check_open(config: RunConfig, target: Path) -> None:
    """Refuse a run whose answering model is not local: fine-tuning a stand-in would not change it."""
    end = limit(config)
    if end is not None:
        raise RunError(f"{target}: {end.reason} LLaMA-Factory trains open models. The data alone: --format chat.")


def _training_questions(context: Context, arm: str) -> list[TrainingQuestion]:
    """What `finetune` trains on in this arm, in its order.

    Where this run does not fine-tune, nothing is replayed: there is nothing to protect from being forgotten.
    """
    if limit(context.config) is None:
        context.require(arm_stage("finetune", arm))
        return training_questions(context, arm)
    context.require_done(arm_stage("annotate", arm))
    return training_questions(context, arm, replay=False)


def _messages(context: Context) -> Messages:
    """The teaching prompt of a question as turns; they are the same under every template, so no tokenizer is needed."""
    shots = [Shot(q.question, q.answers[0]) for q in context.questions("shot") if q.answers]
    settings = context.config.prompt.model_copy(update={"template": "plain"})
    return PromptBuilder(settings, shots).teaching_messages


def _rows(context: Context, questions: Sequence[TrainingQuestion]) -> list[dict[str, Any]]:
    if factory.is_conversation(context.config.prompt, context.config.export):
        messages = _messages(context)
        return factory.sharegpt_rows(
            factory.Conversation(messages(each.question), each.answers[0], each.id) for each in questions
        )
    tokenizer = context.tokenizer
    begins = tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
    ends = factory.Ends(tokenizer.bos_token if begins else "", tokenizer.eos_token)
    return factory.alpaca_rows((training_example(context, each) for each in questions), ends)


def _llama_factory(
    config: RunConfig, model: str, folder: Path, rows: Mapping[str, list[dict[str, Any]] | None]
) -> dict[str, Any]:
    """Data (where there is some), the list of datasets, and one YAML for each arm."""
    names = {arm: f"ka2l_{_name(arm)}" for arm in rows}
    listed = folder / "dataset_info.json"
    info = _read_info(listed)
    info |= factory.dataset_info(
        list(names.values()), conversations=factory.is_conversation(config.prompt, config.export)
    )
    sections = factory.TrainingSections(
        config.model, config.prompt, config.finetune, config.export, config.teaching_seed
    )
    written: dict[str, Any] = {"written": str(folder)}
    for arm, name in names.items():
        data = rows[arm]
        if data is not None:
            atomic_files.write_json(folder / f"{name}.json", data)
            written[f"{name}.json"] = len(data)
        page = f"{_name(arm)}.yaml"
        title = f"cd here, then: llamafactory-cli train {page}   (flash_attn: auto, where flash-attn is not installed)"
        settings = factory.train_settings(sections, model, name)
        atomic_files.write_text(folder / page, factory.as_yaml(settings, title))
        written[page] = "settings"
    atomic_files.write_json(listed, info)
    return written


def _read_info(file: Path) -> dict[str, Any]:
    """Datasets of others in the same folder (LLaMA-Factory's own `data`, say) are kept."""
    if not file.exists():
        return {}
    try:
        found = atomic_files.read_json(file)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{file}: exists, but is not a JSON object of datasets. Fix it, or give another --to.")
    return found


def _name(arm: str) -> str:
    return "train" if arm == MAIN else f"train_{arm}"
