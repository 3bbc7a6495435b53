"""A release on a web server: https://HOST/PATH/<digest>/<file>.

A web server has no listing, so that only the files that release.json names can be looked for: another one that lies
beside them is not seen, and not fetched. Servers that ignore Range are read in one stream per file.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import quote

import httpx

from serving.fetch.settings import FetchSettings
from serving.fetch.source import Entry, NotThereError, SourceError, Uri

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_PASSING = (408, 425, 429)


class Web:
    """Files below one URL."""

    lists_everything = False

    def __init__(self, uri: Uri, settings: FetchSettings) -> None:
        context = ssl.create_default_context()
        if (authorities := settings.authorities(uri.scheme)) is not None:
            context.load_verify_locations(cadata=authorities)
        self.base = f"{uri.scheme}://{uri.host}/{uri.path}/"
        self.streams = settings.streams
        self.client = httpx.Client(
            # An encoded answer would have other bytes, and other ranges, than the file.
            headers={"Accept-Encoding": "identity"},
            timeout=httpx.Timeout(settings.stall_seconds, connect=settings.connect_seconds, pool=None),
            limits=httpx.Limits(max_connections=settings.streams, max_keepalive_connections=settings.streams),
            follow_redirects=True,
            verify=context,
        )

    def entries(self, names: Collection[str]) -> dict[str, Entry]:
        """Those of `names` that are there; each is asked for its first byte, which tells size and ranges."""
        with ThreadPoolExecutor(self.streams) as pool:
            found = dict(zip(names, pool.map(self._entry, names), strict=True))
        return {name: entry for name, entry in found.items() if entry}

    def _entry(self, name: str) -> Entry | None:
        try:
            with self._get(name, {"Range": "bytes=0-0"}) as reply:
                if reply.status_code == 206:
                    match = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
                    # one that does not say the length (bytes 0-0/*) is asked for the file as a whole
                    return Entry(int(match[3])) if match else Entry(None, ranged=False)
                if reply.status_code == 416:  # there is no first byte
                    return Entry(0)
                length = reply.headers.get("content-length", "")
                return Entry(int(length) if length.isdigit() else None, ranged=False)
        except NotThereError:
            return None

    def read(self, name: str, start: int, end: int | None) -> Iterator[bytes | memoryview]:
        """Chunks of one file."""
        # A server that ignores Range is asked for whole files alone, so that its 200 is what was meant.
        whole = start == 0 and end is None
        headers = {} if whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        with self._get(name, headers) as reply:
            if not whole and reply.status_code == 206:
                match = _CONTENT_RANGE.fullmatch(reply.headers.get("content-range", ""))
                if not match or int(match[1]) != start:
                    raise SourceError(
                        f"{name}: asked for bytes from {start}, got {reply.headers.get('content-range')!r}",
                        passing=True,
                    )
            elif reply.status_code != 200 or start:
                raise SourceError(
                    f"{name}: status {reply.status_code} to a request for bytes from {start}", passing=True
                )
            # As they come: a chunk that is still being filled would be lost when the stream breaks.
            yield from reply.iter_raw()

    @contextmanager
    def _get(self, name: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """An answer of 200, 206 or 416 whose body is not read yet; anything else is a SourceError."""
        try:
            with self.client.stream("GET", self.base + quote(name), headers=headers) as reply:
                if reply.status_code in (404, 410):
                    raise NotThereError(name)
                if reply.status_code not in (200, 206, 416):
                    wait = reply.headers.get("retry-after", "")
                    raise SourceError(
                        f"{name}: status {reply.status_code} {reply.reason_phrase}",
                        passing=reply.status_code >= 500 or reply.status_code in _PASSING,
                        wait_seconds=float(wait) if wait.isdigit() else 0,
                    )
                yield reply
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise SourceError(f"{name}: {error}", passing=False) from error
        except httpx.HTTPError as error:
            raise SourceError(f"{name}: {error or type(error).__name__}", passing=True) from error
