"""A store of buckets in memory that speaks what S3 and Cloud Storage have in common: objects by path, ListObjectsV2."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

WHEN = "2025-01-01T00:00:00.000Z"
HEADER_WHEN = "Wed, 01 Jan 2025 00:00:00 GMT"


@contextmanager
def bucket_server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """(address, objects by "bucket/key")."""
    objects: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

        def reply(self, status: int, body: bytes = b"", of: bytes = b"") -> None:
            """`of` is the whole object that the body is of."""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body or of) if self.command == "HEAD" else len(body)))
            self.send_header("Last-Modified", HEADER_WHEN)
            self.send_header("ETag", etag(of))
            if status == 206:
                self.send_header("Content-Range", f"bytes {of.find(body)}-{of.find(body) + len(body) - 1}/{len(of)}")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            name, query = unquote(parts.path).lstrip("/"), parse_qs(parts.query)
            if "list-type" in query:
                self.reply(200, listing(name.rstrip("/"), query))
            elif name not in objects:
                self.reply(404)
            elif asked := self.headers.get("Range"):
                start, _, end = asked.removeprefix("bytes=").partition("-")
                self.reply(206, objects[name][int(start) : int(end) + 1 if end else None], objects[name])
            else:
                self.reply(200, objects[name], objects[name])

        do_HEAD = do_GET

        def do_PUT(self) -> None:
            name = unquote(urlsplit(self.path).path).lstrip("/")
            objects[name] = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(200, of=objects[name])

    def listing(bucket: str, query: dict[str, list[str]]) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        keys = sorted(name.partition("/")[2] for name in objects if name.startswith(f"{bucket}/{prefix}"))
        folders = {key[: key.index(delimiter, len(prefix)) + 1] for key in keys if delimiter in key[len(prefix) :]}
        below = [key for key in keys if not delimiter or delimiter not in key[len(prefix) :]]
        contents = [
            f"<Contents><Key>{escape(key)}</Key><Size>{len(objects[f'{bucket}/{key}'])}</Size>"
            f"<LastModified>{WHEN}</LastModified><ETag>{escape(etag(objects[f'{bucket}/{key}']))}</ETag></Contents>"
            for key in below
        ]
        prefixes = [f"<CommonPrefixes><Prefix>{one}</Prefix></CommonPrefixes>" for one in folders if delimiter]
        inner = "".join([*contents, *sorted(prefixes)])
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{inner}</ListBucketResult>".encode()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", objects
    finally:
        server.shutdown()
        server.server_close()


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'
