"""The lock of one service: a Lease that is renewed while a rollout works, and that others may take once it is not.

All times are the API server's, so clocks that differ between machines harm nobody.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from components.rollout.kserve.client import ATTEMPT_SECONDS, LEASE, MANAGER, ApiError, Cluster, Conflict, Object
from components.rollout.kserve.objects import PREFIX, labels
from components.rollout.processes import start_mark
from components.rollout.target import LockLost, RolloutBusy, TargetError

SECONDS = 40
RENEW_SECONDS = 10.0
_SURE_SECONDS = SECONDS - ATTEMPT_SECONDS
"""Given up before another may take it: a change that was just allowed is still on its way."""

_TRIES = 5
"""To give it back when somebody writes it in between."""


@dataclass(frozen=True)
class Holder:
    """Who has a lock, as it stands in the Lease."""

    host: str
    pid: int
    run: str
    since: str
    mark: str = ""
    """What tells the process from another of its id (processes.start_mark)."""

    machine: str = ""
    """What tells the place where that id means that process: boot and process namespace."""

    def is_gone(self) -> bool:
        """Whether it was a process of this very place and has ended; False where that cannot be known."""
        here = self.host == socket.gethostname() and self.machine == _machine() != ""
        return here and start_mark(self.pid) != self.mark


class Lock:
    """The Lease of one service, by a process that may hold it once at a time."""

    def __init__(self, cluster: Cluster, service: str, run: str, renew_seconds: float = RENEW_SECONDS):
        self._cluster, self._service, self._run = cluster, service, run
        self._renew_seconds = renew_seconds
        self._name = lease_name(service)
        self._held: Object | None = None
        self._renewed = (0.0, 0.0)
        self._lost = ""
        self._released = threading.Event()

    def acquire(self) -> None:
        """Take the lock. Raises RolloutBusy that names the holder."""
        self._lost, self._released = "", threading.Event()
        started = _clocks()
        found = self._cluster.get(LEASE, self._name)
        try:
            if found is None:
                held = self._cluster.create(LEASE, self._lease(None))
            else:
                if is_held(found, self._cluster.now()):
                    raise RolloutBusy(_busy(self._service, found))
                held = self._cluster.replace(LEASE, self._lease(found))
        except Conflict as error:
            found = self._cluster.get(LEASE, self._name)
            # A request that seemed to fail may have been heard: then it is this process that holds it.
            if found is None or not self._is_ours(found):
                raise RolloutBusy(_busy(self._service, found or {})) from error
            held = found
        self._held, self._renewed = held, started
        threading.Thread(target=self._renew_on, name=self._name, daemon=True).start()

    def release(self) -> None:
        """Give the lock back; others see at once that nobody holds it."""
        self._released.set()
        held, self._held = self._held, None
        if held is None or self._lost:
            return
        with suppress(ApiError):  # it expires by itself
            self._give_back()

    def _give_back(self) -> None:
        for _ in range(_TRIES):
            found = self._cluster.get(LEASE, self._name)
            if found is None or not self._is_ours(found):
                return
            found["spec"]["holderIdentity"] = ""
            with suppress(Conflict):  # a renewal that was on its way came between
                self._cluster.replace(LEASE, found)
                return

    def check(self) -> None:
        """Raises LockLost when the lock is not held, or so long not renewed that another may have it."""
        if self._held is None and not self._lost:
            raise TargetError(f"the lock of {self._service} is not held; call hold() before anything is changed")
        if not self._lost and _elapsed(self._renewed) >= _SURE_SECONDS:
            self._lost = f"it could not be renewed for {_SURE_SECONDS:g} s"
        if self._lost:
            raise LockLost(
                f"the lock of {self._service} (Lease {self._name}) was lost: {self._lost}; another rollout may be at "
                "work, so this one changes nothing more"
            )

    def _renew_on(self) -> None:
        released = self._released
        while not released.wait(self._renew_seconds):
            try:
                self._renew()
            except LockLost as error:
                self._lost = str(error)
                return
            except ApiError:
                continue  # `check` counts the seconds

    def _renew(self) -> None:
        started = _clocks()
        found = self._cluster.get(LEASE, self._name)
        if found is None:
            raise LockLost("somebody deleted it")
        if not self._is_ours(found):
            raise LockLost(f"{holder_of(found).host or 'somebody'} holds it now")
        found["spec"]["renewTime"] = _moment(self._cluster.now())
        try:
            self._held = self._cluster.replace(LEASE, found)
        except Conflict:  # an earlier try was heard, or somebody else has it: the next turn tells
            return
        self._renewed = started

    def _identity(self) -> str:
        return f"{socket.gethostname()}/{os.getpid()}/{start_mark(os.getpid())}"

    def _is_ours(self, found: Object) -> bool:
        return found["spec"].get("holderIdentity") == self._identity()

    def _lease(self, found: Object | None) -> Object:
        now = _moment(self._cluster.now())
        taken = (found or {}).get("spec", {}).get("leaseTransitions") or 0
        notes = {
            "run": self._run,
            "since": now,
            "pid": str(os.getpid()),
            "host": socket.gethostname(),
            "mark": start_mark(os.getpid()) or "",
            "machine": _machine(),
        }
        metadata: Object = {
            "name": self._name,
            "namespace": self._cluster.namespace,
            "labels": labels(self._service),
            "annotations": {f"{PREFIX}{key}": value for key, value in notes.items()},
        }
        if found:
            metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
        spec = {
            "holderIdentity": self._identity(),
            "leaseDurationSeconds": SECONDS,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": taken + 1 if found else 0,
        }
        return {"apiVersion": LEASE.version, "kind": LEASE.name, "metadata": metadata, "spec": spec}


def lease_name(service: str) -> str:
    """The Lease of a service."""
    return f"{MANAGER}-{service}"


def is_held(found: Object | None, now: float) -> bool:
    """Whether somebody holds a Lease: it is renewed, and its process is not known to be gone."""
    spec = cast("dict[str, Any]", (found or {}).get("spec") or {})
    if found is None or not spec.get("holderIdentity"):
        return False
    renewed = spec.get("renewTime")
    if not renewed or now - datetime.fromisoformat(renewed).timestamp() > spec.get("leaseDurationSeconds", SECONDS):
        return False
    return not holder_of(found).is_gone()


def holder_of(found: Object) -> Holder:
    """Who a Lease names."""
    noted = cast("dict[str, str]", found.get("metadata", {}).get("annotations") or {})

    def text(key: str) -> str:
        return noted.get(f"{PREFIX}{key}", "")

    pid = text("pid")
    return Holder(
        text("host"), int(pid) if pid.isdigit() else 0, text("run"), text("since"), text("mark"), text("machine")
    )


def _busy(service: str, found: Object) -> str:
    holder = holder_of(found)
    run = f", run {holder.run}" if holder.run else ""
    who = f"process {holder.pid} on {holder.host}{run}, since {holder.since}" if holder.host else "another rollout"
    return (
        f"the service {service} is being changed by {who}; wait until it is done, or end that process and try again "
        f"{SECONDS} s later"
    )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _machine() -> str:
    """Which kernel, process namespace and user this is: whose processes can be judged. "" where nothing tells."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}/{os.getuid()}"
    return ""


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.time()


def _elapsed(since: tuple[float, float]) -> float:
    """Seconds by the clock that says more: the monotonic one stands still while a machine sleeps."""
    return max(now - then for now, then in zip(_clocks(), since, strict=True))
