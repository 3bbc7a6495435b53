"""Terraform on a copy of terraform/, so that nothing of it is left in the repository.

Where the Terraform registry is reached, the real google provider is used. Elsewhere SLIPWAY_TERRAFORM_SCHEMA may name a
folder with a terraform.rc whose provider has the schema of google 6.50 and nothing else: names and types are checked
then, not values. SLIPWAY_TERRAFORM=off skips what needs Terraform, =required fails where it would be skipped.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TERRAFORM = ROOT / "terraform"
DIRECTORIES = sorted(path.parent.relative_to(TERRAFORM).as_posix() for path in TERRAFORM.glob("*/*/versions.tf"))
MODULES = [name for name in DIRECTORIES if name.startswith("modules/")]
ENVIRONMENTS = [name for name in DIRECTORIES if name.startswith("environments/")]

UNCHECKED: dict[str, str] = {}
"""Argument ("google_x.argument") -> since which version of the provider, for what the offline schema lacks."""

OFFLINE_LIMITS = "schema only: values, ranges and conflicts of arguments are not checked by the provider"
_UNREACHABLE = (
    "Failed to query available provider packages",
    "could not connect to registry",
    "Failed to install provider",
)

_NO_PROVIDER: list[str] = []
"""Why, once it is known: asking again would take ten seconds each time."""


def unavailable(reason: str) -> None:
    """Skip, or fail where Terraform is required."""
    if os.environ.get("SLIPWAY_TERRAFORM") == "required":
        pytest.fail(f"SLIPWAY_TERRAFORM=required, but {reason}")
    pytest.skip(reason)


def terraform_binary() -> str:
    """The terraform of the path, 1.9 or newer; else the test ends."""
    if os.environ.get("SLIPWAY_TERRAFORM") == "off":
        pytest.skip("SLIPWAY_TERRAFORM=off")
    found = shutil.which("terraform")
    if not found:
        unavailable("terraform is not installed: https://developer.hashicorp.com/terraform/install")
        raise AssertionError
    version = json.loads(subprocess.run([found, "version", "-json"], capture_output=True, check=True).stdout)
    if tuple(int(part) for part in version["terraform_version"].split("-")[0].split(".")[:2]) < (1, 9):
        unavailable(f"terraform {version['terraform_version']} is older than 1.9, which the validations need")
    return found


@dataclass
class Run:
    """What one `run` block of a test file came to."""

    name: str
    status: str
    problems: list[str] = field(default_factory=list)


@dataclass
class Workspace:
    """A copy of terraform/ and how to run Terraform there."""

    binary: str
    folder: Path
    environment: dict[str, str]
    _ready: set[str] = field(default_factory=set)

    def call(self, directory: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command below the copy; one at a time, since each loads a provider of 100 MB."""
        with _alone():
            return subprocess.run(
                [self.binary, f"-chdir={self.folder / directory}", *arguments],
                capture_output=True,
                text=True,
                env=self.environment,
                timeout=600,
            )

    def init(self, directory: str) -> None:
        """`terraform init` without a backend, once; where no provider can be had the test ends."""
        if directory in self._ready:
            return
        if _NO_PROVIDER:
            unavailable(_NO_PROVIDER[0])
        done = self.call(directory, "init", "-backend=false", "-input=false", "-no-color")
        if done.returncode and any(sign in done.stderr for sign in _UNREACHABLE):
            _NO_PROVIDER.append(
                "the google provider cannot be had (registry.terraform.io is out of reach): "
                "set SLIPWAY_TERRAFORM_SCHEMA to a folder with a terraform.rc, or TF_CLI_CONFIG_FILE to a mirror's"
            )
            unavailable(_NO_PROVIDER[0])
        assert done.returncode == 0, done.stdout + done.stderr
        self._ready.add(directory)

    def test(self, directory: str) -> list[Run]:
        """`terraform test`: every run block with its status and what was wrong."""
        self.init(directory)
        done = self.call(directory, "test", "-json")
        runs: dict[str, Run] = {}
        loose: list[str] = []
        for line in done.stdout.splitlines():
            event = _event(line)
            if event.get("type") == "test_run" and event["test_run"]["progress"] == "complete":
                told = event["test_run"]
                runs.setdefault(told["run"], Run(told["run"], "")).status = told["status"]
            if event.get("type") == "diagnostic" and event["diagnostic"]["severity"] == "error":
                words = f"{event['diagnostic']['summary']}: {event['diagnostic'].get('detail', '')}"
                name = event.get("@testrun", "")
                if name:
                    runs.setdefault(name, Run(name, "")).problems.append(words)
                else:
                    loose.append(words)
        assert runs and not loose, "\n".join(loose) or done.stdout + done.stderr
        return list(runs.values())


def _event(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {}


@contextmanager
def _alone() -> Iterator[None]:
    # another user's file there may not be opened for writing
    with (Path(tempfile.gettempdir()) / f"slipway-terraform-test-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def copy(folder: Path) -> Workspace:
    """A workspace below `folder`."""
    environment = {**os.environ, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    environment.setdefault("TF_PLUGIN_CACHE_DIR", str(folder.parent / "plugins"))
    Path(environment["TF_PLUGIN_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)
    if schema := environment.get("SLIPWAY_TERRAFORM_SCHEMA"):
        configuration = Path(schema).resolve() / "terraform.rc"
        if not configuration.is_file():
            pytest.fail(f"SLIPWAY_TERRAFORM_SCHEMA={schema} has no terraform.rc")
        environment["TF_CLI_CONFIG_FILE"] = str(configuration)
    # the lock holds checksums of the real provider
    lock = [".terraform.lock.hcl"] if schema else []
    shutil.copytree(TERRAFORM, folder, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*", *lock))
    return Workspace(terraform_binary(), folder, environment)
