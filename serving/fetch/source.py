"""Where a release lies: what every kind of source can do, and how a URI names one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from serving.fetch.settings import FetchSettings

# What is handed on at once: large enough that Python's part in a copy is small, small enough to stay in a core's cache
# between the copies (1 MiB took a quarter more CPU).
CHUNK_BYTES = 2**18
# Where a claim of pvc://CLAIM/PATH is mounted, as in KServe before it mounted claims into the server itself.
PVC_MOUNT = "/mnt/pvc"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class SourceError(RuntimeError):
    """A source that could not be read; `passing` says whether the same request may succeed in a moment."""

    def __init__(self, message: str, *, passing: bool, wait_seconds: float = 0) -> None:
        super().__init__(message)
        self.passing = passing
        self.wait_seconds = wait_seconds
        """What the server asked for (Retry-After)."""


class NotThereError(SourceError):
    """A file that the source does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is missing", passing=False)


class BadUriError(ValueError):
    """A URI that names no release."""


@dataclass(frozen=True)
class Entry:
    """One file at the source."""

    size: int | None
    """Bytes; None where the source does not say."""

    ranged: bool = True
    """Whether a part of it can be asked for."""


class Source(Protocol):
    """A directory of files, somewhere."""

    lists_everything: bool
    """Whether entries() also sees files that nobody named."""

    def entries(self, names: Collection[str]) -> dict[str, Entry]:
        """Relative path -> entry of what is there: everything, or what of `names` is there. Raises SourceError."""
        ...

    def read(self, name: str, start: int, end: int | None) -> Iterator[bytes | memoryview]:
        """The bytes [start, end) of a file in chunks; all from `start` where end is None. Raises SourceError."""
        ...


@dataclass(frozen=True)
class Uri:
    """Where one release lies."""

    text: str
    scheme: str
    """gs, s3, http, https or file."""

    host: str
    """Bucket, or host and port; empty for a file."""

    path: str
    """Without the slash at its end; absolute for a file, relative to the bucket otherwise."""

    digest: str
    """The 64 hexadecimal digits at its end."""


def parse_uri(text: str) -> Uri:
    """What a release's URI says; a plain absolute path is one too.

    Raises BadUriError.
    """
    parts = urlsplit(f"file://{text}" if text.startswith("/") else text)
    if parts.query or parts.fragment or "@" in parts.netloc:
        # The text itself is not repeated: it may hold a password or a signature.
        raise BadUriError(
            f"the {parts.scheme}:// URI has a query, a fragment or a password; credentials come from the environment"
        )
    path = parts.path.rstrip("/")
    digest = path.rpartition("/")[2]
    if not _DIGEST.fullmatch(digest):
        raise BadUriError(f"{text!r} does not end with the 64 hexadecimal digits of a release's digest")
    match parts.scheme:
        case "gs" | "s3" | "http" | "https" if parts.netloc:
            return Uri(text, parts.scheme, parts.netloc, path.lstrip("/"), digest)
        case "file" if not parts.netloc:
            return Uri(text, "file", "", path, digest)
        case "pvc" if parts.netloc:
            return Uri(text, "file", "", PVC_MOUNT + path, digest)
        case _:
            raise BadUriError(
                f"{text!r} is none of gs://, s3://, https://, http://, pvc://, file:// or an absolute path"
            )


def open_source(uri: Uri, settings: FetchSettings) -> Source:
    """The source that a URI names; nothing is asked of it yet."""
    # Each kind brings its own client library, which costs time to import; only one is needed.
    if uri.scheme in ("gs", "s3"):
        from serving.fetch.bucket import Bucket

        return Bucket(uri, settings)
    if uri.scheme in ("http", "https"):
        from serving.fetch.web import Web

        return Web(uri, settings)
    from serving.fetch.folder import Folder

    return Folder(uri)
