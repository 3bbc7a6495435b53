"""Tiny releases and real servers on loopback ports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serving.release import Release
from tests.ports import free_port
from tests.serving.tiny import make_release

MODEL = "energy-chat"
_PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    """A process of ours that answers on a port."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def start(arguments: list[str], log: Path, health: str, **environment: str) -> Running:
    """Start `python -m <arguments> --port P` and wait until its health route answers."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments, "--port", str(port)],
            cwd=_PROJECT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "SLIPWAY_THREADS": "1"} | environment,
            stdout=output,
            stderr=output,
        )
    running = Running(process, f"http://127.0.0.1:{port}", log)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(running.url + health).status_code == 200:
                return running
        except httpx.TransportError:
            time.sleep(0.05)
    process.kill()
    process.wait()
    raise AssertionError(f"the server did not start: {log.read_text()}")


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> release directory: one for each engine, and an endless one."""
    root = tmp_path_factory.mktemp("releases")
    engines = ("openvino", "transformers", "vllm")
    for engine in engines:
        make_release(root / engine, engine)
    make_release(root / "endless", endless=True)
    return {name: root / name for name in (*engines, "endless")}


@pytest.fixture(scope="session")
def release(releases: dict[str, Path]) -> Release:
    """The manifest of what `server` serves."""
    return Release.model_validate_json((releases["openvino"] / "release.json").read_bytes())


StartServer = Callable[..., Running]


@pytest.fixture(scope="session")
def start_server(releases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start servers of tiny releases with chosen settings; all are stopped at the end."""
    started: list[Running] = []

    def start_one(name: str = "openvino", **environment: str) -> Running:
        log = tmp_path_factory.mktemp("logs") / "server.log"
        arguments = ["serving", "--release", str(releases[name]), "--model", MODEL]
        started.append(start(arguments, log, "/health", **environment))
        return started[-1]

    yield start_one
    for running in started:
        if running.process.poll() is None:
            running.stop()


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Running:
    """A server with default settings, but for a small body limit."""
    return start_server(SLIPWAY_MAX_BODY_BYTES="20000")


@contextmanager
def front_before(server: Running, directory: Path) -> Iterator[Running]:
    """A front whose only backend is `server`."""
    routes = directory / "routes.json"
    backend = {"url": server.url, "weight": 100, "release": httpx.get(server.url + "/health").json()["release"]}
    routes.write_text(json.dumps({"service": MODEL, "backends": [backend]}))
    running = start(["serving.front", "--routes", str(routes)], directory / "front.log", "/front/health")
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def fronted(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A front before `server`."""
    with front_before(server, tmp_path_factory.mktemp("fronted")) as running:
        yield running


@pytest.fixture(params=["server", "fronted"])
def entrance(request: pytest.FixtureRequest) -> Running:
    """Both ways to a server: as a script asks it, and through the front as users do."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def endless_server(start_server: StartServer) -> Running:
    """Its answers run until they are cancelled; one may run, one may wait."""
    limits = {"SLIPWAY_MAX_RUNNING": "1", "SLIPWAY_MAX_WAITING": "1", "SLIPWAY_MAX_OUTPUT_TOKENS": "16000"}
    limits["SLIPWAY_DEFAULT_OUTPUT_TOKENS"] = "16000"
    return start_server("endless", **limits)
