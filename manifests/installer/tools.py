"""The programs that this calls, and how their failures are said."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from manifests.installer.errors import PlatformError

HELM = "v3.21.4"
"""What the charts are rendered with where PATH has no helm: built from Go's module helm.sh/helm/v3."""


def cache() -> Path:
    """Where sources and programs are kept: SLIPWAY_CACHE, else ~/.cache/slipway."""
    chosen = os.environ.get("SLIPWAY_CACHE")
    return (Path(chosen).expanduser().resolve() if chosen else Path.home() / ".cache/slipway") / "platform"


def helm() -> str:
    """Raises PlatformError when there is none."""
    built = cache() / f"helm-{HELM}"
    found = str(built) if built.exists() else shutil.which("helm")
    if not found:
        raise PlatformError(
            "there is no helm in PATH; install version 3.18 or newer, or let "
            "`python -m manifests.installer helm` build it (it needs Go)"
        )
    return found


def build_helm() -> Path:
    """Helm of the pinned version, built by Go once. Raises PlatformError."""
    target = cache() / f"helm-{HELM}"
    if target.exists():
        return target
    go = shutil.which("go")
    if not go:
        raise PlatformError("building helm needs Go; install it, or helm itself")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = cache() / "go-bin"
    environment = {"GOBIN": str(folder), "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    run([go, "install", "-trimpath", "-ldflags=-s -w", f"helm.sh/helm/v3/cmd/helm@{HELM}"], environment=environment)
    (folder / "helm").rename(target)
    return target


def kubectl() -> str:
    """The one in PATH, or the test cluster's. Raises PlatformError when there is none."""
    built = cache().parent / "cluster/bin/kubectl"
    found = shutil.which("kubectl") or (str(built) if built.exists() else None)
    if not found:
        raise PlatformError("there is no kubectl in PATH; install version 1.33 or newer")
    return found


def run(
    command: Sequence[str],
    *,
    given: str | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 1800,
) -> str:
    """What a program prints. Raises PlatformError with its own words when it fails."""
    done = subprocess.run(
        command,
        input=given,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if done.returncode:
        raise PlatformError(f"`{words(command)}` failed:\n{(done.stderr or done.stdout).strip()[-3000:]}")
    return done.stdout


def words(command: Sequence[str]) -> str:
    """A command as one types it: the program without its folder."""
    return " ".join([Path(command[0]).name, *command[1:]])
