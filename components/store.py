"""The store: every step's result under the digest of everything that decides it.

    <root>/steps/<step>/<key>/            a complete result; manifest.json lists its files
    <root>/steps/<step>/<key>.partial/    work in progress, continued by whoever comes next
    <root>/releases/<digest>/             releases, immutable
    <root>/attestations/<digest>/         what was learned about a release

The key is the sha256 of the step's name, its configuration, the digests of its inputs' content, the digest
of its own code and of all project code that it imports, and the lock file. One mechanism serves a laptop, a
cluster with a shared volume and scheduled runs.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.progress import say
from components.step_config import RunSettings

MANIFEST_FILE = "manifest.json"
_PACKAGES = ("components", "pipelines", "serving")
_PROJECT = Path(__file__).resolve().parent.parent
_LOCK_FILE = Path(__file__).resolve().parent / "constraints.txt"
_UNFINISHED = ".unfinished"
"""Ends the name of a file that is being written; what bears it after a kill is nobody's."""


def sha256_json(value: Any) -> str:
    """Hexadecimal sha256 of a JSON value's canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()


def file_digest(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_files(directory: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file below a directory, the manifest excepted."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): file_digest(path) for path in files if path != directory / MANIFEST_FILE
    }


def content_digest(path: Path) -> str:
    """Digest of an artifact's content: of a file's bytes, or of a directory's names and bytes.

    A directory that the store wrote carries its manifest, which is believed when every file has the size
    that it lists; anything else is hashed.
    """
    if path.is_file():
        return file_digest(path)
    listed = _believable_manifest(path)
    return listed["digest"] if listed else sha256_json(tree_files(path))


def _believable_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a directory whose files all have the sizes that it lists, else None."""
    try:
        listed = json.loads((directory / MANIFEST_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(listed, dict) or not {"digest", "sizes"} <= listed.keys():
        return None  # somebody else's file of that name
    files = {directory / name: size for name, size in listed["sizes"].items()}
    return listed if all(path.is_file() and path.stat().st_size == size for path, size in files.items()) else None


def code_digest(step: str) -> str:
    """Digest of `components/<step>`, of all project code that it imports, directly or not, and of the lock file."""
    pending = sorted((_PROJECT / "components" / step).glob("*.py"))
    seen: dict[str, str] = {}
    while pending:
        path = pending.pop()
        name = path.relative_to(_PROJECT).as_posix()
        if name in seen:
            continue
        seen[name] = file_digest(path)
        pending += _project_imports(path)
    seen["constraints"] = file_digest(_LOCK_FILE)
    return sha256_json(seen)


def _project_imports(path: Path) -> list[Path]:
    """Source files of the project's modules that a source file imports, wherever in it they are imported."""
    found: list[Path] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(_PROJECT).parts[: -node.level] if node.level else ()
            source = ".".join((*package, *([node.module] if node.module else [])))
            modules = [source, *(f"{source}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            if module.split(".")[0] not in _PACKAGES:
                continue
            stem = _PROJECT / Path(*module.split("."))
            found += [file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()]
    return found


class Store:
    """A content-addressed folder. `Store(RunSettings)` knows the root and which steps are forced."""

    def __init__(self, run: RunSettings):
        self.root = Path(run.store).resolve()
        self._force = run.force

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    def attestations(self, digest: str) -> Path:
        """Where what is learned about a release stands; `digest` is the release's."""
        return self.root / "attestations" / digest.removeprefix("sha256:")

    def release(self, digest: str) -> Path:
        """Directory of a release, whether it exists or not."""
        return self.releases / digest.removeprefix("sha256:")

    def produce(
        self,
        step: str,
        config: Any,
        inputs: dict[str, Path],
        output: Path,
        make: Callable[[Path], None],
    ) -> bool:
        """Fill `output` with the step's result, from the store when it is there, else by `make(directory)`.

        `config` is a JSON value holding only what decides the result. `make` writes into the directory that
        it is given; when it dies, the next call with the same key gets the same directory with what is in it.
        Returns True when the result was reused.
        """
        key = sha256_json(
            {
                "step": step,
                "config": config,
                "inputs": {name: content_digest(path) for name, path in sorted(inputs.items())},
                "code": code_digest(step),
            }
        )
        entry = self.root / "steps" / step / key
        partial = entry.with_name(entry.name + ".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(entry.with_name(entry.name + ".lock"), step):
            reused = self._is_usable(entry, step)
            if not reused:
                # with a manifest it is complete, and its files may be read-only already
                if not ((partial / MANIFEST_FILE).exists() and self._is_usable(partial, step)):
                    partial.mkdir(exist_ok=True)
                    for leftover in partial.rglob(f".*{_UNFINISHED}"):
                        leftover.unlink()
                    make(partial)
                    _write_manifest(partial)
                _protect(partial)
                partial.rename(entry)
            # under the lock: whoever is forced to make it again removes the entry first
            link_tree(entry, output)
        say("reused" if reused else "stored", step=step, key=key[:12])
        return reused

    def _is_usable(self, entry: Path, step: str) -> bool:
        """Whether an entry is complete and asked for; one that is forced anew or damaged is removed."""
        if not entry.exists():
            return False
        forced = step in self._force or "all" in self._force
        if not forced and _believable_manifest(entry):
            return True
        if not forced:
            say("discarded", step=step, key=entry.name[:12], why="files are missing from the stored result or changed")
        shutil.rmtree(entry)
        return False

    @contextmanager
    def _locked(self, path: Path, step: str) -> Iterator[None]:
        """Hold the entry's lock; the kernel releases it when the process dies, however it dies."""
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                say("waiting", step=step, why=f"process {lock.read().strip() or '?'} works on the same result")
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(f"{os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield


def _protect(directory: Path) -> None:
    """Make the files read-only: outputs are hard links to them, and a change in one place would be one in all."""
    for path in directory.rglob("*"):
        if path.is_file():
            path.chmod(0o444)


def _write_manifest(directory: Path) -> None:
    files = tree_files(directory)
    sizes = {name: (directory / name).stat().st_size for name in files}
    write_atomically(directory / MANIFEST_FILE, json.dumps({"digest": sha256_json(files), "sizes": sizes}, indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Write beside, then rename: a reader sees the old text or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # random, since pods that share a volume have the same process ids
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def link_tree(source: Path, target: Path) -> None:
    """Make `target` the same tree as `source`, by hard links where the file system allows, else by copies."""

    def link(from_path: str, to_path: str) -> None:
        try:
            os.link(from_path, to_path)
        except OSError:
            shutil.copy2(from_path, to_path)

    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, copy_function=link)
