"""An API server that fails when it is told to: a proxy between a client and the real one.

It speaks plain HTTP on the loopback, and to the API server with the credentials of a kubeconfig. What a `Fault` matches
is answered with an error, broken off, or carried out and then not answered; a cut network answers nobody.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from tests.components.rollout.kserve.fake_api import Fault

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}
_SECONDS = 60


class FaultyProxy:
    """Answers as the API server of a kubeconfig does, but for its faults; `url` is its own address."""

    def __init__(self, kubeconfig: Path, port: int = 0):
        settings: Any = kubernetes_client.Configuration()
        kubernetes_config.load_kube_config(str(kubeconfig), client_configuration=settings)
        self._server = urlsplit(settings.host)
        self._tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        if settings.cert_file:
            self._tls.load_cert_chain(settings.cert_file, settings.key_file)
        self._token = settings.api_key.get("authorization", "")
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        """Method and path of everything that was asked."""

        self.refused = 0
        """Requests that a cut network has swallowed."""

        self._lock = threading.Lock()
        self._cut = threading.Event()
        self._open: set[Any] = set()
        self._listener = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._listener.daemon_threads = True
        threading.Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_port}"

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads through the proxy."""
        named = {"name": "faulty"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [named | {"cluster": {"server": self.url}}],
            "users": [named | {"user": {}}],
            "contexts": [named | {"context": {"cluster": "faulty", "user": "faulty"}}],
            "current-context": "faulty",
        }
        path.write_text(json.dumps(content))
        return path

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """The network is cut: connections that are open break, new ones are not answered."""
        self._cut.set()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(2)
        try:
            yield
        finally:
            self._cut.clear()

    def is_cut(self) -> bool:
        return self._cut.is_set()

    def fault(self, method: str, path: str) -> Fault | None:
        """What happens to this request; counted."""
        with self._lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.times > 0 and fault.matches(method, path):
                    fault.times -= 1
                    return fault
        return None

    @contextmanager
    def connected(self, client: Any) -> Iterator[None]:
        """While a client's connection is open, `cut` breaks it."""
        self._open.add(client)
        try:
            yield
        finally:
            self._open.discard(client)

    @contextmanager
    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Iterator[http.client.HTTPResponse]:
        """One request of the real server."""
        with closing(
            http.client.HTTPSConnection(
                self._server.hostname or "", self._server.port, context=self._tls, timeout=_SECONDS
            )
        ) as upstream:
            asked = {key: value for key, value in headers.items() if key.lower() not in _HOP_BY_HOP}
            if self._token:
                asked["Authorization"] = self._token
            upstream.request(method, path, body or None, asked)
            yield upstream.getresponse()


def _handler(proxy: FaultyProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with proxy.connected(self.connection), suppress(OSError):
                super().handle()

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if proxy.is_cut():
                proxy.refused += 1
                self.close_connection = True
                return
            fault = proxy.fault(self.command, self.path)
            if fault and not fault.after:
                return self._fail(fault)
            with proxy.ask(self.command, self.path, dict(self.headers), body) as reply:
                if fault:
                    reply.read()
                    return self._fail(fault)
                self._pass_on(reply)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

        def _fail(self, fault: Fault) -> None:
            if not fault.status:
                self.close_connection = True
                return
            reason = {409: "Conflict", 429: "TooManyRequests"}.get(fault.status, "InternalError")
            status = {"kind": "Status", "code": fault.status, "reason": reason, "message": fault.message}
            content = json.dumps(status).encode()
            self.send_response(fault.status)
            for key, value in {**fault.headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        def _pass_on(self, reply: http.client.HTTPResponse) -> None:
            """As it comes: a watch is told of a change at once."""
            self.send_response(reply.status)
            for key, value in reply.getheaders():
                if key.lower() not in _HOP_BY_HOP:
                    self.send_header(key, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while part := reply.read1(65536):
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    return Handler
