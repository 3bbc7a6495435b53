"""release.json as it comes from outside: read, compared with the digest that was asked for, its names checked."""

from __future__ import annotations

import re

from serving.fetch.partial import PARTIAL_FOLDER
from serving.fetch.source import NotThereError, Source
from serving.release import RELEASE_FILE, Release, ReleaseError

# A name and a digest take about 150 bytes, so that this is room for more than 50,000 files.
MANIFEST_BYTES = 8 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_manifest(source: Source) -> bytes:
    """The bytes of release.json.

    Raises ReleaseError when it is not there or larger than a manifest can be, SourceError when it cannot be read.
    """
    raw = bytearray()
    try:
        for chunk in source.read(RELEASE_FILE, 0, None):
            raw += chunk
            if len(raw) > MANIFEST_BYTES:
                raise ReleaseError(f"{RELEASE_FILE} is larger than {MANIFEST_BYTES} bytes: no manifest")
    except NotThereError as error:
        raise ReleaseError(f"not a release: it has no {RELEASE_FILE}") from error
    return bytes(raw)


def read_manifest(raw: bytes, digest: str) -> Release:
    """The release, when it has this digest ("sha256:" and 64 hexadecimal digits).

    Raises ReleaseError that says what differs, or names a file that could land outside the destination.
    """
    try:
        release = Release.model_validate_json(raw)
    except ValueError as error:
        raise ReleaseError(f"{RELEASE_FILE} is not a release manifest: {error}") from error
    if release.digest != digest:
        raise ReleaseError(f"{RELEASE_FILE} has digest {release.digest}, not {digest} as the URI says")
    folders = {name.rsplit("/", depth)[0] for name in release.files for depth in range(1, name.count("/") + 1)}
    for name, sha256 in sorted(release.files.items()):
        if fault := _fault(name) or ("is a file and a folder" if name in folders else ""):
            raise ReleaseError(f"{RELEASE_FILE} names {name!r}, which {fault}")
        if not _SHA256.fullmatch(sha256):
            raise ReleaseError(f"{RELEASE_FILE} gives {name} the sha256 {sha256!r}, which is no 64 hexadecimal digits")
    return release


def _fault(name: str) -> str:
    """Why a name cannot be a file of a release; "" when it can."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "is no path below the release directory"
    if not name.isprintable() or "\\" in name:
        return "has a character that no file of a release has"
    if any(len(part.encode()) > 255 for part in parts):
        return "is longer than a file's name can be"
    if name == RELEASE_FILE or parts[0] == PARTIAL_FOLDER:
        return "is a name that the fetch itself uses"
    return ""
