"""The way from a job into the cluster: a kubeconfig that lives as long as the job needs it, and a door to Kubeflow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ci import job
from ci.commands import CiError, ask, program

_READY_SECONDS = 60
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def kubeconfig(endpoint: str, token: str) -> dict[str, Any]:
    """For the control plane's DNS endpoint, whose certificate is one that every machine trusts, so none is named."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "slipway", "cluster": {"server": f"https://{endpoint}"}}],
        "users": [{"name": "job", "user": {"token": token}}],
        "contexts": [{"name": "slipway", "context": {"cluster": "slipway", "user": "job"}}],
        "current-context": "slipway",
    }


@contextmanager
def access() -> Iterator[dict[str, str]]:
    """Environment in which kubectl reaches the cluster of SETTINGS. Raises CiError.

    The token is that of gcloud's login and lasts an hour; gcloud's own plugin for kubectl is not needed.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-cluster-") as folder:
        path = Path(folder, "kubeconfig.json")
        # gcloud adds the scope of the email, by which RoleBindings know who it is; without it a job has a number
        token = ask(["gcloud", "auth", "print-access-token", f"--scopes={_SCOPE}"]).strip()
        job.mask(token)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(kubeconfig(_endpoint(), token), file)  # YAML's every reader reads JSON
        yield {"KUBECONFIG": str(path)}


def _endpoint() -> str:
    name, project, location = (job.setting(key) for key in ("cluster", "project_id", "region"))
    command = ["gcloud", "container", "clusters", "describe", name, f"--project={project}", f"--location={location}"]
    told = json.loads(ask([*command, "--format=json"]))
    endpoint = told.get("controlPlaneEndpointsConfig", {}).get("dnsEndpointConfig", {}).get("endpoint", "")
    if not endpoint:
        raise CiError(f"cluster {name} has no DNS endpoint; control_plane.dns makes one (terraform/environments/gke)")
    return endpoint


@contextmanager
def forward(target: str, namespace: str, port: int, healthy: str, environment: dict[str, str]) -> Iterator[str]:
    """http://127.0.0.1:PORT of a Service, once it answers at `healthy`. Raises CiError with kubectl's words."""
    command = [program("kubectl"), "port-forward", f"--namespace={namespace}", target, f":{port}"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{_local_port(process, said)}"
            _wait(address + healthy, process, said)
            yield address
        finally:
            process.terminate()
            process.wait(10)
            assert process.stdout
            process.stdout.close()


def _local_port(process: subprocess.Popen[str], said: Any) -> int:
    """The one that kubectl chose: it prints `Forwarding from 127.0.0.1:40001 -> 8888`."""
    assert process.stdout
    line = process.stdout.readline()
    found = re.search(r"127\.0\.0\.1:(\d+)", line)
    if not found:
        raise CiError(f"kubectl port-forward ended: {_read(said) or line}")
    return int(found[1])


def _wait(url: str, process: subprocess.Popen[str], said: Any) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                reply.read()
            return
        except (urllib.error.URLError, OSError) as error:
            reason = error
        if process.poll() is not None:
            raise CiError(f"kubectl port-forward ended: {_read(said)}")
        if time.monotonic() > deadline:
            raise CiError(f"{url} does not answer after {_READY_SECONDS} s: {reason}")
        time.sleep(1)


def _read(said: Any) -> str:
    said.seek(0)
    return said.read().strip()
