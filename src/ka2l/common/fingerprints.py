"""The hash that identifies the training a checkpoint belongs to, and flushing files to disk."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ka2l.common.settings_section import Section


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fingerprint_of(*parts: Any) -> str:
    """SHA-256 (hex) of everything that changes a training's result, so that only its own checkpoints are continued.

    Args:
        parts: configuration sections and JSON values.
    """
    text = json.dumps([part.model_dump() if isinstance(part, Section) else part for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()
