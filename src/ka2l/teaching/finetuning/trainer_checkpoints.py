"""Which of the Trainer's checkpoints are complete, and whether they belong to this training."""

import json
import shutil
from pathlib import Path

from ka2l.common.fingerprints import sync

_MARK = "ka2l-complete.json"


def last_checkpoint(checkpoints: Path, fingerprint: str) -> Path | None:
    """The newest complete checkpoint with this fingerprint; incomplete ones and those of other calls are removed."""
    complete: list[tuple[int, Path]] = []
    for folder in sorted(checkpoints.glob("checkpoint-*")):
        step = folder.name.rpartition("-")[2]
        if step.isdigit() and is_complete(folder, fingerprint):
            complete.append((int(step), folder))
        else:
            shutil.rmtree(folder)
    return max(complete)[1] if complete else None


def is_complete(folder: Path, fingerprint: str) -> bool:
    """Whether the mark, written last, exists and every file it lists has its size (a removal may have been cut
    short).
    """
    try:
        mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in mark["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(mark["fingerprint"] == fingerprint and sizes == mark["files"])


def mark_complete(folder: Path, fingerprint: str) -> None:
    """Sync every file of a checkpoint, then write the mark that lists them with their sizes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        sync(path)
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    temporary = folder / (_MARK + ".tmp")
    temporary.write_text(json.dumps({"fingerprint": fingerprint, "files": sizes}), encoding="utf-8")
    sync(temporary)
    temporary.replace(folder / _MARK)
