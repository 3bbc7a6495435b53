"""The client against a server that fails: what is tried again, what is not, and what is said."""

from __future__ import annotations

import threading
import time

import pytest

from components.rollout.kserve.client import (
    CONFIG_MAP,
    EVENT,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    LEASE,
    ApiError,
    Cluster,
    Conflict,
)
from components.rollout.target import LockLost, TargetError
from tests.components.rollout.kserve.fake_api import NAMESPACE, Fault


def lease(name="l", version=""):
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"of": "test"}}
    if version:
        metadata["resourceVersion"] = version
    return {"apiVersion": LEASE.version, "kind": "Lease", "metadata": metadata, "spec": {"holderIdentity": "me"}}


def fail(place, status, times=1, after=False, **changes):
    place.api.faults.append(Fault(lambda method, path: "leases" in path, status, times, after=after, **changes))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 0])
@pytest.mark.parametrize("after", [False, True], ids=["lost on the way", "answer lost"])
def test_a_failing_server_is_asked_again(place, status, after):
    fail(place, status, times=2, after=after)
    assert place.cluster().apply(LEASE, lease())["spec"] == {"holderIdentity": "me"}
    assert len(place.api.requests) == 3


def test_a_server_that_keeps_failing_is_left_after_the_deadline(place):
    fail(place, 503, times=1000, message="etcd is away")
    began = time.monotonic()
    with pytest.raises(ApiError, match="cannot read Lease l in namespace serving: HTTP 503: etcd is away"):
        place.cluster(api_seconds=1).get(LEASE, "l")
    assert time.monotonic() - began < 20  # a thousand pauses take longer


def test_a_server_that_is_not_there_is_named(place):
    place.api.close()
    with pytest.raises(ApiError, match=rf"the API server {place.api.url} kept failing for 0.5 s.*refused"):
        place.cluster(api_seconds=0.5).list(LEASE)


def test_the_server_says_how_long_to_wait(place):
    fail(place, 429, headers={"Retry-After": "1"})
    began = time.monotonic()
    assert place.cluster(api_seconds=3).list(LEASE) == []
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_a_refusal_is_not_asked_again(place, status):
    fail(place, status, times=5, message="no")
    with pytest.raises(ApiError, match=f"HTTP {status}: no") as caught:
        place.cluster().apply(LEASE, lease())
    assert caught.value.status == status
    assert len(place.api.requests) == 1


def test_a_hanging_server_does_not_hang_the_caller(place, monkeypatch):
    monkeypatch.setattr("components.rollout.kserve.client._REQUEST_SECONDS", 0.3)
    release = threading.Event()

    def hangs(method, path):
        release.wait(60)
        return False

    place.api.faults.append(Fault(hangs, 500))
    began = time.monotonic()
    try:
        with pytest.raises(ApiError, match=r"kept failing for 1 s.*imed out"):
            place.cluster(api_seconds=1).get(LEASE, "l")
    finally:
        release.set()
    assert time.monotonic() - began < 20


def test_what_is_not_there_is_none(place):
    assert place.cluster().get(LEASE, "l") is None


def test_a_missing_kind_is_told_from_a_missing_object(place):
    place.api.missing_kinds = {"inferenceservices"}
    words = r"it does not know inferenceservices.serving.kserve.io \(serving.kserve.io/v1beta1\); install its"
    for ask in (lambda of: of.get(INFERENCE_SERVICE, "x"), lambda of: of.list(INFERENCE_SERVICE)):
        with pytest.raises(ApiError, match=words):
            ask(place.cluster())


def test_a_missing_right_is_named(place):
    place.api.denied = {("patch", "leases")}
    with pytest.raises(ApiError, match=r'cannot patch resource "leases".*that right on leases.coordination.k8s.io'):
        place.cluster().apply(LEASE, lease())


def test_a_refusing_webhook_is_quoted_without_talk_of_rights(place):
    place.api.refuse = lambda plural, found: "bad name"
    with pytest.raises(ApiError, match="denied the request: bad name") as caught:
        place.cluster().apply(LEASE, lease())
    assert "right" not in str(caught.value)


def test_versions_guard_a_write(place):
    cluster = place.cluster()
    first = cluster.apply(LEASE, lease())
    cluster.apply(LEASE, lease(version=first["metadata"]["resourceVersion"]))
    for write in (cluster.apply, cluster.replace):
        with pytest.raises(Conflict):
            write(LEASE, lease(version=first["metadata"]["resourceVersion"]))
    with pytest.raises(Conflict):
        cluster.create(LEASE, lease())


def test_only_the_object_that_was_seen_is_deleted(place):
    cluster = place.cluster()
    first = cluster.apply(LEASE, lease())
    place.api.drop("leases", "l")
    cluster.delete(LEASE, first)  # it is gone already
    second = cluster.apply(LEASE, lease())
    cluster.delete(LEASE, first)
    assert "deletionTimestamp" not in cluster.get(LEASE, "l")["metadata"]
    cluster.delete(LEASE, second)
    assert "deletionTimestamp" in cluster.get(LEASE, "l")["metadata"]


