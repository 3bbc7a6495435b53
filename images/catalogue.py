"""Slipway's own images, and what decides their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images import base, requirements

ROOT = Path(__file__).parent.parent

FREE_GB = 25
"""What building the packages' layer of the steps takes at its peak, and what the registry and containerd take after."""


@dataclass(frozen=True)
class Image:
    """One target of one Dockerfile."""

    name: str
    repository: str
    dockerfile: str
    target: str
    folders: tuple[str, ...]
    """What the Dockerfile copies beside `FILES`; a change in it makes another image."""

    locks: tuple[str, ...] = ()
    """The files with hashes that it is installed from."""

    flavour: str = ""
    """Ends the tag that names the project's version."""

    free_gb: int = 5

    @property
    def local(self) -> str:
        """What the engine calls it; flavours stand beside each other."""
        return f"localhost/{self.repository}{self.flavour}"


FILES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE")
_STEPS = ("components", "pipelines", "serving")
_BUILD, _SERVING, _COMPONENTS = (str(requirements.path(name).relative_to(ROOT)) for name in requirements.NAMES)
_OF_STEPS: dict[str, Any] = {
    "repository": "slipway-python",
    "dockerfile": "components/Dockerfile",
    "folders": _STEPS,
    "locks": (_BUILD, _COMPONENTS),
    "free_gb": FREE_GB,
}
IMAGES = {
    image.name: image
    for image in (
        Image("serving", "slipway-serving", "serving/Dockerfile", "serving", ("serving",), (_BUILD, _SERVING)),
        Image(name="components", target="cpu", flavour="-cpu", **_OF_STEPS),
        Image(name="components-cuda", target="cuda", flavour="-cuda", **_OF_STEPS),
    )
}


def sources_digest(image: Image, root: Path = ROOT, base_image: str = "") -> str:
    """Digest of everything that decides what is in an image, the base included: the one named, or that made here."""
    paths = [root / name for name in (*FILES, *image.locks, ".dockerignore", image.dockerfile)]
    for folder in image.folders:
        found = (root / folder).rglob("*")
        paths += [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    files = {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return sha256([sorted(files.items()), image.target, base_image or base.DEBIAN_REFERENCE])


def dependencies_digest(image: Image, base_image: str) -> str:
    """Digest of what decides the packages' layer, and of nothing else: the big one is not made again for less."""
    stage = dockerfile_stage((ROOT / image.dockerfile).read_text(), "dependencies")
    return sha256([stage, *((ROOT / name).read_text() for name in image.locks if name in stage), base_image])


def dockerfile_stage(text: str, name: str) -> str:
    """The instructions of one stage, without comments."""
    (found,) = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", text, re.DOTALL | re.MULTILINE)
    return re.sub(r"^\s*#.*\n", "", found, flags=re.MULTILINE).strip()


def version() -> str:
    """The project's, as pyproject.toml has it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def revision() -> str:
    """The commit, marked when there are changes beside it; empty outside of a repository."""
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def source() -> str:
    """Where the code is, as a browser opens it; empty where that is not known."""
    if repository := os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{repository}"
    return browsable(_git("remote", "get-url", "origin"))


def browsable(remote: str) -> str:
    """A remote's https address without user and password; empty for a path or another protocol."""
    found = re.fullmatch(r"(?:https://(?:[^@/]*@)?|git@|ssh://git@)([\w.-]+)[:/](.+?)(?:\.git)?/?", remote)
    return f"https://{found[1]}/{found[2]}" if found else ""


def sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _git(*arguments: str) -> str:
    told = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip() if told.returncode == 0 else ""


def chosen(names: Sequence[str]) -> list[Image]:
    """Those named, all without names; raises KeyError for a name that is none."""
    return [IMAGES[name] for name in (names or IMAGES)]
