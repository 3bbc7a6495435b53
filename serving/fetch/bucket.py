"""A release in a bucket: gs:// and s3://, through the Rust object_store (obstore).

Credentials are found as the clouds' own libraries find them: key files and metadata servers named by GOOGLE_* and AWS_*
variables, workload identity and web identity included. GOOGLE_SKIP_SIGNATURE=true or AWS_SKIP_SIGNATURE=true asks as
nobody, for a public bucket.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import GCSStore, S3Store

from serving.fetch.settings import FetchSettings
from serving.fetch.source import CHUNK_BYTES, Entry, NotThereError, SourceError, Uri

if TYPE_CHECKING:
    from obstore.store import GCSConfig

_STATUS = re.compile(r"status code: (\d{3})")
# Besides these, a 4xx answer is the same however often one asks.
_PASSING_4XX = (408, 429)


class Bucket:
    """Files below one prefix of a bucket."""

    lists_everything = True

    def __init__(self, uri: Uri, settings: FetchSettings) -> None:
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=settings.connect_seconds),
            "read_timeout": timedelta(seconds=settings.stall_seconds),
            # The library's 30 s for a whole answer would end every large range on a slow line.
            "timeout": timedelta(days=1),
        }
        if (authorities := settings.authorities(uri.scheme)) is not None:
            client["root_certificate"] = authorities
        try:
            self.store = self._open(uri, settings, client)
        except (BaseError, ValueError, OSError) as error:
            raise SourceError(f"the store cannot be opened: {_first_line(error)}", passing=False) from error

    @staticmethod
    def _open(uri: Uri, settings: FetchSettings, client: dict[str, Any]) -> GCSStore | S3Store:
        # Retries are ours (download.py): they go on where the stream broke and are told in the progress.
        common: dict[str, Any] = {"prefix": uri.path, "client_options": client, "retry_config": {"max_retries": 0}}
        if uri.scheme == "gs":
            config: GCSConfig = {}
            if settings.gcs_emulator:
                address = settings.gcs_emulator if "://" in settings.gcs_emulator else f"http://{settings.gcs_emulator}"
                config = {"base_url": address.rstrip("/"), "skip_signature": True}
                client["allow_http"] = address.startswith("http://")
            return GCSStore(uri.host, config=config, **common)
        # obstore reads AWS_ENDPOINT_URL itself, but refuses plain http unless it is told.
        client["allow_http"] = settings.s3_endpoint.startswith("http://")
        return S3Store(uri.host, **common)

    def entries(self, names: Collection[str]) -> dict[str, Entry]:
        """Everything below the prefix."""
        with _in_words("the listing"):
            found = [meta for page in obstore.list(self.store) for meta in page]
        return {meta["path"]: Entry(meta["size"]) for meta in found if meta["path"]}

    def read(self, name: str, start: int, end: int | None) -> Iterator[bytes | memoryview]:
        """Chunks of one object."""
        options: Any = {"range": {"offset": start}} if end is None else {"range": (start, end)}
        if end is None and start == 0:
            options = {}
        with _in_words(name):
            for chunk in obstore.get(self.store, name, options=options).stream(min_chunk_size=CHUNK_BYTES):
                yield memoryview(chunk)


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """SourceError in place of the library's errors."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotThereError(what) from error
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise SourceError(f"{what}: access refused: {_first_line(error)}", passing=False) from error
    except (BaseError, OSError) as error:
        status = int(found[1]) if (found := _STATUS.search(str(error))) else 0
        passing = not (400 <= status < 500) or status in _PASSING_4XX
        raise SourceError(f"{what}: {_first_line(error)}", passing=passing) from error


def _first_line(error: Exception) -> str:
    """What comes before the library's debug output."""
    return str(error).strip().partition("\n")[0]
