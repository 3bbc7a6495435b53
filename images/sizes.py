"""How large the images are, and that none grows unseen: images/sizes.yaml."""

from __future__ import annotations

import stat
from pathlib import Path

import yaml

from images.look import walk

FILE = Path(__file__).parent / "sizes.yaml"
GROWTH = 0.10


def stated() -> dict[str, int]:
    """Image -> megabytes."""
    return yaml.safe_load(FILE.read_text())


def measure(root: Path) -> int:
    """Megabytes (10^6 bytes) of all files as they lie on a disk unpacked; a file of several names counts once."""
    sizes = {(info.st_dev, info.st_ino): info.st_size for _, info in walk(root) if stat.S_ISREG(info.st_mode)}
    return round(sum(sizes.values()) / 1e6)


def problems(name: str, megabytes: int, known: dict[str, int] | None = None) -> list[str]:
    """What to say of an image's size: one line when it is unknown or has grown by more than 10 %."""
    known = stated() if known is None else known
    if name not in known:
        return [f"has {megabytes} MB; write `{name}: {megabytes}` into images/sizes.yaml"]
    if megabytes > known[name] * (1 + GROWTH):
        return [
            f"has grown from {known[name]} to {megabytes} MB; find out by what, and where it is wanted "
            f"write `{name}: {megabytes}` into images/sizes.yaml"
        ]
    return []
