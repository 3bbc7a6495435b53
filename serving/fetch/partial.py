"""The destination while it fills: what is half there lies in one hidden folder, with a journal of what is complete.

    DESTINATION/.fetch/journal        the release's digest, then one line "START END NAME" per range that was written
    DESTINATION/.fetch/files/NAME     files of full size, with holes

A restarted container reads the journal and goes on. The journal is a hint about what need not be fetched again and no
proof of anything: every byte is hashed, whoever wrote it. Whole files move to their place when all of them are whole,
and release.json moves last, so that a directory with release.json is a release.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from serving.release import RELEASE_FILE, Release, ReleaseError, file_sha256, read_release, verify_release

PARTIAL_FOLDER = ".fetch"


class Partial:
    """The hidden folder of one destination."""

    def __init__(self, destination: Path, digest: str) -> None:
        self.destination = destination
        self.root = destination / PARTIAL_FOLDER
        self.files = self.root / "files"
        self.written: set[tuple[int, int, str]] = set()
        """(start, end, name) of each range that an earlier run completed."""
        self._lock = threading.Lock()
        destination.mkdir(parents=True, exist_ok=True)
        if self.root.is_symlink():
            raise ReleaseError(f"{self.root} is a symbolic link; remove it")
        lines = self._journal_lines()
        if lines[:1] != [digest]:  # another release's, or none
            shutil.rmtree(self.root, ignore_errors=True)
            lines = []
        self.files.mkdir(parents=True, exist_ok=True)
        for line in lines[1:]:
            start, end, name = line.split(" ", 2)
            self.written.add((int(start), int(end), name))
        self._journal = os.open(self.root / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if not lines:
            os.write(self._journal, f"{digest}\n".encode())

    def _journal_lines(self) -> list[str]:
        """Whole lines of the journal; what a kill cut off at its end is left out."""
        try:
            text = (self.root / "journal").read_text()
        except (FileNotFoundError, UnicodeDecodeError):
            return []
        if not text.endswith("\n"):
            # The next line must not be glued to half a line.
            text = text[: text.rfind("\n") + 1]
            (self.root / "journal").write_text(text)
        return text.splitlines()

    def open(self, name: str, size: int | None) -> set[tuple[int, int]]:
        """Make a part of full size; [start, end) of the ranges in it that an earlier run wrote, none for a new one."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = size is None or not path.exists() or path.stat().st_size != size
        with path.open("wb" if fresh else "rb+") as file:
            file.truncate(size or 0)
        return set() if fresh else {(start, end) for start, end, written in self.written if written == name}

    def path(self, name: str) -> Path:
        """Where a file lies until it is whole."""
        return self.files / name

    def record(self, name: str, start: int, end: int) -> None:
        """Remember a range that is written."""
        with self._lock:
            os.write(self._journal, f"{start} {end} {name}\n".encode())

    def discard(self, name: str) -> None:
        """Forget what is there of a file."""
        self.path(name).unlink(missing_ok=True)

    def kept(self, release: Release) -> set[str]:
        """Files that an earlier run moved to their place, hashed again; one that differs is removed.

        Raises ReleaseError that names a file of the destination that is none of the release's.
        """
        kept: set[str] = set()
        for path in sorted(self.destination.rglob("*")):
            name = path.relative_to(self.destination).as_posix()
            if name.partition("/")[0] == PARTIAL_FOLDER or (path.is_dir() and not path.is_symlink()):
                continue
            if name not in release.files or path.is_symlink():
                raise ReleaseError(
                    f"{self.destination} holds {name}, which is no file of the release; give an empty folder"
                )
            if file_sha256(path) == release.files[name]:
                kept.add(name)
            else:
                path.unlink()
        return kept

    def finish(self, names: list[str], manifest: bytes) -> None:
        """Move whole files to their place, release.json last."""
        for name in names:
            place = self.destination / name
            place.parent.mkdir(parents=True, exist_ok=True)
            self.path(name).replace(place)
        last = self.root / RELEASE_FILE
        last.write_bytes(manifest)
        last.replace(self.destination / RELEASE_FILE)
        os.close(self._journal)
        shutil.rmtree(self.root)


def already_there(destination: Path, digest: str) -> bool:
    """Whether the destination is the release, whole.

    A damaged one loses its release.json, so that no server starts on it while it is mended. Raises ReleaseError when
    the destination is another release.
    """
    manifest = destination / RELEASE_FILE
    if not manifest.exists():
        return False
    # A kill after release.json moved leaves the hidden folder.
    shutil.rmtree(destination / PARTIAL_FOLDER, ignore_errors=True)
    release = read_release(destination)
    if release.digest != digest:
        raise ReleaseError(f"{destination} holds the release {release.digest}; give an empty folder")
    try:
        verify_release(destination)
    except ReleaseError:
        manifest.unlink()
        return False
    return True
