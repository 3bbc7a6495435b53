"""No request is lost while releases change: a client outside, from before the rollout until after the return."""

from __future__ import annotations

import os

import pytest

from components.rollout import deliver
from tests.cluster import images
from tests.cluster.harness import wait
from tests.cluster.load import load
from tests.cluster.service import NAMESPACE, Service, digest_of
from tests.components.rollout.test_real_server import make_artifact

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

LEAST = int(os.environ.get("SLIPWAY_LOAD", "2000"))
"""Requests; 10,000 take three minutes more than the changes themselves."""

RATE = 60
"""Requests a second: two cores serve them beside the pods that start."""


@pytest.fixture
def service(cluster, tmp_path, monkeypatch):
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    made = Service(cluster, tmp_path)
    made.config = made.config_with({"image": images.build("serving", cluster.place), "replicas": 2, "cpu": "150m"})
    yield made
    made.remove()


def test_no_request_is_lost(service, tmp_path):
    """A rollout, the replacement of the live release's pod, and the return."""
    old, new = (make_artifact(tmp_path / name, "openvino", seed) for seed, name in enumerate(("old", "new")))
    service.roll(old)
    where = {"host": f"{service.name}.test", "least": LEAST, "rate": RATE}
    with load(service.cluster.gateway, service.name, tmp_path / "load.json", **where) as running:
        running.wait_for(answered=100)
        assert service.roll(new)["action"] == "rolled out"
        replace_pod(service)
        running.wait_for(answered=100)
        assert deliver.back(service.store, asked=service.config)["digest"] == digest_of(old)
        running.wait_for(answered=100)
        report = running.stop(900)
    print(report.sent, "requests,", report.streams, "streams,", report.failed, "failed,", report.latency_ms, "ms")
    assert report.failed == 0, report.failures
    assert report.sent == report.answered >= LEAST and report.streams > LEAST / 5
    assert set(report.releases) == {digest_of(old), digest_of(new)}


def replace_pod(service):
    """As when a node is drained: one of two pods is told to end, and the Deployment makes another."""
    pods = service.names("pod")
    service.cluster.kubectl("delete", "pod", min(pods), "-n", NAMESPACE, seconds=90)
    wait("the pod to be replaced", lambda: len(service.names("pod") - {min(pods)}) == len(pods), 60)
    ready = ["--for=condition=Ready", "--timeout=120s"]
    service.cluster.kubectl("wait", "pod", *service.names("pod"), "-n", NAMESPACE, *ready, seconds=130)
