"""Releases of random bytes, and hand-written servers that give them out, well or badly."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from serving.release import RELEASE_FILE, Origin, Release, ServingForm

MIB = 2**20


def release_of(files: Mapping[str, bytes]) -> Release:
    """A manifest that names these files."""
    return Release(
        serving=ServingForm(),
        base=Origin(source="tests", digest="sha256:0"),
        data_digest="sha256:0",
        context_length=64,
        end_token_ids=[0],
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )


def publish(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write a release to root/<digest>."""
    release = release_of(files)
    directory = root / release.digest.removeprefix("sha256:")
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    (directory / RELEASE_FILE).write_bytes(release.canonical())
    return directory


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that no two ranges have in common."""
    return random.Random(seed).randbytes(size)


def flip_bit(path: Path, at: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@dataclass
class Behaviour:
    """What a server does to requests for files; each name is the end of a path."""

    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Answered one after the other before the file itself is; 0 lets one request pass."""

    truncated: dict[str, list[int]] = field(default_factory=dict)
    """The connection ends after so many bytes of the body, once for each number."""

    ignores_ranges: bool = False
    content_range: str = "bytes {start}-{last}/{size}"
    """Said with a part of a file; "" leaves the header out."""

    says_length: bool = True
    seconds_per_64_kib: float = 0
    retry_after: str = "0"


class FileServer:
    """A folder over HTTP, with ranges; as an S3-like store it also lists, and wants signed requests."""

    def __init__(self, root: Path, behaviour: Behaviour | None = None, *, s3_key: str = "") -> None:
        self.root = root
        self.behaviour = behaviour or Behaviour()
        self.s3_key = s3_key
        self.requests: list[tuple[str, str]] = []
        """(path, Range header) of each request."""
        self.sent: Counter[str] = Counter()
        """Bytes of each file that were sent."""
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def socket(self):
        """What a test wraps in TLS before the server starts."""
        return self._server

    def __enter__(self) -> FileServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, planned: dict[str, list[int]], name: str) -> int | None:
        """The next number planned for a file."""
        with self.lock:
            numbers = next((numbers for end, numbers in planned.items() if name.endswith(end)), [])
            return numbers.pop(0) if numbers else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, owner: FileServer, *arguments) -> None:
        self.owner = owner
        super().__init__(*arguments)

    def log_message(self, format, *arguments) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:  # the other side has read enough
            self.close_connection = True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        name, query = unquote(parts.path).lstrip("/"), parse_qs(parts.query)
        with self.owner.lock:
            self.owner.requests.append((name, self.headers.get("Range", "")))
        if self.owner.s3_key and f"AWS4-HMAC-SHA256 Credential={self.owner.s3_key}/" not in (
            self.headers.get("Authorization") or ""
        ):
            return self.answer(403, b"<Error><Code>InvalidAccessKeyId</Code></Error>")
        if "list-type" in query:
            return self.list_objects(name.rstrip("/"), query["prefix"][0])
        if status := self.owner.take(self.owner.behaviour.statuses, name):
            return self.answer(status, Retry_After=self.owner.behaviour.retry_after)
        path = self.owner.root / name
        if not path.is_file():
            return self.answer(404)
        return self.send_file(name, path.read_bytes())

    def send_file(self, name: str, content: bytes) -> None:
        behaviour = self.owner.behaviour
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = 0, len(content)
        if asked and not behaviour.ignores_ranges:
            start, end = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else end, end)
            if start >= len(content):
                return self.answer(416, Content_Range=f"bytes */{len(content)}")
            self.send_response(206)
            if behaviour.content_range:
                said = behaviour.content_range.format(start=start, last=end - 1, size=len(content))
                self.send_header("Content-Range", said)
        else:
            self.send_response(200)
        if behaviour.says_length:
            self.send_header("Content-Length", str(end - start))
        else:
            self.send_header("Connection", "close")
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.send_header("ETag", '"1"')
        self.end_headers()
        probing = end - start == 1
        cut = None if probing else self.owner.take(behaviour.truncated, name)
        stop = end if cut is None else min(start + cut, end)
        try:
            for at in range(start, stop, 65536):
                with self.owner.lock:  # before: who has read the last byte may look at once
                    self.owner.sent[name] += min(65536, stop - at)
                self.wfile.write(content[at : min(at + 65536, stop)])
                time.sleep(behaviour.seconds_per_64_kib)
        except ConnectionError:
            self.close_connection = True
        if cut is not None or not behaviour.says_length:
            self.close_connection = True

    def list_objects(self, bucket: str, prefix: str) -> None:
        """ListObjectsV2 as far as a reader of one prefix needs it."""
        root = self.owner.root / bucket
        keys = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{(root / key).stat().st_size}</Size>"
            '<LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>"1"</ETag></Contents>'
            for key in keys
            if key.startswith(prefix)
        )
        self.answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode())
