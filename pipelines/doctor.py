"""What this machine lacks for a local run, before a run finds out."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_MODULES = ("torch", "transformers", "peft", "gguf", "kfp", "kserve", "openvino_genai", "mlflow", "pyarrow", "scipy")
_MEMORY_GIB = 4
DISK_GIB = 3
"""A run of the bundled model writes about 1.5, and its downloads pass through the temporary folder."""


@dataclass(frozen=True)
class Check:
    """One finding; a check that is not required only informs."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    required: bool = True


def examine(store: Path, port: int | None) -> list[Check]:
    """All checks of this machine, in reading order; `port` is the front's, None when a cluster serves."""
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    memory = psutil.virtual_memory().available / 2**30
    existing = next(path for path in (store, *store.resolve().parents) if path.exists())
    disk = shutil.disk_usage(existing).free / 2**30
    version = ".".join(map(str, sys.version_info[:3]))
    return [
        Check("Python", (3, 11) <= sys.version_info[:2] <= (3, 13), version, "use Python 3.11, 3.12 or 3.13"),
        Check("packages", not missing, ", ".join(missing) or "all there", "make run installs them into .venv"),
        Check(
            "memory", memory >= _MEMORY_GIB, f"{memory:.1f} GiB available", f"the laptop run needs {_MEMORY_GIB} GiB"
        ),
        Check("disk", disk >= DISK_GIB, f"{disk:.1f} GiB free at {existing}", f"{DISK_GIB} GiB are needed"),
        *([] if port is None else [_port(port)]),
        _present("HF_TOKEN", "needed only for gated models on the Hub"),
        _present("GOOGLE_APPLICATION_CREDENTIALS", "needed only for gs:// data without gcloud's own login"),
    ]


def _port(port: int) -> Check:
    """A port that our own front holds is as good as a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            ours = _answers_as_front(port)
            found = "our front answers there" if ours else "in use by another program"
            return Check(f"port {port}", ours, found, "set rollout.port in the run file to a free one")
    return Check(f"port {port}", True, "free")


def _answers_as_front(port: int) -> bool:
    import httpx

    try:
        # a proxy of the environment knows nothing of this machine's ports
        reply = httpx.get(f"http://127.0.0.1:{port}/front/health", timeout=2, trust_env=False)
        said = reply.json()
    except (httpx.HTTPError, ValueError):
        return False
    # some servers answer every path with 200
    return reply.is_success and isinstance(said, dict) and "routes" in said


def _present(variable: str, purpose: str) -> Check:
    found = bool(os.environ.get(variable))
    return Check(variable, found, "set" if found else "not set", purpose, required=False)
