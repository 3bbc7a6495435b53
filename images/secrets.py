"""What a build may read and the image must not keep: this machine's way to packages."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PIP_SETTINGS = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries"}
_CA_BUNDLE = "/run/secrets/ca-bundle"
"""Where a build finds the secret `ca-bundle`."""


@contextmanager
def build_secrets() -> Iterator[dict[str, Path]]:
    """`pip.conf` and, where pip is told of one, `ca-bundle`: files that live as long as the build."""
    settings, bundle = pip_settings()
    with tempfile.TemporaryDirectory(prefix="slipway-secrets-") as folder:
        secrets = {"pip.conf": Path(folder, "pip.conf")}
        if bundle:
            secrets["ca-bundle"] = Path(folder, "ca-bundle")
            shutil.copyfile(bundle, secrets["ca-bundle"])
            settings["cert"] = _CA_BUNDLE
        lines = [f"{name} = {value}" for name, value in sorted(settings.items())]
        secrets["pip.conf"].write_text("\n".join(["[global]", *lines, ""]))
        yield secrets


def pip_settings() -> tuple[dict[str, str], str]:
    """What this machine's pip is told about the way to packages, and the file of certificates that it trusts, or ""."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    lines = told.stdout.splitlines()  # global.index-url='…', and :env:.index-url='…', which wins; in any order
    settings: dict[str, str] = {}
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = str(ast.literal_eval(value)).replace("\n", " ")
    trusted = settings.get("cert") or os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or ""
    return {name: value for name, value in settings.items() if name in _PIP_SETTINGS}, trusted
