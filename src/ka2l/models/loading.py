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
    """Where a model's files are, and the revision that pins its weights in content keys and cards."""

    name: str
    path: str  # a folder, or the Hub id
    revision: str


def resolve(config: ModelConfig) -> ResolvedModel:
    """Locate the model without loading it.

    Raises:
        ModelError: no such package, folder or Hub repository; the message says which was tried.
    """
    if config.name == embedded_model.NAME:
        return ResolvedModel(config.name, str(embedded_model.model_folder()), embedded_model.revision())
    folder = Path(config.name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelError(f"{folder}: this folder holds no model (config.json is missing).")
        return ResolvedModel(config.name, str(folder.resolve()), _folder_revision(folder))
    if config.name.startswith((".", "/", "~")) or config.name.count("/") > 1:
        raise ModelError(
            f"{config.name}: no such folder. Give a model folder, a Hub id (owner/name) or {embedded_model.NAME}."
        )
    return ResolvedModel(config.name, config.name, _hub_revision(config))


def load_causal_lm(
    config: ModelConfig, resolved: ResolvedModel, adapter: Path | None = None
) -> tuple[Any, Any]:
    """The model (in eval mode, on its device) and its tokenizer; with `adapter`, the LoRA weights merged in."""
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
    """What every `from_pretrained` of this model must be told."""
    arguments: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    if not Path(resolved.path).is_dir():
        arguments["revision"] = resolved.revision  # the commit, so that a moved branch cannot mix two models
    return arguments


def _placement(config: ModelConfig, device: str) -> Any:
    """All on one device; with `auto` and several GPUs, spread over them."""
    import torch

    several = config.device == "auto" and torch.cuda.device_count() > 1
    return "auto" if several else {"": device}


def _quantization(config: ModelConfig, device: str) -> Any:
    """What transformers needs to know to load the weights in fewer bits; none for whole ones."""
    if config.quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model.quantization is {config.quantization}, and bitsandbytes is not installed. "
            "Run `pip install bitsandbytes`, or set model.quantization=none."
        )
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(
        logging.ERROR
    )  # it tells of a cast at every layer of every pass
    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=pick_dtype(config, device),
    )


def pick_device(config: ModelConfig) -> str:
    """`auto` → cuda where there is one, else cpu."""
    import torch

    if config.device != "auto":
        if config.device.startswith("cuda") and not torch.cuda.is_available():
            raise ModelError(
                f"model.device is {config.device}, but PyTorch sees no CUDA device here. Use cpu or auto."
            )
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
    """No loading bars and no advice from transformers and peft while our own progress is on screen."""
    from transformers.utils import logging as its_logging

    verbosity, bars = its_logging.get_verbosity(), its_logging.is_progress_bar_enabled()
    its_logging.set_verbosity_error()
    its_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what one library says to the other
            yield
    finally:
        its_logging.set_verbosity(verbosity)
        if bars:
            its_logging.enable_progress_bar()


def _merge_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{adapter}: this adapter does not fit the model: {first_line(error)}") from error


def _folder_revision(folder: Path) -> str:
    """Hash of the small files' contents, and of size and both ends of each weight file (reading all would take long)."""
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
    """What an error says, without the pages that may follow."""
    return str(error).strip().split("\n", 1)[0][:300]
