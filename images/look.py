"""What must not be found in a built image, and what must: read from its file system, without starting it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = re.compile(
    r"(pip|pip3|pip3\.\d+|uv|gcc|g\+\+|cc|c\+\+|cpp|clang|ld|as|make|cmake|rustc|go|git|curl|wget)(-\d+)?$"
)
"""What builds, or fetches what was not checked."""

INSTALLERS = re.compile(r"(?:^|/)(?:(?:site|dist)-packages/pip/__init__\.py|pip-[\d.]+-py3-none-any\.whl)$")

NAMES_OF_SECRETS = re.compile(r"(?:^|/)(?:\.env(?:\..*)?|\.netrc|\.pypirc|pip\.conf|id_(?:rsa|ed25519|ecdsa)|\.git)$")
WORDS_OF_SECRETS = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64}"
    rb"|\bghp_[A-Za-z0-9]{36}\b|\bhf_[A-Za-z0-9]{34}\b|\bAKIA[0-9A-Z]{16}\b|\"private_key_id\":\s*\"[0-9a-f]{40}\""
)
_PUBLISHED = {
    # of the test user of Hugging Face's staging hub, which opens nothing: transformers/testing_utils.py
    "5de261506c0ff857b7c1af7059f842fb0a36d1ca2e4895da542c5eb726f2c802",
}
"""sha256 of words that look like a key, and are printed for everybody in a package's own source."""

_KEEPS_SECRETS = re.compile(r"PIP_|INDEX|TOKEN|CERT|PASSWORD|SECRET|PROXY|_KEY")
_FINGERPRINTS = {"GPG_KEY"}
"""Names of a public key's fingerprint: the official images of Python say by it who signed its source."""

_READ_UP_TO = 256 * 1024

LABELS = ("title", "description", "licenses", "source", "revision", "version")
OURS = "opt/slipway"


def findings(root: Path, config: dict[str, Any]) -> list[str]:
    """What is wrong with an image, one line each; empty when nothing is."""
    return [*_of_config(config), *_of_files(root), *_uncompiled(root)]


def _of_config(config: dict[str, Any]) -> Iterator[str]:
    user = config.get("User") or ""
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        yield f"runs as {user or 'root'!r}: USER must be two numbers, and not root's"
    for entry in config.get("Env") or []:
        name = entry.partition("=")[0]
        if name not in _FINGERPRINTS and _KEEPS_SECRETS.search(name.upper()):
            yield f"keeps {name} in its environment"
    labels = config.get("Labels") or {}
    # where the code is cannot be known outside of a repository with a remote
    for label in LABELS:
        if f"org.opencontainers.image.{label}" not in labels:
            yield f"has no label org.opencontainers.image.{label}"
    for label in ("title", "revision", "version"):
        if not labels.get(f"org.opencontainers.image.{label}", "-"):
            yield f"has an empty label org.opencontainers.image.{label}"


def _of_files(root: Path) -> Iterator[str]:
    for path, info in walk(root):
        name = path.relative_to(root).as_posix()
        if stat.S_ISDIR(info.st_mode):
            if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
                yield f"/{name}/ can be written by everybody"
            continue
        if PROGRAMS.match(path.name) and path.parent.name in ("bin", "sbin"):
            yield f"holds /{name}"
        if INSTALLERS.search(name):
            yield f"holds pip: /{name}"
        if NAMES_OF_SECRETS.search(name) or (name.startswith("run/secrets/")):
            yield f"holds /{name}, which may be a secret"
        if not stat.S_ISREG(info.st_mode):
            continue
        if info.st_mode & (stat.S_ISUID | stat.S_ISGID):
            yield f"/{name} gives rights of its owner to whoever starts it"
        if info.st_mode & stat.S_IWOTH:
            yield f"/{name} can be written by everybody"
        if info.st_size <= _READ_UP_TO and holds_key(path.read_bytes()):
            yield f"/{name} holds a key"


def holds_key(content: bytes) -> bool:
    """Whether there is what looks like a key, and is not one that everybody knows."""
    found = (match.group() for match in WORDS_OF_SECRETS.finditer(content))
    return any(hashlib.sha256(words).hexdigest() not in _PUBLISHED for words in found)


def _uncompiled(root: Path) -> Iterator[str]:
    """The root may be read-only: byte code that is not there is made anew at every start."""
    for source in sorted(root.glob(f"{OURS}/**/*.py")):
        if not list(source.parent.glob(f"__pycache__/{source.stem}.*.pyc")):
            yield f"/{source.relative_to(root)} is not compiled"


def walk(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file, folder and link with what it is itself; links are not followed."""
    for folder, folders, files in os.walk(root):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            yield path, path.lstat()
