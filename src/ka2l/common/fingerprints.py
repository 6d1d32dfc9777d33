"""A hash that says which training a checkpoint belongs to, and writes that reach the disk."""

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
    """Of everything that changes the adapter, so that no checkpoint of another call is ever continued."""
    text = json.dumps([part.model_dump() if isinstance(part, Section) else part for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()
