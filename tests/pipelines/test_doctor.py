"""What the doctor finds on this machine, and on one that lacks something."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines import doctor
from pipelines.doctor import Check, examine
from tests import ports


@pytest.fixture
def free_port() -> int:
    return ports.free_port()


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[int]:
    """The port of a server that answers every path with `body`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def find(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name.startswith(name))


def test_it_looks_at_everything_that_a_run_needs(tmp_path, free_port):
    checks = examine(tmp_path, free_port)
    names = [check.name for check in checks]
    assert names[:5] == ["Python", "packages", "memory", "disk", f"port {free_port}"]
    assert find(checks, "Python").found == ".".join(map(str, sys.version_info[:3]))
    assert find(checks, "packages") == Check("packages", True, "all there", find(checks, "packages").remedy)
    assert all(check.remedy for check in checks if not check.ok)


def test_a_store_that_is_not_there_yet_is_not_made(tmp_path, free_port):
    store = tmp_path / "a" / "b"
    disk = find(examine(store, free_port), "disk")
    assert str(tmp_path) in disk.found
    assert not store.parent.exists()


def test_a_missing_package_is_named(tmp_path, free_port, monkeypatch):
    monkeypatch.setattr(doctor, "_MODULES", ("json", "surely_not_installed"))
    found = find(examine(tmp_path, free_port), "packages")
    assert (found.ok, found.required, found.found) == (False, True, "surely_not_installed")


@pytest.mark.parametrize(("limit", "name"), [("_MEMORY_GIB", "memory"), ("DISK_GIB", "disk")])
def test_too_little_is_told_with_what_there_is(tmp_path, free_port, monkeypatch, limit, name):
    monkeypatch.setattr(doctor, limit, 10_000_000)
    found = find(examine(tmp_path, free_port), name)
    assert not found.ok
    assert "GiB" in found.found
    assert "10000000 GiB" in found.remedy


@pytest.mark.parametrize(
    ("version", "fits"), [((3, 10, 14), False), ((3, 11, 0), True), ((3, 13, 9), True), ((3, 14, 0), False)]
)
def test_the_python_version_is_judged(tmp_path, free_port, monkeypatch, version, fits):
    monkeypatch.setattr(doctor.sys, "version_info", version)
    assert find(examine(tmp_path, free_port), "Python").ok is fits


def test_a_free_port_is_free_and_stays_free(tmp_path, free_port):
    assert find(examine(tmp_path, free_port), "port").found == "free"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))


def test_a_run_that_a_cluster_serves_needs_no_port_here(tmp_path):
    assert [check.name for check in examine(tmp_path, None) if check.name.startswith("port")] == []


FRONT = json.dumps({"status": "ok", "routes": {"service": "energy-chat", "backends": []}}).encode()


@pytest.mark.parametrize(
    ("body", "status", "ours"),
    [
        (FRONT, 200, True),
        (FRONT, 503, False),
        (b"<html>It works!</html>", 200, False),
        (b'{"status": "ok"}', 200, False),
        (b"[]", 200, False),
        (b"7", 200, False),
        (b"\xff\xfe", 200, False),
    ],
)
def test_a_taken_port_is_ours_only_when_our_front_answers(tmp_path, body, status, ours, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # nobody's: a probe of this machine goes past proxies
    with answering(body, status) as port:
        found = find(examine(tmp_path, port), "port")
    assert (found.ok, found.required) == (ours, True)
    assert found.found == ("our front answers there" if ours else "in use by another program")
    assert "rollout.port" in found.remedy


def test_a_listener_that_speaks_no_http_is_another_program(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=lambda: silent.accept()[0].close(), daemon=True).start()
        assert not find(examine(tmp_path, silent.getsockname()[1]), "port").ok


@pytest.mark.parametrize("variable", ["HF_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"])
def test_credentials_are_told_but_not_required_and_never_shown(tmp_path, free_port, monkeypatch, variable):
    monkeypatch.delenv(variable, raising=False)
    absent = find(examine(tmp_path, free_port), variable)
    assert (absent.ok, absent.required, absent.found) == (False, False, "not set")
    monkeypatch.setenv(variable, "secret-value")
    present = find(examine(tmp_path, free_port), variable)
    assert present.ok
    assert "secret-value" not in str(present)
