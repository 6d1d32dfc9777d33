"""Versions and hardware, for `ka2l env` and bug reports."""

import os
import platform
import sys
from typing import Any


def environment() -> dict[str, Any]:
    """Versions of the libraries, Python, the operating system, processors and graphics cards."""
    import torch

    from ka2l.models.embedded_model import cache_folder
    from ka2l.pipeline.manifest import library_versions

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        **library_versions(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "gpu": ", ".join(devices) or "none",
        "cache": str(cache_folder()),
    }
