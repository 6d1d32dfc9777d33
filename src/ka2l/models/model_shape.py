"""How large a model is and how fast this machine multiplies matrices, for `ka2l run --dry-run`; no weights are read."""

import math
import time

from ka2l.models.loading import ResolvedModel, loading_arguments, quiet_transformers
from ka2l.models.settings import ModelConfig


def parameter_count(config: ModelConfig, resolved: ResolvedModel) -> int:
    """Number of parameters of a causal language model, from its config alone (built on the meta device).

    Args:
        config: the section `model`.
        resolved: where the model is; see `ka2l.models.loading.resolve`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet_transformers():
        shape = AutoConfig.from_pretrained(resolved.path, **loading_arguments(config, resolved))
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape, trust_remote_code=config.trust_remote_code)
    return sum(parameter.numel() for parameter in model.parameters())


def matrix_rate() -> float:
    """Floating-point operations per second of a matrix product on the device in use: the best of five.

    bfloat16 on CUDA, float32 on a CPU.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = math.inf
    for _ in range(5):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
