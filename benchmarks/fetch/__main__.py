"""Verified fetch against KServe's stock storage initializer, side by side: `python -m benchmarks.fetch`.

Sixteen shards lie in a Cloud Storage emulator behind a proxy that adds 20 ms to every round trip and bounds what one
connection has under way, as TCP's window does (delay.py). Both sides run as a storage container does: a new process
with a URI and an empty folder. Three times are taken: of the process from start to end, of the download in it (from its
first request; imports are left out on both sides), and CPU. The stock side is the `kserve-storage` package, which
downloads one object after the other and verifies none; ours verifies every file. They take turns, so that what else the
machine does falls on both. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from serving.release import Origin, Release, ServingForm, verify_release

PROJECT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("SLIPWAY_CACHE") or Path.home() / ".cache/slipway").expanduser() / "cluster"
STOCK = "kserve-storage==0.21.0"
STOCK_CALL = """
import sys, time
from google.cloud import storage
from kserve_storage import Storage
started = time.monotonic()
Storage.download_files(sys.argv[1:2], sys.argv[2:3])
print('{"seconds": %s}' % (time.monotonic() - started))
"""
BUCKET = "releases"
# Half of net.ipv4.tcp_rmem's default maximum of 6 MiB: the window that Linux offers a sender by itself.
WINDOW_KIB = 3072


def main() -> None:
    """Measure one setting, print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fetch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--shard-mib", type=float, default=32)
    parser.add_argument("--latency-ms", type=float, default=20, help="added to every round trip")
    parser.add_argument("--window-kib", type=int, default=WINDOW_KIB, help="per connection; 0 is no bound")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--stock-python", type=Path, help=f"interpreter with {STOCK}; made where it is not given")
    flags = parser.parse_args()
    stock_python = flags.stock_python or make_stock()
    with tempfile.TemporaryDirectory(prefix="fetch-") as folder, emulator(flags) as address:
        digest = seed(address, flags.shards, int(flags.shard_mib * 2**20))
        uri = f"gs://{BUCKET}/{digest}"
        commands = {
            "stock": [str(stock_python), "-c", STOCK_CALL, uri],
            "ours": [sys.executable, "-m", "serving.fetch", uri],
        }
        runs: dict[str, list[Times]] = {name: [] for name in commands}
        for repeat in range(flags.repeats + 1):
            for name in sorted(commands, reverse=bool(repeat % 2)):
                times = timed(commands[name], Path(folder, name), address, digest)
                if repeat:  # the first round warms caches and the emulator
                    runs[name].append(times)
    print(json.dumps(report(flags, runs), indent=1))


class Times(NamedTuple):
    """Seconds of one run."""

    process: float
    download: float
    cpu: float


def report(flags: argparse.Namespace, runs: dict[str, list[Times]]) -> dict[str, object]:
    """Figures of both sides and their ratio, pair by pair."""
    figures: dict[str, object] = {
        "shards": flags.shards,
        "shard_mib": flags.shard_mib,
        "added_latency_ms": flags.latency_ms,
        "window_kib": flags.window_kib,
        "repeats": flags.repeats,
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "stock": STOCK,
    }
    for what in Times._fields:
        sides = {name: [getattr(times, what) for times in taken] for name, taken in runs.items()}
        ratios = [stock / ours for stock, ours in zip(sides["stock"], sides["ours"], strict=True)]
        figures[f"{what}_seconds"] = {name: spread(seconds) for name, seconds in sides.items()}
        figures[f"{what}_ratio"] = spread(ratios)
    return figures


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest, highest."""
    return {
        "median": round(statistics.median(values), 2),
        "lowest": round(min(values), 2),
        "highest": round(max(values), 2),
    }


def timed(command: list[str], destination: Path, address: str, digest: str) -> Times:
    """One run; what it left is checked outside its times."""
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir()
    environment = os.environ | {"STORAGE_EMULATOR_HOST": address, "PYTHONPATH": str(PROJECT), "NO_PROXY": "127.0.0.1"}
    before = cpu_of_children()
    started = time.perf_counter()
    ended = subprocess.run([*command, str(destination)], env=environment, capture_output=True, text=True)
    took, worked = time.perf_counter() - started, cpu_of_children() - before
    if ended.returncode:
        sys.exit(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr}")
    found = verify_release(destination).digest
    assert found == f"sha256:{digest}", found
    shutil.rmtree(destination)
    return Times(took, json.loads(ended.stdout.splitlines()[-1])["seconds"], worked)


def cpu_of_children() -> float:
    """CPU seconds of the processes that have ended; the emulator and the proxy go on and do not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_stock() -> Path:
    """An interpreter with the stock initializer, kept in the cache."""
    place = CACHE / "stock" / STOCK.replace("==", "-")
    python = place / "bin/python"
    if not (place / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", STOCK], check=True, stdout=sys.stderr)
        (place / "ready").touch()
    return python


@contextmanager
def emulator(flags: argparse.Namespace) -> Iterator[str]:
    """The address of an empty emulator as it is seen through the latency."""
    binary = CACHE / "bin/fake-gcs-server"
    if not binary.exists():
        sys.exit(f"no Cloud Storage emulator at {binary}: `make cluster` builds it")
    behind, before = free_port(), free_port()
    # Both addresses that the emulator gives out are the proxy's, or clients would go round it.
    public = f"127.0.0.1:{before}"
    server = [str(binary), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(behind)]
    server += ["-public-host", public, "-external-url", f"http://{public}", "-log-level", "error"]
    proxy = [sys.executable, "-m", "benchmarks.fetch.delay", str(before), str(behind)]
    proxy += [str(flags.latency_ms), str(flags.window_kib)]
    # Connections spread over the proxies; one alone would be what limits sixteen streams.
    processes = [subprocess.Popen(server), *(subprocess.Popen(proxy, cwd=PROJECT) for _ in range(4))]
    try:
        wait_for(behind)
        wait_for(before)
        yield f"http://{public}"
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seed(address: str, shards: int, size: int) -> str:
    """Put one release there; its 64 hexadecimal digits."""
    random_bytes = random.Random(0)
    contents = {f"model-{i + 1:05}-of-{shards:05}.safetensors": random_bytes.randbytes(size) for i in range(shards)}
    release = Release(
        serving=ServingForm(engine="transformers", precision="bf16"),
        base=Origin(source="benchmark", digest="sha256:0"),
        data_digest="sha256:0",
        context_length=1,
        end_token_ids=[0],
        files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    )
    digest = release.digest.removeprefix("sha256:")
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        client.post("/storage/v1/b", json={"name": BUCKET}).raise_for_status()
        for name, content in [*contents.items(), ("release.json", release.canonical())]:
            about = {"uploadType": "media", "name": f"{digest}/{name}"}
            client.post(f"/upload/storage/v1/b/{BUCKET}/o", params=about, content=content).raise_for_status()
    return digest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int) -> None:
    """Until something listens; 10 s at most."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


if __name__ == "__main__":
    main()
