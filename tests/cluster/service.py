"""One service on the cluster for one test: rolled out, asked, looked at, removed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx

from components.rollout import deliver
from components.rollout.config import KServeConfig, RolloutConfig
from components.step_config import RunSettings
from components.store import Store
from serving.release import read_release
from tests.cluster.harness import Cluster

NAMESPACE = "slipway-serving"


def digest_of(artifact: Path) -> str:
    """The release in an artifact of package_release."""
    return read_release(artifact / "release").digest


class Service:
    """A service with a host name of its own, so that tests share the gateway."""

    def __init__(self, cluster: Cluster, root: Path, name: str = ""):
        self.cluster, self.root, self.name = cluster, root, name or f"t-{secrets.token_hex(3)}"
        self.run = RunSettings(name="test", store=str(root / "store"), run_id="run-1", commit="c0ffee")
        self.store = Store(self.run)
        self.config = RolloutConfig(
            target="kserve",
            service=self.name,
            stages=[10, 50, 100],
            min_requests=5,
            stage_seconds=60,
            ready_seconds=120,
            answer_seconds=60,
            drain_seconds=5,
            kserve=KServeConfig(hostname=f"{self.name}.test", cpu="200m", memory="1Gi", grace_seconds=15),
        )

    def config_with(self, kserve: dict[str, Any] | None = None, **changes: Any) -> RolloutConfig:
        """The configuration with changes."""
        changes["kserve"] = self.config.kserve.model_copy(update=kserve or {})
        return self.config.model_copy(update=changes)

    def artifacts(self, artifact: Path) -> tuple[Path, Path, Path]:
        """Those of package_release, resolve_champion and the gate that lets the release pass against what is live."""
        live = deliver.live(self.store, self.config)
        verdict = {"verdict": "pass", "reason": "better", "challenger": digest_of(artifact), "champion": live}
        for name, content in (
            ("champion/champion.json", {"digest": live, "service": self.name}),
            ("decision/verdict.json", verdict),
        ):
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_text(json.dumps(content))
        return artifact, self.root / "champion", self.root / "decision"

    def roll(self, artifact: Path, kserve: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """A rollout; `kserve` and `changes` are settings."""
        return deliver.deliver(self.run, self.config_with(kserve, **changes), *self.artifacts(artifact))

    def await_told(self, beginning: str, besides: Collection[str] = (), seconds: float = 120) -> None:
        """Wait for an Event whose message begins so, and whose name is not among `besides` (see events)."""
        deadline = time.monotonic() + seconds
        while True:
            new = [message for name, message in self.events().items() if name not in besides]
            if any(message.startswith(beginning) for message in new):
                return
            assert time.monotonic() < deadline, f"no Event begins with {beginning}: {new}"
            time.sleep(0.1)

    def ask(self) -> httpx.Response:
        """A question at the public address, as a client outside asks it."""
        url, headers = f"{self.cluster.gateway}/generate", {"Host": f"{self.name}.test"}
        question = {"prompt": "What moves warmth?", "max_tokens": 4}
        return httpx.post(url, json=question, headers=headers, timeout=30, trust_env=False)

    def settled_on(self, digest: str) -> None:
        """Exactly this release is live and answers, and nothing else of the service is there."""
        reply = self.ask()
        assert reply.status_code == 200 and reply.json()["release"] == digest
        seen = deliver.status(self.store, self.config)
        assert seen["live"] == digest and seen["serving"] and seen["routed"] == {digest: 100}
        assert [one["role"] for one in seen["instances"]] == ["stable"]
        assert seen["instances"][0]["state"] == "ready" and seen["held_by"] is None
        assert self.names("inferenceservice") == {f"{self.name}-{digest[7:17]}"}
        assert len(self.names("pod")) == 1

    def names(self, kind: str) -> set[str]:
        """Objects of the service."""
        found = self.cluster.get(kind, "-n", NAMESPACE, "-l", f"slipway.dev/service={self.name}")
        return {one["metadata"]["name"] for one in found["items"]}

    def events(self) -> dict[str, str]:
        """Name and message of the Events about the service's route."""
        found = self.cluster.get("events", "-n", NAMESPACE)["items"]
        return {one["metadata"]["name"]: one["message"] for one in found if one["involvedObject"]["name"] == self.name}

    def told(self) -> list[str]:
        """The messages of these Events, in no order."""
        return list(self.events().values())

    def remove(self) -> None:
        """Leave nothing behind; pods may still be ending."""
        selected = ["-n", NAMESPACE, "-l", f"slipway.dev/service={self.name}"]
        self.cluster.kubectl("delete", "httproute,inferenceservice,lease", *selected, "--wait=false")
