"""A release in a folder: a mounted volume (pvc://, file:// or a path)."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from serving.fetch.source import CHUNK_BYTES, Entry, NotThereError, SourceError, Uri
from serving.release import ReleaseError


class Folder:
    """Plain files below one directory."""

    lists_everything = True

    def __init__(self, uri: Uri) -> None:
        self.root = Path(uri.path)

    def entries(self, names: Collection[str]) -> dict[str, Entry]:
        """Every file; raises ReleaseError for a symbolic link, a device, a pipe or a socket."""
        found: dict[str, Entry] = {}
        for folder, folders, files in os.walk(self.root, onerror=_raise):
            for name in (*folders, *files):
                path = Path(folder, name)
                about = path.lstat()
                relative = path.relative_to(self.root).as_posix()
                if stat.S_ISREG(about.st_mode):
                    found[relative] = Entry(about.st_size)
                elif not stat.S_ISDIR(about.st_mode):
                    kind = "a symbolic link" if stat.S_ISLNK(about.st_mode) else "no plain file"
                    raise ReleaseError(f"{relative} is {kind}; a release holds plain files")
        return found

    def read(self, name: str, start: int, end: int | None) -> Iterator[bytes | memoryview]:
        """Chunks of one file."""
        try:
            with open(os.open(self.root / name, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
                file.seek(start)
                while end is None or start < end:
                    chunk = file.read(CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - start))
                    if not chunk:
                        return
                    start += len(chunk)
                    yield chunk
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotThereError(name) from error
        except OSError as error:
            raise SourceError(f"{self.root / name} cannot be read: {error.strerror}", passing=False) from error


def _raise(error: OSError) -> None:
    raise SourceError(f"{error.filename} cannot be listed: {error.strerror}", passing=False) from error
