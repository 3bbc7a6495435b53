"""promtool at the version that modules/go.mod pins: found in the cache, or built there by `make monitoring-test`.

SLIPWAY_MONITORING=off skips what needs it, =required fails where it would be skipped.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.place import cache_folder

MODULES = Path(__file__).parent / "modules"
PACKAGE = "github.com/prometheus/prometheus/cmd/promtool"


def version() -> str:
    """Prometheus' version as its Go module has it, "0.310.0" for 3.10.0."""
    found = re.search(r"^require github.com/prometheus/prometheus v(\S+)$", (MODULES / "go.mod").read_text(), re.M)
    assert found, "modules/go.mod no longer pins Prometheus on a line of its own"
    return found[1]


def place() -> Path:
    return cache_folder() / "tools" / f"promtool-{version()}"


def build() -> Path:
    """The program in the cache; built, where it is not there, by Go in a few minutes. Raises RuntimeError."""
    if place().exists():
        return place()
    if not shutil.which("go"):
        raise RuntimeError(
            f"promtool is not at {place()} and Go, which builds it, is not installed: https://go.dev/dl/"
        )
    place().parent.mkdir(parents=True, exist_ok=True)
    beside = place().with_suffix(f".{os.getpid()}")
    # without the clients of every cloud, which find targets to scrape
    command = ["go", "build", "-C", str(MODULES), "-mod=readonly", "-tags", "remove_all_sd", "-ldflags=-s -w"]
    environment = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run([*command, "-o", str(beside), PACKAGE], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"promtool cannot be built in {MODULES}:\n{done.stderr.strip()}")
    beside.rename(place())
    return place()


@functools.cache
def program() -> Path:
    """The built program; else the test ends."""
    if os.environ.get("SLIPWAY_MONITORING") == "off":
        pytest.skip("SLIPWAY_MONITORING=off")
    if not place().exists():
        reason = f"promtool is not at {place()}: `make monitoring-test` builds it (Go, a few minutes, once)"
        if os.environ.get("SLIPWAY_MONITORING") == "required":
            pytest.fail(f"SLIPWAY_MONITORING=required, but {reason}")
        pytest.skip(reason)
    return place()


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool; its exit code is the caller's to read."""
    return subprocess.run([program(), *map(str, arguments)], capture_output=True, text=True, timeout=120)


if __name__ == "__main__":
    try:
        print(f"promtool: {build()}")
    except RuntimeError as error:
        sys.exit(str(error))