def test_every_try_of_a_write_asks_whether_it_may(place):
    cluster, asked = place.cluster(), []

    def until_the_third():
        asked.append(len(place.api.requests))
        if len(asked) == 3:
            raise LockLost("the lock was lost")

    cluster.guard = until_the_third
    place.api.faults.append(Fault(lambda method, path: "configmaps" in path, 503, times=1000))
    with pytest.raises(LockLost, match=r"^the lock was lost$"):
        cluster.apply(CONFIG_MAP, {"metadata": {"name": "c", "namespace": NAMESPACE}})
    assert asked == [0, 1, 2] and len(place.api.requests) == 2


def test_neither_a_look_nor_the_lock_itself_asks(place):
    cluster = place.cluster()

    def never():
        raise LockLost("asked")

    cluster.guard = never
    cluster.apply(LEASE, lease())
    assert cluster.get(LEASE, "l") and cluster.list(HTTP_ROUTE) == []
    for write in (
        lambda: cluster.create(EVENT, {"metadata": {"name": "e", "namespace": NAMESPACE}}),
        lambda: cluster.delete(INFERENCE_SERVICE, {"metadata": {"name": "i", "uid": "u"}}),
    ):
        with pytest.raises(LockLost):
            write()


def test_a_list_is_of_the_labels_that_were_asked_for(place):
    cluster = place.cluster()
    cluster.apply(LEASE, lease())
    assert [one["metadata"]["name"] for one in cluster.list(LEASE, {"of": "test"})] == ["l"]
    assert cluster.list(LEASE, {"of": "others"}) == []


def watched(place, seconds=3.0):
    """Starts to watch leases; gives an Event per change seen, and the way to stop."""
    seen, stopped = threading.Semaphore(0), threading.Event()

    def follow():
        for _ in place.cluster().changes(LEASE, {"of": "test"}, stopped):
            seen.release()

    threading.Thread(target=follow, daemon=True).start()
    assert seen.acquire(timeout=seconds)  # the connection stands
    return seen, stopped


def test_a_watch_tells_of_changes(place):
    seen, stopped = watched(place)
    place.cluster().apply(LEASE, lease())
    assert seen.acquire(timeout=3)
    stopped.set()


def test_a_watch_goes_on_after_a_break(place):
    fault = Fault(lambda method, path: "watch" in path, 0, times=3)
    place.api.faults.append(fault)
    seen, stopped = watched(place)
    assert fault.times == 0
    place.cluster().apply(LEASE, lease())
    assert seen.acquire(timeout=3)
    stopped.set()


def test_a_watch_that_is_not_allowed_says_so(place):
    place.api.denied = {("watch", "httproutes")}
    with pytest.raises(ApiError, match='cannot watch resource "httproutes"'):
        next(place.cluster().changes(HTTP_ROUTE, {}, threading.Event()))


def test_the_clock_is_the_servers(place):
    cluster = place.cluster()
    began = time.time()
    cluster.list(EVENT)
    # its answer names whole seconds, and is as old as the request took
    assert abs(cluster.now() - time.time()) < 1 + time.time() - began
    cluster._note_clock("Thu, 01 Jan 2015 00:00:00 GMT")
    assert cluster.now() == pytest.approx(1420070400, abs=2)


def test_a_proxied_request_arrives_whole_and_with_our_credentials(place):
    place.world.digest = lambda backend: "sha256:r"
    with place.cluster().http("services/chat:80", 2) as client:
        reply = client.post("/v1/x", json={"a": 1}).json()
        assert reply == {"path": "/v1/x", "method": "POST", "body": '{"a":1}'}
        request = client.build_request("GET", "/v1/x")
        assert next(client.auth.auth_flow(request)).headers["Authorization"] == "Bearer secret"


def test_what_the_proxy_fails_to_pass_on_is_tried_again(place):
    place.world.digest = lambda backend: "sha256:r"
    place.api.faults.append(Fault(lambda method, path: "/proxy" in path, 503, times=2))
    with place.cluster().http("services/chat:80", 2) as client:
        assert client.get("/health").status_code == 200


def test_what_the_server_behind_the_proxy_answers_is_the_answer(place):
    asked = []

    def busy(kind, method, path, body):
        asked.append(path)
        return 503, {"x-slipway-release": "sha256:r"}, b"busy"

    place.api.proxied = busy
    with place.cluster().http("services/chat:80", 2) as client:
        assert client.get("/health").text == "busy"
    assert asked == ["/health"]


def test_without_a_cluster_it_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(TargetError, match="set KUBECONFIG"):
        Cluster.connect("serving")
