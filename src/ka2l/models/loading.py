"""Find and load a causal language model: the embedded one, a local folder or a Hub id."""

import hashlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ka2l.errors import ModelError
from ka2l.models import embedded_model
from ka2l.models.settings import ModelConfig

if TYPE_CHECKING:
    import torch


class ResolvedModel(NamedTuple):
    """Where a model's files are, and the revision that identifies its weights in content keys and cards."""

    name: str
    path: str
    """A folder, or the Hub id."""
    revision: str
    """A commit of the Hub, a hash of the folder's files, or the version of the embedded model's package."""


def resolve(config: ModelConfig) -> ResolvedModel:
    """Locate the model without loading it.

    Raises:
        ModelError: no such package, folder or Hub repository; the message names what was tried.
    """
    if config.name == embedded_model.NAME:
        return ResolvedModel(config.name, str(embedded_model.model_folder()), embedded_model.revision())
    folder = Path(config.name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelError(f"{folder}: this folder contains no model (config.json is missing).")
        return ResolvedModel(config.name, str(folder.resolve()), _folder_revision(folder))
    if config.name.startswith((".", "/", "~")) or config.name.count("/") > 1:
        raise ModelError(
            f"{config.name}: no such folder. Give a model folder, a Hub id (owner/name) or {embedded_model.NAME}."
        )
    return ResolvedModel(config.name, config.name, _hub_revision(config))


def load_causal_lm(config: ModelConfig, resolved: ResolvedModel, adapter: Path | None = None) -> tuple[Any, Any]:
    """Load the model (in eval mode, on its device) and its tokenizer.

    Args:
        config: the section `model`.
        resolved: see `resolve`.
        adapter: a folder of LoRA weights to merge into the model.

    Raises:
        ModelError: the model or the adapter cannot be loaded.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    device = pick_device(config)
    arguments = loading_arguments(config, resolved)
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(resolved.path, **arguments)
            model = AutoModelForCausalLM.from_pretrained(
                resolved.path,
                dtype=pick_dtype(config, device),
                device_map=_placement(config, device),
                quantization_config=_quantization(config, device),
                **arguments,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{config.name}: cannot load this model: {first_line(error)}") from error
        if adapter is not None:
            model = _merge_adapter(model, adapter)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def loading_arguments(config: ModelConfig, resolved: ResolvedModel) -> dict[str, Any]:
    """Arguments for every `from_pretrained` of this model."""
    arguments: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    # The commit, so that all files are of the same version even if the branch moves meanwhile.
    if not Path(resolved.path).is_dir():
        arguments["revision"] = resolved.revision
    return arguments


def _placement(config: ModelConfig, device: str) -> Any:
    """The whole model on one device; with `auto` and several GPUs, spread over them."""
    import torch

    several = config.device == "auto" and torch.cuda.device_count() > 1
    return "auto" if several else {"": device}


def _quantization(config: ModelConfig, device: str) -> Any:
    """The quantisation configuration of transformers; None for no quantisation."""
    if config.quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model.quantization is {config.quantization}, and bitsandbytes is not installed. "
            "Run `pip install bitsandbytes`, or set model.quantization=none."
        )
    from transformers import BitsAndBytesConfig

    # It warns about a cast in every layer of every pass.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=pick_dtype(config, device),
    )


def pick_device(config: ModelConfig) -> str:
    """`auto` → cuda if there is a CUDA device, else cpu.

    Raises:
        ModelError: a CUDA device is configured, but there is none.
    """
    import torch

    if config.device != "auto":
        if config.device.startswith("cuda") and not torch.cuda.is_available():
            raise ModelError(f"model.device is {config.device}, but PyTorch sees no CUDA device here. Use cpu or auto.")
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(config: ModelConfig, device: str) -> "torch.dtype":
    """`auto` → float32 on CPU, bfloat16 elsewhere."""
    import torch

    if config.dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.dtype]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress progress bars and advice of transformers and peft, which would disturb KA2L's own progress."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # These are meant for the authors of the libraries.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _merge_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{adapter}: this adapter does not fit the model: {first_line(error)}") from error


def _folder_revision(folder: Path) -> str:
    """Hash of a folder's files: of small ones the content, of large ones the size and both ends, to save time."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.name.startswith("."):
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as handle:
            if size <= 1 << 24:
                digest.update(handle.read())
            else:
                digest.update(handle.read(1 << 20))
                handle.seek(-(1 << 20), 2)
                digest.update(handle.read())
    return "sha256-" + digest.hexdigest()[:16]


def _hub_revision(config: ModelConfig) -> str:
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        file = cached_file(config.name, "config.json", revision=config.revision or "main")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{config.name}: no such model. It is not '{embedded_model.NAME}', not a folder here, and the Hub says: "
            f"{first_line(error)}"
        ) from error
    return extract_commit_hash(file, None) or config.revision or "main"


def first_line(error: BaseException) -> str:
    """First line of an error's message, at most 300 characters."""
    return str(error).strip().split("\n", 1)[0][:300]
