"""Teach a model with LoRA on all its linear modules (paper, Section 4.3.3). The only file that trains a language model.

    result = finetune("smollm2-folder", [Example("Question: …\\nAnswer:", " Lima")], FinetuneConfig(),
                      out=run / "adapter", checkpoints=run / "checkpoints", seed=0, dtype="auto", device="cpu")

The loss is taken on the completion and the EOS after it, never on the prompt, and the prompt's tokens are exactly
those of inference. After `kill -9` at any moment the same call goes on from the last complete checkpoint and ends
with the same adapter (on CPU: to the bit). The checkpoints are the Trainer's own files; whoever calls removes the
folder `checkpoints` once the adapter is recorded, not before: until then a repeated call costs seconds.
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


class FinetuneResult(NamedTuple):
    """What a fine-tuning did. All but `seconds` and `resumed_from` are the same after an interruption."""

    steps: int
    seconds: float  # of this call
    train_loss: float  # nats per completion token, mean over all steps
    last_loss: float  # of the last step
    tokens: int  # prompt and completion, over all epochs
    trainable_parameters: int
    resumed_from: int | None  # the checkpoint's step


def finetune(
    model_path: str,
    examples: Sequence[Example],
    config: FinetuneConfig,
    out: Path,
    checkpoints: Path,
    *,
    seed: int,
    dtype: str,
    device: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    special_tokens: bool = True,
    on_step: Callable[[int, int], None] | None = None,
) -> FinetuneResult:
    """Train an adapter and save it in PEFT's format.

    Args:
        model_path: a model folder or a Hub id.
        examples: trained in an order that depends on `seed` only.
        config: rank, learning rate, epochs, batch sizes.
        out: the adapter's folder; it appears, or replaces an older one, when it is complete.
        checkpoints: folder of the checkpoints; those of another call (other examples, config, model) are removed.
        seed: of initialisation, order and dropout.
        dtype: `auto`, `float32`, `bfloat16` or `float16` of the frozen weights; on CPU always float32.
        device: `auto`, `cpu` or `cuda` (the first GPU that PyTorch sees).
        revision: Hub revision of the model.
        trust_remote_code: run code that comes with the model.
        special_tokens: whether the tokenizer adds its own, as at inference (no for chat prompts).
        on_step: called with (step, steps) after each update.

    Raises:
        DegenerateError: no examples.
        DataError: examples that are empty or longer than `config.max_length`.
        ModelError: no such model, no EOS token, no such device, out of GPU memory.
        Ka2lError: the loss or gradient became NaN or infinite.
    """
    if not examples:
        raise DegenerateError(
            "There is nothing to teach: no annotated examples. Buy more labels (select.budget)."
        )
    started = time.monotonic()
    device, dtype = _place(device, dtype)
    fingerprint = fingerprint_of(model_path, revision, examples, config, seed, dtype, special_tokens)
    with _undisturbed(device):
        tokenizer, model = _load(model_path, revision, trust_remote_code, dtype)
        data = tokenize_examples(tokenizer, examples, config.max_length, special_tokens)
        checkpoint = last_checkpoint(checkpoints, fingerprint)
        arguments = _arguments(config, len(examples), checkpoints, seed, dtype, device)
        trainer = _trainer(model, tokenizer, data, config, arguments)
        trainer.add_callback(_watch(config, fingerprint, on_step))
        _train(trainer, checkpoint, config)
        _save_adapter(trainer.model, out, model_path, len(examples))
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


def _place(device: str, dtype: str) -> tuple[str, str]:
    """Resolve `auto`, and refuse what the Trainer would silently put elsewhere."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device, "float32"
    if not torch.cuda.is_available():
        raise ModelError(f"model.device is {device}, but PyTorch sees no CUDA device here. Use cpu or auto.")
    if device not in ("cuda", "cuda:0"):
        number = device.rpartition(":")[2]
        raise ModelError(
            f"model.device is {device}, but fine-tuning runs on the first GPU that PyTorch sees. "
            f"Set CUDA_VISIBLE_DEVICES={number} and model.device=cuda."
        )
    return device, "bfloat16" if dtype == "auto" else dtype


def _load(model_path: str, revision: str | None, trust_remote_code: bool, dtype: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None and not Path(model_path).is_dir():
        options["revision"] = revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path, **options)
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, dtype), **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n", 1)[0][:300]
        raise ModelError(f"{model_path}: cannot load this model: {reason}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model


def _arguments(
    config: FinetuneConfig, examples: int, checkpoints: Path, seed: int, dtype: str, device: str
) -> Any:
    """AdamW with warm-up and cosine decay; silent, unpacked, with a checkpoint every `save_steps` updates."""
    from trl import SFTConfig

    steps = config.epochs * math.ceil(math.ceil(examples / config.batch_size) / config.gradient_accumulation)
    arguments = SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(
            int(config.warmup_ratio * steps), steps - 1
        ),  # rounded down: its first step learns nothing
        optim="adamw_torch",
        weight_decay=0.0,
        seed=seed,
        data_seed=seed,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
        gradient_checkpointing=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a NaN must be seen, not averaged away
        report_to="none",
        disable_tqdm=True,
        packing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several visible GPUs would be an error in TRL; one is enough
    return arguments


def _trainer(model: Any, tokenizer: Any, data: Tokenized, config: FinetuneConfig, arguments: Any) -> Any:
    """TRL's trainer on tokens that are ready, so that nothing is truncated, filtered or tokenized another way."""
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
    """A callback that reports steps, stops at NaN before it is saved, and marks checkpoints that are complete."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if on_step is not None:
                on_step(state.global_step, state.max_steps)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
            # With float16, steps of infinite gradient are skipped until the loss scale fits: no reason to stop.
            for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
                value = (logs or {}).get(name, 0.0)
                if not math.isfinite(value):
                    raise Ka2lError(
                        f"Fine-tuning broke at step {state.global_step} of {state.max_steps}: {name} is {value}. Lower "
                        f"finetune.learning_rate (now {config.learning_rate:g}), for example to "
                        f"{config.learning_rate / 10:g}; earlier checkpoints are kept in {args.output_dir}."
                    )

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", fingerprint)

    return Watch()


def _train(trainer: Any, checkpoint: Path | None, config: FinetuneConfig) -> None:
    import torch

    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"Fine-tuning ran out of GPU memory with finetune.batch_size={config.batch_size}. Halve it and double "
            f"finetune.gradient_accumulation (now {config.gradient_accumulation}): the updates stay the same."
        ) from error


def _save_adapter(model: Any, out: Path, model_path: str, examples: int) -> None:
    """Write beside `out`, then rename: `out` is whole or not there."""
    adapter = model.peft_config["default"]
    adapter.target_modules = sorted(adapter.target_modules)  # a set's order changes from process to process
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
    """No telemetry, bars or advice from the libraries inside; the caller's settings and random state as before after."""
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
            warnings.simplefilter("ignore", FutureWarning)  # the libraries' advice to each other
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        logging.set_verbosity(verbosity)
        random.setstate(python)
        np.random.set_state(numpy)
        if bars:
            logging.enable_progress_bar()
