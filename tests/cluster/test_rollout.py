"""The rollout on a real cluster: KServe's controller, real pods, a real gateway."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.rollout import deliver
from components.rollout.kserve import janitor, lease
from components.rollout.target import RolloutFailed
from tests.cluster.faulty_proxy import FaultyProxy
from tests.cluster.rolling import Rolling
from tests.cluster.service import NAMESPACE, Service, digest_of
from tests.components.rollout.kserve.fake_api import Fault
from tests.components.rollout.test_real_server import make_artifact

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Two releases of a tiny random model, with golden answers of their own engine."""
    root = tmp_path_factory.mktemp("releases")
    return [make_artifact(root / name, "openvino", seed) for seed, name in enumerate(("first", "second"))]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """A release whose golden answers its engine does not give."""
    return make_artifact(tmp_path_factory.mktemp("spoiled"), "openvino", 2, spoil=True)


@pytest.fixture
def service(cluster, tmp_path, monkeypatch):
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    made = Service(cluster, tmp_path)
    yield made
    made.remove()


@pytest.fixture
def proxy(cluster, service, tmp_path, monkeypatch):
    """The rollout speaks to the API server through this."""
    made = FaultyProxy(cluster.kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(tmp_path / "kubeconfig")))
    yield made
    made.close()


def test_two_releases_and_the_way_back(service, artifacts):
    first, second = artifacts
    assert service.roll(first)["action"] == "rolled out"
    service.settled_on(digest_of(first))
    pods = service.names("pod")
    assert service.roll(first)["action"] == "already live"  # the same release again
    assert service.names("pod") == pods
    assert service.roll(second)["previous"] == digest_of(first)
    service.settled_on(digest_of(second))
    assert deliver.back(service.store, asked=service.config)["digest"] == digest_of(first)
    service.settled_on(digest_of(first))
    told = {words.partition(":")[0] for words in service.told()}
    assert {"starting", "watching 10 %", "watching 50 %", "watching 100 %", "promoting", "removing", "live"} <= told


def test_other_settings_reach_what_is_live_and_bad_ones_are_taken_back(service, artifacts):
    """KServe hands the mark of the settings down to the pods; those that answer stay until others do."""
    first, _ = artifacts
    service.roll(first)
    _, answers = asked_meanwhile(service, lambda: change_settings(service, first))
    assert {status for status, _ in answers} == {200}


def change_settings(service, first):
    """Two good changes of what is live, and a bad one."""
    selected = ["-n", NAMESPACE, "-l", f"slipway.dev/service={service.name}"]
    for kserve in ({"memory": "1200Mi"}, {"memory": "1200Mi", "replicas": 2, "cpu": "100m"}):
        assert service.roll(first, kserve)["action"] == "settings changed"
        (isvc,) = service.cluster.get("isvc", *selected)["items"]
        mark = isvc["metadata"]["annotations"]["slipway.dev/settings"]
        pods = [one for one in service.cluster.get("pod", *selected)["items"] if not leaving(one)]
        assert {one["metadata"]["annotations"]["slipway.dev/settings"] for one in pods} == {mark}
        assert len(pods) == kserve.get("replicas", 1)
        assert service.roll(first, kserve)["action"] == "already live"
    with pytest.raises(RolloutFailed, match=r"kserve.image .*cannot be pulled.*It is live as it was"):
        service.roll(first, kserve | {"image": f"registry.invalid/none@sha256:{'0' * 64}"})
    assert service.roll(first, kserve)["action"] == "already live"


def test_while_a_service_is_out_no_other_answers_its_requests(service, artifacts, tmp_path):
    """Not even one that takes every host."""
    first, second = artifacts
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    other = Service(service.cluster, elsewhere)
    service.roll(first)
    try:
        other.roll(second)
        (route,) = service.cluster.get("httproute", "-n", NAMESPACE, "-l", f"slipway.dev/service={other.name}")["items"]
        spec = {key: value for key, value in route["spec"].items() if key != "hostnames"}
        metadata = {"name": f"{other.name}-all", "namespace": NAMESPACE, "labels": {"slipway.dev/service": other.name}}
        service.cluster.apply([route | {"metadata": metadata, "spec": spec}])
        rolled, answers = asked_meanwhile(service, lambda: service.roll(second, strategy="replace"))
    finally:
        other.remove()
    assert rolled["outage_seconds"] > 0
    out = [index for index, (status, _) in enumerate(answers) if status == 503]
    assert out and {status for status, _ in answers} == {200, 503}
    assert {release for _, release in answers[: out[0]]} == {digest_of(first)}
    assert {status for status, _ in answers[out[0] : out[-1] + 1]} == {503}


def asked_meanwhile(service, act):
    """What `act` returns; status and release of each answer at the public address until it did."""
    answers, enough = list[tuple[int, str]](), threading.Event()

    def ask():
        while not enough.is_set():
            reply = service.ask()
            answers.append((reply.status_code, reply.json()["release"] if reply.status_code == 200 else ""))

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            done = act()
        finally:
            enough.set()
        asking.result(60)
    return done, answers


