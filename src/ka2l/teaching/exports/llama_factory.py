"""The files LLaMA-Factory reads for the same training: data, `dataset_info.json` and the YAML of `llamafactory-cli train`.

    cd FOLDER && llamafactory-cli train train.yaml

LLaMA-Factory pins versions of its own and is never imported here; the formats are those of its documentation
(data/README.md: alpaca and sharegpt). It puts the model's chat template around a conversation by itself, under a name of
its own (`llama3`, `qwen`). A plain prompt goes in as it is, with its template `empty`, which adds nothing: not even the
tokens an example begins and ends with, so they stand in the text.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ka2l.config.run_config import RunConfig
from ka2l.models.prompts import Message
from ka2l.teaching.finetuning.training_examples import Example

EMPTY = "empty"  # LLaMA-Factory's template that adds nothing
_SPEAKERS = {"user": "human", "assistant": "gpt"}


class Conversation(NamedTuple):
    """What is asked, as turns, and the answer that is taught."""

    messages: tuple[Message, ...]
    answer: str
    id: str = ""


class Ends(NamedTuple):
    """The special tokens, as text, that the tokenizer puts before a plain prompt and training puts after the answer."""

    first: str
    last: str


def is_conversation(config: RunConfig) -> bool:
    """Whether examples go out as turns for a chat template; else as text that is ready."""
    return config.prompt.template == "chat" or config.export.llama_factory_template not in ("", EMPTY)


def sharegpt_rows(conversations: Iterable[Conversation]) -> list[dict[str, Any]]:
    """Rows of LLaMA-Factory's sharegpt format, whatever the chat template will be."""
    return [
        {
            "id": each.id,
            "conversations": [
                *({"from": _SPEAKERS[turn["role"]], "value": turn["content"]} for turn in each.messages),
                {"from": "gpt", "value": each.answer},
            ],
        }
        for each in conversations
    ]


def alpaca_rows(examples: Iterable[Example], ends: Ends) -> list[dict[str, Any]]:
    """Rows of the alpaca format for template `empty`: the tokens of `ka2l.teaching.finetuning.training_examples`, cut between prompt and answer.

    LLaMA-Factory tokenizes the two parts apart. With byte-level tokenizers, where a word begins with its space, that is
    the same; one that joins the last letter of a prompt with an answer's first would differ there.
    """
    return [
        {
            "id": example.id,
            "instruction": ends.first + example.prompt,
            "input": "",
            "output": example.completion + ends.last,
        }
        for example in examples
    ]


def dataset_info(names: Sequence[str], *, conversations: bool) -> dict[str, Any]:
    """The entries of `dataset_info.json` for datasets in `NAME.json` beside it."""
    if conversations:
        how: dict[str, Any] = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
    else:
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
        how = {"formatting": "alpaca", "columns": columns}
    return {name: {"file_name": f"{name}.json", **how} for name in names}


def train_settings(config: RunConfig, model: str, dataset: str) -> dict[str, Any]:
    """The arguments of `llamafactory-cli train` that train what `ka2l finetune` trains.

    Args:
        config: of the run; every setting of `finetune` that exists there is carried over.
        model: a Hub id or a folder.
        dataset: its name in `dataset_info.json`.
    """
    from_hub = {"model_revision": config.model.revision} if config.model.revision else {}
    trusted = {"trust_remote_code": True} if config.model.trust_remote_code else {}
    # Earlier answers of a conversation are worked examples: no loss on them.
    shots = {"mask_history": True} if is_conversation(config) and config.prompt.teaching_shots else {}
    settings, seed = config.finetune, config.seed if config.finetune.seed is None else config.finetune.seed
    return {
        "model_name_or_path": model,
        **from_hub,
        **trusted,
        "use_fast_tokenizer": True,
        **_precision(config),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": settings.lora_rank,
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "dataset_dir": ".",
        "dataset": dataset,
        **_template(config),
        **shots,
        "cutoff_len": settings.max_length,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "learning_rate": settings.learning_rate,
        "num_train_epochs": float(settings.epochs),
        "lr_scheduler_type": "cosine",
        "warmup_ratio": settings.warmup_ratio,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "seed": seed,
        "data_seed": seed,
        "output_dir": f"saves/{dataset}",
        "logging_steps": 10,
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "report_to": "none",
    }


def as_yaml(settings: Mapping[str, Any], title: str) -> str:
    """The settings as a file with a line on top that says what it is."""
    import yaml

    return f"# {title}\n" + yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)


def _precision(config: RunConfig) -> dict[str, Any]:
    """As `ka2l finetune` places the weights; FlashAttention-2 (paper, Section 4.3.3) wants a GPU and 16 bits."""
    on_cpu = config.model.device == "cpu"
    dtype = {"auto": "bfloat16"}.get(config.model.dtype, config.model.dtype)
    half = {"bfloat16": "bf16", "float16": "fp16"}.get(dtype)
    if on_cpu or half is None:
        return {"flash_attn": "auto"}
    return {half: True, "flash_attn": "fa2"}


def _template(config: RunConfig) -> dict[str, str]:
    """A conversation without a name for its template gets none: LLaMA-Factory then reads the tokenizer's own."""
    name = config.export.llama_factory_template or ("" if is_conversation(config) else EMPTY)
    return {"template": name} if name else {}
