"""The order of a fetch, from a URI to a verified directory.

release.json -> its digest is the URI's -> listing: nothing missing, nothing extra -> room on the disk
-> ranges of files in parallel, hashed as they are written -> every sha256 -> files to their place, release.json last
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from serving.fetch.download import DifferentError, Part, Retry, download
from serving.fetch.manifest import fetch_manifest, read_manifest
from serving.fetch.partial import Partial, already_there
from serving.fetch.progress import Progress
from serving.fetch.settings import FetchSettings
from serving.fetch.source import Entry, Source, Uri, open_source
from serving.release import RELEASE_FILE, Release, ReleaseError


class NoRoomError(OSError):
    """A destination that is too small."""


def fetch(uri: Uri, destination: Path, settings: FetchSettings, progress: Progress) -> None:
    """Make `destination` the release that `uri` names; what an interrupted run left there is used.

    Raises ReleaseError when the source is not exactly that release, SourceError when it cannot be read, OSError when
    the destination cannot be written. In each case there is no release.json in the destination.
    """
    started = time.monotonic()
    digest = f"sha256:{uri.digest}"
    if already_there(destination, digest):
        progress.tell("there already", uri=uri.text, digest=digest)
        return
    source = open_source(uri, settings)
    retry = Retry(settings, progress)
    manifest = retry(RELEASE_FILE, lambda: fetch_manifest(source))
    release = read_manifest(manifest, digest)
    entries = retry("listing", lambda: list_release(source, release))
    partial = Partial(destination, digest)
    kept = partial.kept(release)

    def part(name: str) -> Part:
        return Part(name, release.files[name], entries[name], partial, settings.range_bytes)

    parts = [part(name) for name in sorted(release.files.keys() - kept)]
    _announce(parts, uri, destination, progress)
    with progress:
        try:
            download(source, parts, partial, settings, retry, progress)
            for stale in [stale for stale in parts if stale.stale]:
                progress.tell("fetched anew", name=stale.name, because="what an earlier run left of it differs")
                progress.add(-sum((end or 0) - start for start, end in stale.ranges))
                partial.discard(stale.name)
                download(source, [part(stale.name)], partial, settings, retry, progress)
        except DifferentError as error:
            partial.discard(error.name)  # so that a restart asks the source and not the disk
            raise
    partial.finish([part.name for part in parts], manifest)
    seconds = time.monotonic() - started
    rate = round(progress.fetched / seconds)
    progress.tell("done", fetched_bytes=progress.fetched, seconds=round(seconds, 3), bytes_per_second=rate)


def list_release(source: Source, release: Release) -> dict[str, Entry]:
    """What the source has of each file of the release.

    Raises ReleaseError that names files that are missing, or there without being part of the release.
    """
    found = source.entries(release.files.keys())
    if missing := sorted(release.files.keys() - found.keys()):
        raise ReleaseError(f"{_listed(missing)} missing")
    if extra := sorted(found.keys() - release.files.keys() - {RELEASE_FILE}):
        raise ReleaseError(f"{_listed(extra)} not part of the release")
    return {name: found[name] for name in release.files}


def _listed(names: list[str]) -> str:
    """ "a is", "a and b are", "a, b, c and 7 more are"."""
    shown = names[:3] + ([f"{len(names) - 3} more"] if len(names) > 3 else [])
    return f"{', '.join(shown[:-1])} and {shown[-1]} are" if len(shown) > 1 else f"{shown[0]} is"


def _announce(parts: Sequence[Part], uri: Uri, destination: Path, progress: Progress) -> None:
    """Say what is to be fetched. Raises NoRoomError when the destination cannot hold it."""
    sizes = [part.entry.size for part in parts]
    known = sum(size for size in sizes if size is not None)
    resumed = sum(part.resumed_bytes for part in parts)
    free = shutil.disk_usage(destination).free
    if known - resumed > free:
        raise NoRoomError(
            errno.ENOSPC, f"{known - resumed} bytes are to be fetched, {free} are free; give the volume more room"
        )
    progress.total = None if None in sizes else known
    progress.got = resumed
    progress.tell("start", uri=uri.text, files=len(parts), total_bytes=progress.total, resumed_bytes=resumed)