def leaving(pod):
    return "deletionTimestamp" in pod["metadata"]


def test_what_stands_beside_a_release_goes_with_it(service, artifacts):
    """Two pods: evicted one at a time. The garbage collector takes the budget when the InferenceService goes."""
    first, second = artifacts
    two = {"replicas": 2, "cpu": "100m"}
    service.roll(first, two)
    (budget,) = service.cluster.get("pdb", "-n", NAMESPACE, "-l", f"slipway.dev/service={service.name}")["items"]
    (isvc,) = service.cluster.get("isvc", "-n", NAMESPACE, "-l", f"slipway.dev/service={service.name}")["items"]
    assert budget["metadata"]["ownerReferences"][0]["uid"] == isvc["metadata"]["uid"]
    budget = service.cluster.get("pdb", "-n", NAMESPACE, budget["metadata"]["name"])
    assert budget["status"]["expectedPods"] == 2 and budget["status"]["disruptionsAllowed"] <= 1
    service.roll(second)
    service.settled_on(digest_of(second))
    deadline = time.monotonic() + 60
    while service.names("pdb") and time.monotonic() < deadline:
        time.sleep(0.5)
    assert service.names("pdb") == set()


def test_wrong_answers_are_rolled_back(service, artifacts, spoiled):
    first, _ = artifacts
    service.roll(first)
    with pytest.raises(RolloutFailed, match=rf"golden answer 1 .* is .*, expected is .*{digest_of(first)} is live"):
        service.roll(spoiled)
    service.settled_on(digest_of(first))


def test_an_api_server_that_fails_costs_time_and_nothing_else(service, proxy, artifacts):
    """Every fifth request: 409 (of writes), 429, 500, a broken connection before it is heard, one after."""
    first, second = artifacts
    kinds = [(409, False), (429, False), (500, True), (0, False), (0, True)]

    def fifth_of(turn, status):
        def matches(method, path):
            number = len(proxy.requests)
            meant = number % 5 == 0 and number // 5 % len(kinds) == turn
            return meant and "watch=" not in path and not (status == 409 and method == "GET")

        return matches

    proxy.faults = [
        Fault(fifth_of(turn, status), status, times=10_000, after=after) for turn, (status, after) in enumerate(kinds)
    ]
    service.roll(first)
    service.roll(second)
    met = [10_000 - fault.times for fault in proxy.faults]
    proxy.faults = []
    assert min(met) >= 1 and sum(met) > 20, met
    service.settled_on(digest_of(second))


def test_a_cut_network_is_survived(service, proxy, artifacts):
    """The way to the API server is cut for eight seconds while a candidate gets a tenth of the traffic."""
    first, second = artifacts
    service.roll(first)

    def cut_it():
        service.await_told("watching 10 %")
        with proxy.cut():
            time.sleep(8)
            return proxy.refused

    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(cut_it)
        service.roll(second, min_requests=12)
    assert refused.result() > 0, "the rollout did not notice the cut"
    service.settled_on(digest_of(second))


def kill_between_two_stages(service, first, second):
    """The rollout of the second release dies with half of the traffic at it."""
    service.roll(first)
    before = service.events()
    rolling = Rolling(service, second)
    service.await_told("watching 50 %", besides=before)
    rolling.process.kill()
    rolling.process.wait()


def test_the_janitor_finishes_what_was_killed(service, artifacts):
    first, second = artifacts
    kill_between_two_stages(service, first, second)
    (did,) = [one for one in janitor.run(service.store, NAMESPACE) if one["service"] == service.name]
    assert did["did"] == "finished"
    service.settled_on(digest_of(second))


def test_the_janitors_own_pod_finishes_what_was_killed(cluster, service, artifacts):
    """From the CronJob's template, with its account and image, once the lock of the dead process has expired."""
    cluster.use_images("serving", "components")
    first, second = artifacts
    kill_between_two_stages(service, first, second)
    time.sleep(lease.SECONDS + 2)
    job = f"janitor-{service.name}"
    there = ("-n", "slipway-pipelines")
    cluster.kubectl("create", "job", job, "--from=cronjob/rollout-janitor", *there)
    try:
        cluster.kubectl("wait", f"job/{job}", "--for=condition=complete", "--timeout=300s", *there, seconds=310)
        log = cluster.kubectl("logs", f"job/{job}", *there)
    finally:
        cluster.kubectl("delete", "job", job, *there)
    service.settled_on(digest_of(second))
    assert any(service.name in line and "finished" in line for line in log.splitlines()), log


def test_the_account_of_the_rollout_task_is_enough(service, cluster, artifacts, tmp_path, monkeypatch):
    """Its Role alone: every verb that a rollout needs, and no more than that is asked for."""
    first, second = artifacts
    token = cluster.kubectl("create", "token", "rollout", "-n", "slipway-pipelines").strip()
    kubeconfig = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json"))
    kubeconfig["users"][0]["user"] = {"token": token}
    (tmp_path / "rollout").write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "rollout"))
    service.roll(first)
    service.roll(second)
    service.settled_on(digest_of(second))
