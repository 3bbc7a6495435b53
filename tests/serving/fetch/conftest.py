"""Running a fetch, in this process or as the container does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from serving.fetch.fetch import fetch
from serving.fetch.progress import Progress
from serving.fetch.settings import FetchSettings
from serving.fetch.source import parse_uri
from tests.cluster.place import cache_folder
from tests.ports import free_port
from tests.serving.fetch.places import MIB, noise

PROJECT = Path(__file__).resolve().parents[3]
EMULATOR = cache_folder() / "cluster/bin/fake-gcs-server"
# Waits in tests are short; everything else is as it comes.
QUICK = {"backoff_seconds": 0.01, "range_mib": 1, "retries": 4}


@dataclass
class Run:
    """What a finished `python -m serving.fetch` said."""

    code: int
    events: list[dict]
    error: str

    def told(self, event: str) -> list[dict]:
        return [line for line in self.events if line["event"] == event]


def command(uri: str | Path, destination: Path) -> list[str]:
    return [sys.executable, "-m", "serving.fetch", str(uri), str(destination)]


def environment(**settings: object) -> dict[str, str]:
    """Variables of a fetch in a process of its own."""
    variables = {f"SLIPWAY_FETCH_{name.upper()}": str(value) for name, value in (QUICK | settings).items()}
    return os.environ | {"PYTHONPATH": str(PROJECT)} | variables


def run(uri: str | Path, destination: Path, variables: dict[str, str] | None = None, **settings: object) -> Run:
    """One fetch in a process of its own."""
    ended = subprocess.run(
        command(uri, destination),
        env=environment(**settings) | (variables or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Run(ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr.strip())


@pytest.fixture
def fetched(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict]]:
    """A fetch in this process: raises what it raises, gives its events."""

    def call(uri: str | Path, destination: Path, **settings: object) -> list[dict]:
        chosen = FetchSettings.model_validate(QUICK | settings)
        fetch(parse_uri(str(uri)), destination, chosen, Progress(chosen.progress_seconds))
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


@pytest.fixture
def files() -> dict[str, bytes]:
    """Several ranges, less than one, names that need quoting, nothing at all."""
    return {
        "model.gguf": noise(5 * MIB + 17),
        "tokenizer/größe #1%20.json": noise(1000, 1),
        "exactly-one-range.bin": noise(MIB, 2),
        "empty": b"",
    }


@dataclass
class Emulator:
    """A Cloud Storage emulator and one bucket in it."""

    url: str
    bucket: str = "releases"

    def put(self, name: str, content: bytes) -> None:
        where = f"{self.url}/upload/storage/v1/b/{self.bucket}/o"
        httpx.post(where, params={"uploadType": "media", "name": name}, content=content).raise_for_status()

    def upload(self, directory: Path) -> str:
        """The URI of a published release."""
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            self.put(f"models/{directory.name}/{path.relative_to(directory).as_posix()}", path.read_bytes())
        return f"gs://{self.bucket}/models/{directory.name}"


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    if not EMULATOR.exists():
        pytest.skip(f"no Cloud Storage emulator at {EMULATOR}: `make cluster` builds it")
    port = free_port()
    flags = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    flags += ["-public-host", f"127.0.0.1:{port}", "-log-level", "error"]
    process = subprocess.Popen([str(EMULATOR), *flags])
    place = Emulator(f"http://127.0.0.1:{port}")
    try:
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(transport=transport) as client:
            client.post(f"{place.url}/storage/v1/b", json={"name": place.bucket}).raise_for_status()
        yield place
    finally:
        process.terminate()
        process.wait(timeout=10)
