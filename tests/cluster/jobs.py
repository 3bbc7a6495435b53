"""Pods that run once: made as Jobs, waited for, read; cut off from every network where asked."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.cluster.harness import Cluster
from tests.cluster.place import ClusterError

NAMESPACE = "slipway-pipelines"

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What Pod Security `restricted` demands of a container, and a root file system that nobody writes to."""


@dataclass(frozen=True)
class Finished:
    """How a Job's only pod ended."""

    code: int
    log: str
    seconds: float
    """Of the container, without the time until it started."""


def pod(image: str, command: list[str], **more: Any) -> dict[str, Any]:
    """A pod's spec with one container, as restricted as the project's own; `more` are fields of the container."""
    mounts = [{"name": "tmp", "mountPath": "/tmp"}, *more.pop("volumeMounts", [])]
    container = {"name": "main", "image": image, "command": command, "securityContext": RESTRICTED, **more}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "containers": [container | {"volumeMounts": mounts}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }


def run(
    cluster: Cluster,
    name: str,
    spec: dict[str, Any],
    seconds: float,
    *,
    labels: dict[str, str] | None = None,
    cut: bool = False,
) -> Finished:
    """Make the Job, wait for its pod's end, and remove it. `cut` takes its network away before the container starts.

    Raises ClusterError with what the pod waits for when it has not ended by then.
    """
    if cut:
        spec = spec | {"initContainers": [_until_cut(spec["containers"][0]["image"])]}
    template = {"metadata": {"labels": labels or {}}, "spec": spec}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": NAMESPACE}}
    _remove(cluster, name)
    with ExitStack() as cleanup:
        cleanup.callback(_remove, cluster, name)
        cluster.apply([job | {"spec": {"backoffLimit": 0, "template": template}}])
        deadline = time.monotonic() + seconds
        if cut:
            seen = _wait(cluster, name, deadline, lambda pod: pod["status"].get("podIP"))
            cleanup.enter_context(_refused(seen["status"]["podIP"]))
        seen = _wait(cluster, name, deadline, _ended)
        ended = _ended(seen) or {}
        # of all containers: an init container that failed is the only one that says why
        log = cluster.kubectl("-n", NAMESPACE, "logs", seen["metadata"]["name"], "--all-containers")
        return Finished(ended["exitCode"], log, _moment(ended["finishedAt"]) - _moment(ended["startedAt"]))


def _remove(cluster: Cluster, name: str) -> None:
    cluster.kubectl("-n", NAMESPACE, "delete", "job", name, "--ignore-not-found", "--cascade=foreground")


def _wait(cluster: Cluster, name: str, deadline: float, until: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The Job's pod, once `until` is true of it."""
    seen: dict[str, Any] = {}
    while time.monotonic() < deadline:
        pods = cluster.get("-n", NAMESPACE, "pods", "-l", f"job-name={name}")["items"]
        seen = pods[0] if pods else {}
        if seen and until(seen):
            return seen
        time.sleep(0.5)
    events = cluster.kubectl("-n", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp")
    raise ClusterError(f"{name} is not done; its pod: {seen.get('status', 'there is none')}; events:\n{events[-1500:]}")


def _ended(pod: dict[str, Any]) -> dict[str, Any] | None:
    """How the pod's container ended, or the one before it that keeps it from starting."""
    status = pod["status"]
    for container in status.get("initContainerStatuses", []):
        if (ended := container["state"].get("terminated")) and ended["exitCode"]:
            return ended
    for container in status.get("containerStatuses", []):
        if ended := container["state"].get("terminated"):
            return ended
    return None


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# --- a pod without a network: the cluster's own does not enforce policies ------------------------------------------

_CUT = "slipway-cut-off"
"""The comment by which the firewall's rules are found again."""

_UNTIL_CUT = """
import os, socket, sys, time
for attempt in range(120):
    try:
        socket.create_connection((os.environ["KUBERNETES_SERVICE_HOST"], 443), timeout=2).close()
    except OSError:
        sys.exit()
    time.sleep(0.5)
sys.exit("this pod should have been cut off and still reaches the API server")
"""


def _until_cut(image: str) -> dict[str, Any]:
    """Goes before the container, and ends when the pod reaches nothing any more."""
    return {"name": "cut", "image": image, "command": ["python", "-c", _UNTIL_CUT], "securityContext": RESTRICTED}


@contextmanager
def _refused(address: str) -> Iterator[None]:
    """Refuse every connection that a pod opens, to this machine, its neighbours and the world."""
    _accept_again()  # what a killed run refused would hit the next pod with that address
    match = ["-s", address, "-m", "conntrack", "--ctstate", "NEW", "-m", "comment", "--comment", _CUT]
    try:
        for chain in ("INPUT", "FORWARD"):
            subprocess.run(["iptables", "-w", "-I", chain, "1", *match, "-j", "REJECT"], check=True)
        yield
    finally:
        _accept_again()


def _accept_again() -> None:
    told = subprocess.run(["iptables", "-w", "-S"], capture_output=True, text=True, check=True)
    for rule in (line.split() for line in told.stdout.splitlines()):
        if rule[0] == "-A" and _CUT in rule:
            subprocess.run(["iptables", "-w", "-D", *rule[1:]], check=True)
