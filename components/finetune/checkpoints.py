"""Which checkpoint may be resumed: the newest one whose every byte is as it was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from components.progress import say
from components.store import tree_files, write_atomically

_SEAL = "sealed.json"


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete: its files and their sha256 are written last, atomically."""
    files = {name: digest for name, digest in tree_files(checkpoint).items() if name != _SEAL}
    write_atomically(checkpoint / _SEAL, json.dumps(files, indent=1))


def is_intact(checkpoint: Path) -> bool:
    """Whether a checkpoint was completed and has not changed by a bit since."""
    try:
        sealed = json.loads((checkpoint / _SEAL).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    files = tree_files(checkpoint)
    files.pop(_SEAL, None)
    return files == sealed


def newest_intact(directory: Path) -> Path | None:
    """The checkpoint with the most steps that is intact; the torn ones after it are removed, and said so."""
    for checkpoint in sorted(directory.glob("checkpoint-*"), key=_steps, reverse=True):
        if is_intact(checkpoint):
            return checkpoint
        say("discarded", checkpoint=checkpoint.name, why="it is torn or was changed")
        shutil.rmtree(checkpoint)
    return None


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
