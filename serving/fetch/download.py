"""Files in parallel, large ones in ranges, each hashed from what was written while the rest still comes."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from serving.fetch.partial import Partial
from serving.fetch.progress import Progress
from serving.fetch.settings import FetchSettings
from serving.fetch.source import CHUNK_BYTES, Entry, Source, SourceError
from serving.release import ReleaseError

_T = TypeVar("_T")


class StoppedError(Exception):
    """Another thread has failed; what it raised is what matters."""


class DifferentError(ReleaseError):
    """A file whose bytes are not those of the release."""

    def __init__(self, name: str, found: str, expected: str) -> None:
        super().__init__(f"{name} has sha256 {found}, the release says {expected}")
        self.name = name


class Retry:
    """Asks again after what passes: exponential waits with chance in them, so that many pods do not ask in step."""

    def __init__(self, settings: FetchSettings, progress: Progress) -> None:
        self.settings = settings
        self.progress = progress
        self.stop = threading.Event()

    def __call__(self, what: str, ask: Callable[[], _T]) -> _T:
        """What `ask` gives. Raises its last SourceError, StoppedError once another thread has failed."""
        tries = self.settings.retries + 1
        for attempt in range(1, tries + 1):
            if self.stop.is_set():
                raise StoppedError
            try:
                return ask()
            except SourceError as error:
                if not error.passing:
                    raise
                if attempt == tries:
                    raise SourceError(f"{error} ({tries} attempts)", passing=True) from error
                doubled = self.settings.backoff_seconds * 2 ** (attempt - 1) * random.uniform(1, 1.5)
                seconds = min(max(doubled, error.wait_seconds), self.settings.backoff_cap_seconds)
                self.progress.tell(
                    "retry", what=what, attempt=attempt, of=tries, wait_seconds=round(seconds, 2), error=str(error)
                )
                self.stop.wait(seconds)
        raise AssertionError("the last attempt returns or raises")


class Part:
    """One file on its way: its ranges, and a hash that follows the beginning that is already written."""

    def __init__(self, name: str, sha256: str, entry: Entry, partial: Partial, range_bytes: int) -> None:
        self.name = name
        self.sha256 = sha256
        """What the release says."""
        self.entry = entry
        self.path: Path = partial.path(name)
        self.ranges: list[tuple[int, int | None]] = [(0, entry.size)]
        if entry.ranged and entry.size:
            starts = range(0, entry.size, range_bytes)
            self.ranges = [(start, min(start + range_bytes, entry.size)) for start in starts]
        resumed = partial.open(name, entry.size) & set(self.ranges)
        self.resumed_bytes = sum(end - start for start, end in resumed)
        self.written: set[tuple[int, int | None]] = {*resumed}
        self.stale = False
        """What an earlier run left of it is not the release's: it has to be fetched anew."""
        self._hash = hashlib.sha256()
        self._hashed = 0  # ranges
        self._hashing = False
        self._lock = threading.Lock()

    def complete(self, span: tuple[int, int | None]) -> None:
        """A range is written, and may be hashed."""
        with self._lock:
            self.written.add(span)

    def hash_on(self) -> None:
        """Hash the written ranges that follow what is hashed; one thread does it, others return at once.

        Raises ReleaseError when the whole file is hashed and differs, unless an earlier run wrote some of it.
        """
        with self._lock:
            if self._hashing or not self._hashable():
                return
            self._hashing = True
        buffer = memoryview(bytearray(CHUNK_BYTES))
        with self.path.open("rb", buffering=0) as file:
            while True:
                start, end = self.ranges[self._hashed]
                file.seek(start)
                left = os.fstat(file.fileno()).st_size - start if end is None else end - start
                while left and (count := file.readinto(buffer[: min(CHUNK_BYTES, left)])):
                    self._hash.update(buffer[:count])
                    left -= count
                with self._lock:
                    self._hashed += 1
                    whole = self._hashed == len(self.ranges)
                    if not self._hashable():
                        self._hashing = False
                        break
        if whole:
            self._compare()

    def _compare(self) -> None:
        found = self._hash.hexdigest()
        if found != self.sha256 and not self.resumed_bytes:
            raise DifferentError(self.name, found, self.sha256)
        self.stale = found != self.sha256

    def _hashable(self) -> bool:
        return self._hashed < len(self.ranges) and self.ranges[self._hashed] in self.written


def download(
    source: Source, parts: Sequence[Part], partial: Partial, settings: FetchSettings, retry: Retry, progress: Progress
) -> None:
    """Fetch what is missing of every part. Raises the first error; the other threads then stop at their next chunk."""
    missing = [(span, part) for part in parts for span in part.ranges if span not in part.written]
    # Breadth first: one file is hashed by one thread at most, so many of them are kept growing.
    missing.sort(key=lambda item: (item[0][0], item[1].name))
    work: list[Future[None]] = []

    def watch(future: Future[None]) -> None:
        work.append(future)
        future.add_done_callback(lambda ended: retry.stop.set() if ended.exception() else None)

    # Hashing has threads of its own, so that requests are under way while it is done.
    with ThreadPoolExecutor(os.cpu_count()) as hashers, ThreadPoolExecutor(settings.streams) as streams:

        def fetch(part: Part, span: tuple[int, int | None]) -> None:
            _fetch_range(source, part, span, partial, retry, progress)
            watch(hashers.submit(part.hash_on))

        for part in parts:
            watch(hashers.submit(part.hash_on))  # what an earlier run wrote
        fetches = [streams.submit(fetch, part, span) for span, part in missing]
        for future in fetches:
            watch(future)
        try:
            wait(fetches)
        except BaseException:  # a person's Ctrl-C
            retry.stop.set()
            raise
    failures = [error for future in work if (error := future.exception())]
    # What stopped the others comes before what they say about having been stopped.
    for error in sorted(failures, key=lambda error: isinstance(error, StoppedError)):
        raise error


def _fetch_range(
    source: Source, part: Part, span: tuple[int, int | None], partial: Partial, retry: Retry, progress: Progress
) -> None:
    """Write one range; a retry goes on where the stream broke."""
    first, end = span
    at = first

    def ask() -> None:
        nonlocal at
        if at == end:  # an empty file, or a stream that broke behind its last byte
            return
        if not part.entry.ranged and at:
            progress.add(-at)
            at = 0
        asked = (at, end) if part.entry.ranged else (0, None)
        for chunk in source.read(part.name, *asked):
            if end is not None and at + len(chunk) > end:
                raise SourceError(f"{part.name}: more than the {end - first} bytes from {first} came", passing=True)
            at = _write(file, chunk, at)
            progress.add(len(chunk))
            if retry.stop.is_set():
                raise StoppedError
        if end is not None and at < end:
            raise SourceError(f"{part.name}: the answer ended at byte {at}, before byte {end}", passing=True)

    file = os.open(part.path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        retry(part.name, ask)
        if end is None:  # an attempt that broke off may have written more than the last one
            os.ftruncate(file, at)
    finally:
        os.close(file)
    if end is not None:
        partial.record(part.name, first, end)
    part.complete(span)


def _write(file: int, chunk: bytes | memoryview, at: int) -> int:
    """Write all of a chunk at an offset; the offset behind it."""
    view = memoryview(chunk)
    while view:
        count = os.pwrite(file, view, at)
        at += count
        view = view[count:]
    return at
