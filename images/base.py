"""The image that ours stand on: the one that is named, the one that images.lock pins, or one made here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from images import lock
from images.engine import Buildah, Engine
from images.errors import ImageError

DEBIAN = "bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
"""Debian's Python 3.11, as in the public base; with `venv`, which brings pip into a build."""

DEBIAN_REFERENCE = f"localhost/slipway-base:{DEBIAN}-{hashlib.sha256(json.dumps(PACKAGES).encode()).hexdigest()[:8]}"


def pinned(reference: str) -> bool:
    """Whether it can only ever be one image."""
    return "@sha256:" in reference


def choose(engine: Engine, *, pinned_only: bool = False) -> str:
    """BASE_IMAGE, else what images.lock pins, else one made from Debian's packages, and where none can be made the tag.

    The last two are for this machine alone: Debian's packages are signed, but are others tomorrow, and a tag is
    whatever its registry says. Raises ImageError where only a digest will do.
    """
    entry = lock.entry("python")
    reference = os.environ.get("BASE_IMAGE") or entry.pinned
    if pinned_only and not reference:
        raise ImageError(
            f"the base {entry.image} has no digest in images.lock: make pin, where its registry is reached"
        )
    if pinned_only and not pinned(reference or ""):
        raise ImageError(f"the base {reference} is not named by digest")
    return reference or (debian(engine) if can_be_made(engine) else entry.image)


def can_be_made(engine: Engine) -> bool:
    """Whether Debian's base is here or can be made: debootstrap needs root, and not that of a namespace."""
    if not isinstance(engine, Buildah):
        return False
    users = Path("/proc/self/uid_map")
    root = os.geteuid() == 0 and users.exists() and users.read_text().split() == ["0", "0", "4294967295"]
    return engine.has(DEBIAN_REFERENCE) or (root and shutil.which("debootstrap") is not None)


def debian(engine: Engine) -> str:
    """Debian's smallest system with Python, made once by debootstrap, which checks the archive's signatures."""
    if engine.has(DEBIAN_REFERENCE):
        return DEBIAN_REFERENCE
    with tempfile.TemporaryDirectory(prefix="slipway-base-") as folder:
        system = Path(folder, "system")
        wanted = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
        engine.run("base", ["debootstrap", *wanted, DEBIAN, str(system)])
        (system / "usr/bin/python").symlink_to("python3")
        for cache in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(system / cache)
        # as an archive: what a build copies from a folder loses its owners
        engine.run("base", ["tar", "-C", str(system), "--numeric-owner", "-cf", f"{folder}/system.tar", "."])
        shutil.rmtree(system)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        Path(folder, "Dockerfile").write_text(f'FROM scratch\nADD system.tar /\nENV PATH={path}\nCMD ["python3"]\n')
        engine.run("base", ["buildah", "bud", "--isolation", "chroot", "--tag", DEBIAN_REFERENCE, folder])
    return DEBIAN_REFERENCE
