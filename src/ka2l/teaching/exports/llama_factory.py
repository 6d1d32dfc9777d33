"""The files of the same training for LLaMA-Factory: data, `dataset_info.json` and the YAML of `llamafactory-cli train`.

    ka2l export runs/mine --to FOLDER
    cd FOLDER && llamafactory-cli train train.yaml

LLaMA-Factory requires its own versions of libraries and is never imported here; the formats are those of its
documentation (data/README.md: alpaca and sharegpt). It applies the model's chat template to a conversation itself,
under its own name for the template (`llama3`, `qwen`). A plain prompt is exported unchanged, with LLaMA-Factory's
template `empty`, which adds nothing. That includes the special tokens at the start and end of an example, so they are
in the text.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ka2l.models.prompts import Message
from ka2l.models.settings import ModelConfig, PromptConfig
from ka2l.teaching.finetuning.training_examples import Example
from ka2l.teaching.settings import ExportConfig, FinetuneConfig

# LLaMA-Factory's template that adds nothing.
EMPTY = "empty"
_SPEAKERS = {"user": "human", "assistant": "gpt"}


class Conversation(NamedTuple):
    """A question as turns, and the answer that is taught."""

    messages: tuple[Message, ...]
    answer: str
    id: str = ""


class Ends(NamedTuple):
    """The text of the special token before a plain prompt (may be empty) and of the one after the answer."""

    first: str
    last: str


class TrainingSections(NamedTuple):
    """The settings of a run that the exported training depends on."""

    model: ModelConfig
    prompt: PromptConfig
    finetune: FinetuneConfig
    export: ExportConfig
    seed: int
    """Of the training; `finetune.seed` itself is not read."""


def is_conversation(prompt: PromptConfig, export: ExportConfig) -> bool:
    """Whether examples are exported as turns for a chat template; otherwise as complete text."""
    return prompt.template == "chat" or export.llama_factory_template not in ("", EMPTY)


def sharegpt_rows(conversations: Iterable[Conversation]) -> list[dict[str, Any]]:
    """Rows of LLaMA-Factory's sharegpt format, which is the same for every chat template."""
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
    """Rows of the alpaca format for template `empty`: the text that `ka2l finetune` trains on, as prompt and answer.

    LLaMA-Factory tokenizes the two parts separately. With byte-level tokenizers, where a word starts with its space,
    the tokens are the same; a tokenizer that joins the last letter of a prompt with the first of an answer gives
    others.
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
        layout: dict[str, Any] = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
    else:
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
        layout = {"formatting": "alpaca", "columns": columns}
    return {name: {"file_name": f"{name}.json", **layout} for name in names}


def train_settings(sections: TrainingSections, model_name: str, dataset: str) -> dict[str, Any]:
    """The arguments of `llamafactory-cli train` for the training that `ka2l finetune` does.

    Args:
        sections: of the run; every setting of `finetune` that LLaMA-Factory has too is exported.
        model_name: a Hub id or a folder.
        dataset: its name in `dataset_info.json`.
    """
    model, prompt, settings, export, seed = sections
    from_hub = {"model_revision": model.revision} if model.revision else {}
    trusted = {"trust_remote_code": True} if model.trust_remote_code else {}
    # Earlier answers of a conversation are shots: no loss on them.
    shots = {"mask_history": True} if is_conversation(prompt, export) and prompt.teaching_shots else {}
    return {
        "model_name_or_path": model_name,
        **from_hub,
        **trusted,
        "use_fast_tokenizer": True,
        **_precision(model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": settings.lora_rank,
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "dataset_dir": ".",
        "dataset": dataset,
        **_template(prompt, export),
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
    """The settings as the text of a YAML file, with the title as a comment in its first line."""
    import yaml

    return f"# {title}\n" + yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)


def _precision(model: ModelConfig) -> dict[str, Any]:
    """The precision of `ka2l finetune`; FlashAttention-2 (paper, Section 4.3.3) needs a GPU and 16 bits."""
    on_cpu = model.device == "cpu"
    dtype = {"auto": "bfloat16"}.get(model.dtype, model.dtype)
    half = {"bfloat16": "bf16", "float16": "fp16"}.get(dtype)
    if on_cpu or half is None:
        return {"flash_attn": "auto"}
    return {half: True, "flash_attn": "fa2"}


def _template(prompt: PromptConfig, export: ExportConfig) -> dict[str, str]:
    """The template's name; none for conversations without one: LLaMA-Factory then uses the tokenizer's own template."""
    name = export.llama_factory_template or ("" if is_conversation(prompt, export) else EMPTY)
    return {"template": name} if name else {}
