"""Fine-tune a model with LoRA on all its linear modules (paper, Section 4.3.3). Only this file trains a language model.

    result = finetune(ModelPlace("smollm2-folder", device="cpu"), [Example("Question: …\\nAnswer:", " Lima")],
                      FinetuneConfig(), out=run / "adapter", checkpoints=run / "checkpoints", seed=0)

The loss is computed on the completion and the EOS after it, never on the prompt, and the prompt's tokens are exactly
those of inference. After `kill -9` at any moment the same call continues from the last complete checkpoint and ends
with the same adapter (on a CPU: bit for bit). The checkpoints are the Trainer's own files. The caller removes the
folder `checkpoints` once the adapter is recorded, not before: until then, calling again takes seconds.
"""

import contextlib
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ka2l.common.fingerprints import fingerprint_of, sync
from ka2l.errors import DegenerateError, Ka2lError, ModelError
from ka2l.teaching.finetuning.trainer_checkpoints import last_checkpoint, mark_complete
from ka2l.teaching.finetuning.training_examples import Example, Tokenized, tokenize_examples
from ka2l.teaching.settings import FinetuneConfig


class ModelPlace(NamedTuple):
    """A language model on disk or on the Hub, and where and in what type it is loaded."""

    path: str
    """A folder or a Hub id."""
    revision: str | None = None
    """Hub revision; not used for a folder."""
    dtype: str = "auto"
    """Of the frozen weights: `auto`, `float32`, `bfloat16` or `float16`; on a CPU always float32."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda` (the first GPU that PyTorch sees)."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""


class FinetuneResult(NamedTuple):
    """The result of a fine-tuning. All but `seconds` and `resumed_from` are the same after an interruption."""

    steps: int
    """Optimizer steps."""
    seconds: float
    """Of this call."""
    train_loss: float
    """Nats per completion token, mean over all steps."""
    last_loss: float
    """Of the last step."""
    tokens: int
    """Of prompts and completions, over all epochs."""
    trainable_parameters: int
    resumed_from: int | None
    """The checkpoint's step; None: not resumed."""


def finetune(
    place: ModelPlace,
    examples: Sequence[Example],
    config: FinetuneConfig,
    out: Path,
    checkpoints: Path,
    *,
    seed: int,
    special_tokens: bool = True,
    on_step: Callable[[int, int], None] | None = None,
) -> FinetuneResult:
    """Train an adapter and save it in PEFT's format.

    Args:
        place: the model.
        examples: trained on in an order that depends on `seed` only.
        config: rank, learning rate, epochs, batch sizes; its `seed` is not read.
        out: the adapter's folder; it is created, or replaces an older one, when it is complete.
        checkpoints: folder of the checkpoints; those of another call (other examples, config, model) are removed.
        seed: of initialisation, order and dropout.
        special_tokens: whether the tokenizer adds its special tokens, as at inference (False for chat prompts).
        on_step: called with (step, total steps) after each update.

    Raises:
        DegenerateError: no examples.
        DataError: examples that are empty or longer than `config.max_length`.
        ModelError: no such model, no EOS token, no such device, out of GPU memory.
        Ka2lError: the loss or gradient became NaN or infinite.
    """
    if not examples:
        raise DegenerateError("There are no labelled examples to fine-tune on. Select more questions (select.budget).")
    started = time.monotonic()
    place = _resolved(place)
    fingerprint = fingerprint_of(place.path, place.revision, examples, config, seed, place.dtype, special_tokens)
    with _undisturbed(place.device):
        tokenizer, model = _load(place)
        data = tokenize_examples(tokenizer, examples, config.max_length, special_tokens)
        checkpoint = last_checkpoint(checkpoints, fingerprint)
        arguments = _arguments(config, len(examples), checkpoints, seed, place)
        trainer = _trainer(model, tokenizer, data, config, arguments)
        trainer.add_callback(_watch(config, fingerprint, on_step))
        _train(trainer, checkpoint, config)
        _save_adapter(trainer.model, out, place.path, len(examples))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return FinetuneResult(
        steps=trainer.state.global_step,
        seconds=time.monotonic() - started,
        train_loss=sum(losses) / len(losses),
        last_loss=losses[-1],
        tokens=config.epochs * sum(map(len, data.input_ids)),
        trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        resumed_from=int(checkpoint.name.rpartition("-")[2]) if checkpoint else None,
    )


def _resolved(place: ModelPlace) -> ModelPlace:
    """Replace `auto` by a device and a dtype, and refuse a device that the Trainer would silently replace."""
    import torch

    device = place.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return place._replace(device=device, dtype="float32")
    if not torch.cuda.is_available():
        raise ModelError(f"model.device is {device}, but PyTorch sees no CUDA device here. Use cpu or auto.")
    if device not in ("cuda", "cuda:0"):
        number = device.rpartition(":")[2]
        raise ModelError(
            f"model.device is {device}, but fine-tuning runs on the first GPU that PyTorch sees. "
            f"Set CUDA_VISIBLE_DEVICES={number} and model.device=cuda."
        )
    return place._replace(device=device, dtype="bfloat16" if place.dtype == "auto" else place.dtype)


