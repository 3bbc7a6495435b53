"""The load client sees what is lost: before a server that loses requests in every way, and one that loses none."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from tests.cluster.load import load

RELEASE = "sha256:abc"
FAULTS = ("500", "429", "silent", "cut", "no end", "error event", "other release", "not JSON")
# Faults that only one of the two forms of an answer can have; a stream that is not JSON is told as one without an end.
STREAM_ONLY = ("no end", "error event")
WHOLE_ONLY = ("not JSON",)
KINDS = {
    "500": "500",
    "429": "429",
    "silent": "RemoteProtocolError",
    "cut": "RemoteProtocolError",
    "no end": "AnswerFault",
    "error event": "AnswerFault",
    "other release": "AnswerFault",
    "not JSON": "JSONDecodeError",
}


class Flawed(BaseHTTPRequestHandler):
    """Answers as a server of ours, but the n-th request has the n-th fault while there are any."""

    protocol_version = "HTTP/1.1"
    faults: list[str]
    connections: Counter[int]
    lock: threading.Lock

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stream = bool(body.get("stream"))
        with self.lock:
            self.connections[self.client_address[1]] += 1
            wanted = [name for name in self.faults if name not in (WHOLE_ONLY if stream else STREAM_ONLY)]
            fault = wanted[0] if wanted else ""
            if fault:
                self.faults.remove(fault)
        if fault == "silent":
            self.close_connection = True
            return
        head = {"system_fingerprint": "sha256:other" if fault == "other release" else RELEASE}
        text = json.dumps(head)
        if stream:
            error = 'data: {"error": "the engine failed"}\n\n'
            end = {"no end": "", "error event": error}.get(fault, "data: [DONE]\n\n")
            text = f"data: {text}\n\n{end}"
        self._reply(int(fault) if fault.isdecimal() else 200, "{" if fault == "not JSON" else text, cut=fault == "cut")

    def _reply(self, status: int, text: str, cut: bool) -> None:
        self.send_response(status)
        self.send_header("X-Slipway-Release", RELEASE)
        self.send_header("Content-Length", str(len(text) + 10 * cut))
        self.end_headers()
        self.wfile.write(text.encode())
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: object) -> None: ...


@contextmanager
def server(*faults: str) -> Iterator[tuple[str, type[Flawed]]]:
    handler = type("Handler", (Flawed,), {"faults": list(faults), "connections": Counter(), "lock": threading.Lock()})
    listening = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}", handler
    finally:
        listening.shutdown()
        listening.server_close()


def test_every_loss_is_seen_and_told(tmp_path: Path) -> None:
    with server(*FAULTS) as (url, _), load(url, "m", tmp_path / "report.json", least=200, rate=0) as running:
        report = running.stop()
    assert running.process.returncode == 1
    assert report.done and report.sent == report.answered + report.failed and report.failed == len(FAULTS)
    assert report.kinds == Counter(KINDS.values())
    assert {failure.release for failure in report.failures} == {RELEASE, ""}
    assert any("the engine failed" in failure.words for failure in report.failures)


def test_a_server_that_loses_nothing(tmp_path: Path) -> None:
    with server() as (url, handler), load(url, "m", tmp_path / "report.json", rate=100, connections=4) as running:
        running.wait_for(answered=50)
        report = running.stop()
    assert running.process.returncode == 0 and report.failed == 0 and report.answered == report.sent >= 50
    assert report.releases == {RELEASE: report.answered}
    assert abs(report.streams - report.sent / 4) <= 1
    # Kept connections, and each tenth request has one to itself.
    assert report.sent / 20 < len(handler.connections) < report.sent / 2
    assert report.sent / report.seconds < 120 and 0 < report.latency_ms["p50"] <= report.latency_ms["max"]


def test_a_server_that_is_gone_is_a_loss(tmp_path: Path) -> None:
    with server() as (url, _):
        pass
    with load(url, "m", tmp_path / "report.json", least=10) as running:
        report = running.stop()
    assert report.failed == report.sent >= 10 and set(report.kinds) == {httpx.ConnectError.__name__}
