"""Upstream's files on this machine: fetched once, checked against what upstream.yaml says, kept by content."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

import httpx

from manifests.installer import tools
from manifests.installer.errors import PlatformError
from pipelines.platform_parts import Source


class SourceMissing(PlatformError):
    """The files are not on this machine; says how they come here."""


def find(name: str, source: Source) -> Path:
    """Where the files are: fetched, or with the Go modules of this machine. Raises SourceMissing."""
    kept = _kept(name, source)
    module = _module_folder(source)
    for folder in (kept, module):
        if folder and folder.exists():
            return folder
    raise SourceMissing(
        f"{name} ({source.ref or source.archive}) is not on this machine; `python -m manifests.installer fetch` "
        "brings it"
    )


def fetch(name: str, source: Source) -> Path:
    """The files, from where they are published unless they are here. Raises PlatformError."""
    target = _kept(name, source)
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        arriving = Path(folder, "files")
        if source.archive:
            _download(source, arriving)
        else:
            _check_out(source, arriving)
        arriving.rename(target)
    return target


def fetch_module(source: Source) -> Path:
    """The same files from Go's module proxy, checked by Go's checksum database. Raises PlatformError."""
    if not source.module:
        raise PlatformError(f"{source.repository or source.archive} is no Go module")
    with tempfile.TemporaryDirectory() as folder:
        tools.run(["go", "mod", "init", "here"], folder=Path(folder))
        tools.run(["go", "mod", "download", f"{source.module}@{source.ref}"], folder=Path(folder))
    found = _module_folder(source)
    if found is None or not found.exists():
        raise PlatformError(f"Go has fetched {source.module}@{source.ref}, and it is not at {found}")
    return found


def _kept(name: str, source: Source) -> Path:
    return tools.cache() / "sources" / f"{name}-{source.key[:16]}"


def _module_folder(source: Source) -> Path | None:
    """Where Go keeps a module: capitals are written as ! and the small letter."""
    if not source.module or not source.ref.startswith("v"):
        return None
    path = os.environ.get("GOMODCACHE") or os.path.join(os.environ.get("GOPATH") or Path.home() / "go", "pkg/mod")
    escaped = re.sub(r"[A-Z]", lambda found: f"!{found[0].lower()}", source.module)
    return Path(path) / f"{escaped}@{source.ref}"


def _check_out(source: Source, target: Path) -> None:
    """One commit, the folders that are used. What Git fetches by its name has the content of that name."""
    assert source.commit
    git = ["git", "-C", str(target), "-c", "advice.detachedHead=false"]
    tools.run(["git", "init", "--quiet", str(target)])
    tools.run([*git, "remote", "add", "origin", source.repository])
    tools.run([*git, "sparse-checkout", "set", "--no-cone", *(f"/{one}/" for one in source.folders)])
    tools.run([*git, "fetch", "--quiet", "--depth=1", "--filter=blob:none", "origin", source.commit])
    tools.run([*git, "checkout", "--quiet", source.commit])
    shutil.rmtree(target / ".git")
    for one in source.folders:
        if not (target / one).is_dir():
            raise PlatformError(f"{source.repository} has no {one} at {source.ref}; look at upstream.yaml")


def _download(source: Source, target: Path) -> None:
    try:
        reply = httpx.get(source.archive, follow_redirects=True, timeout=60)
        reply.raise_for_status()
    except httpx.HTTPError as error:
        raise PlatformError(f"{source.archive} did not come: {error}") from error
    found = hashlib.sha256(reply.content).hexdigest()
    if found != source.sha256:
        raise PlatformError(f"{source.archive} has sha256 {found}, not {source.sha256} as upstream.yaml; do not use it")
    unpack(reply.content, target)


def unpack(content: bytes, target: Path) -> None:
    """A .tgz into a new folder; links and paths that lead out of it are refused."""
    if not hasattr(tarfile, "data_filter"):
        here = platform.python_version()
        raise PlatformError(
            f"this Python is {here}, which cannot refuse what leads out of a folder; use 3.11.4 or newer: make setup "
            "PYTHON=/path/to/python3.12 VENV=.venv312"
        )
    target.mkdir(parents=True)
    with tempfile.NamedTemporaryFile(suffix=".tgz") as file:
        file.write(content)
        file.flush()
        with tarfile.open(file.name) as archive:
            archive.extractall(target, filter="data")