def _load(place: ModelPlace) -> tuple[Any, Any]:
    """Tokenizer and model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": place.trust_remote_code}
    if place.revision is not None and not Path(place.path).is_dir():
        options["revision"] = place.revision
    dtype = getattr(torch, place.dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place.path, **options)
        model = AutoModelForCausalLM.from_pretrained(place.path, dtype=dtype, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n", 1)[0][:300]
        raise ModelError(f"{place.path}: cannot load this model: {reason}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model


def _arguments(config: FinetuneConfig, examples: int, checkpoints: Path, seed: int, place: ModelPlace) -> Any:
    """AdamW with warm-up and cosine decay; no output, no packing, a checkpoint every `save_steps` updates."""
    from trl import SFTConfig

    steps = config.epochs * math.ceil(math.ceil(examples / config.batch_size) / config.gradient_accumulation)
    arguments = SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        # Rounded down: the first step of a warm-up has learning rate 0 and changes nothing.
        warmup_steps=min(int(config.warmup_ratio * steps), steps - 1),
        optim="adamw_torch",
        weight_decay=0.0,
        seed=seed,
        data_seed=seed,
        bf16=place.dtype == "bfloat16",
        fp16=place.dtype == "float16",
        use_cpu=place.device == "cpu",
        dataloader_pin_memory=place.device != "cpu",
        gradient_checkpointing=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=1,
        # A NaN has to reach `on_log`: the filter would replace it by an average.
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        packing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    # Several visible GPUs would be an error in TRL.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _trainer(model: Any, tokenizer: Any, data: Tokenized, config: FinetuneConfig, arguments: Any) -> Any:
    """TRL's trainer on data that is already tokenized, so that TRL does not truncate, filter or tokenize anything."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTTrainer

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    dataset = Dataset.from_dict({"input_ids": data.input_ids, "labels": data.labels})
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer, peft_config=lora
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _watch(config: FinetuneConfig, fingerprint: str, on_step: Callable[[int, int], None] | None) -> Any:
    """A callback that reports steps, stops at NaN before a checkpoint is saved, and marks complete checkpoints."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if on_step is not None:
                on_step(state.global_step, state.max_steps)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            # With float16, steps with an infinite gradient are skipped until the loss scale fits: no reason to stop.
            for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
                value = (logs or {}).get(name, 0.0)
                if not math.isfinite(value):
                    raise Ka2lError(
                        f"Fine-tuning failed at step {state.global_step} of {state.max_steps}: {name} is {value}. "
                        f"Lower finetune.learning_rate (now {config.learning_rate:g}), for example to "
                        f"{config.learning_rate / 10:g}; earlier checkpoints are kept in {args.output_dir}."
                    )

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", fingerprint)

    return Watch()


def _train(trainer: Any, checkpoint: Path | None, config: FinetuneConfig) -> None:
    """Run the trainer, from the checkpoint if there is one."""
    import torch

    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"Fine-tuning ran out of GPU memory with finetune.batch_size={config.batch_size}. Halve it and double "
            f"finetune.gradient_accumulation (now {config.gradient_accumulation}): the updates stay the same."
        ) from error


def _save_adapter(model: Any, out: Path, model_path: str, examples: int) -> None:
    """Write beside `out`, then rename: `out` is complete or does not exist."""
    adapter = model.peft_config["default"]
    # Sorted: the order of a set differs between processes.
    adapter.target_modules = sorted(adapter.target_modules)
    temporary = out.with_name(f".{out.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, save_embedding_layers=False)
    card = f"A LoRA adapter for `{model_path}`, trained by KA2L on {examples} examples."
    (temporary / "README.md").write_text(f"---\nlibrary_name: peft\n---\n{card}\n", encoding="utf-8")
    for path in temporary.iterdir():
        sync(path)
    shutil.rmtree(out, ignore_errors=True)
    temporary.replace(out)
    sync(out.parent)


@contextlib.contextmanager
def _undisturbed(device: str) -> Iterator[None]:
    """Inside, no telemetry, progress bars or warnings of the libraries; afterwards, settings and random state as
    before.
    """
    import random

    import numpy as np
    import torch
    from huggingface_hub import constants
    from transformers.utils import logging

    telemetry, verbosity = constants.HF_HUB_DISABLE_TELEMETRY, logging.get_verbosity()
    bars, python, numpy = logging.is_progress_bar_enabled(), random.getstate(), np.random.get_state()
    constants.HF_HUB_DISABLE_TELEMETRY = True
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[] if device == "cpu" else [0]), warnings.catch_warnings():
            # The libraries' warnings about each other.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        logging.set_verbosity(verbosity)
        random.setstate(python)
        np.random.set_state(numpy)
        if bars:
            logging.enable_progress_bar()
