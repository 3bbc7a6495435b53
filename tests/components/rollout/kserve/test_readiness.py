"""What is really ready, what will never be, and why: from objects as the cluster shows them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from components.rollout.kserve.readiness import Seen, instance, ready_endpoints

DIGEST = "sha256:" + "a" * 64
CREATED, NOW = "2026-01-01T00:00:00Z", 1767225660.0  # a minute later


def condition(kind, status, **more):
    return {"type": kind, "status": status, **more}


def good() -> Seen:
    """One replica, ready in every respect."""
    isvc = {
        "metadata": {
            "name": "chat-a",
            "creationTimestamp": CREATED,
            "annotations": {"slipway.dev/run": "r", "slipway.dev/run-id": "r-1", "slipway.dev/commit": "c"},
        },
        "spec": {"predictor": {"model": {"runtime": "slipway-cpu"}}},
        "status": {
            "conditions": [condition("PredictorReady", "True", reason="NewReplicaSetAvailable")],
            "modelStatus": {"transitionStatus": "UpToDate"},
        },
    }
    deployment = {
        "metadata": {"generation": 1},
        "spec": {"replicas": 1},
        "status": {
            "observedGeneration": 1,
            "replicas": 1,
            "updatedReplicas": 1,
            "availableReplicas": 1,
            "conditions": [
                condition("Progressing", "True", reason="NewReplicaSetAvailable"),
                condition("Available", "True", lastTransitionTime=CREATED),
            ],
        },
    }
    pod = {
        "metadata": {"name": "p", "creationTimestamp": CREATED},
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Running",
            "conditions": [condition("Ready", "True"), condition("PodScheduled", "True")],
            "initContainerStatuses": [
                {"name": "storage-initializer", "ready": True, "state": {"terminated": {"exitCode": 0}}}
            ],
            "containerStatuses": [
                {"name": "kserve-container", "image": "i", "ready": True, "restartCount": 0, "state": {"running": {}}}
            ],
        },
    }
    slices = [{"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": True}}]}]
    return Seen(isvc, deployment, [pod], slices)


def starting(**container) -> Seen:
    """The same before it was ever ready; `container` is what its server's status says besides."""
    seen = copy.deepcopy(good())
    never = condition("Available", "False", reason="MinimumReplicasUnavailable", lastTransitionTime=CREATED)
    seen.deployment["status"] |= {"availableReplicas": 0, "conditions": [condition("Progressing", "True"), never]}
    seen.isvc["status"]["conditions"] = []
    status = seen.pods[0]["status"]
    status["conditions"] = [condition("Ready", "False", lastTransitionTime=CREATED)]
    status["containerStatuses"][0] |= {"ready": False, **container}
    return replace(seen, slices=[])


def fetching(**init) -> Seen:
    seen = starting(state={"waiting": {"reason": "PodInitializing"}})
    seen.pods[0]["status"]["initContainerStatuses"][0] |= {"ready": False, "state": {}, **init}
    return seen


def judged(seen: Seen, now=NOW, ready_seconds=120):
    return instance(DIGEST, "http://x", seen, ready_seconds, now)


def test_ready_is_when_everything_says_so():
    seen = judged(good())
    assert (seen.state, seen.reason) == ("ready", "")
    assert seen.origin.run_id == "r-1" and seen.origin.commit == "c"
    assert seen.details["pods"] == [{"pod": "p", "node": "n", "phase": "Running", "restarts": 0}]


@pytest.mark.parametrize(
    ("autoscaler", "counts", "state"),
    [
        ("keda", {"replicas": 3, "updatedReplicas": 3, "availableReplicas": 2}, "ready"),  # a third one starts
        ("keda", {"replicas": 3, "updatedReplicas": 3, "availableReplicas": 1}, "starting"),
        ("none", {"replicas": 3, "updatedReplicas": 3, "availableReplicas": 2}, "starting"),
    ],
)
def test_a_pod_that_an_autoscaler_adds_is_not_waited_for(autoscaler, counts, state):
    seen = good()
    seen.isvc["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] = autoscaler
    seen.isvc["spec"]["predictor"]["minReplicas"] = 2
    seen.deployment["spec"]["replicas"] = 3
    seen.deployment["status"] |= counts
    ends = [{"addresses": [address], "conditions": {"ready": True}} for address in ("10.0.0.1", "10.0.0.2")]
    assert judged(replace(seen, slices=[{"endpoints": ends}])).state == state


def changed(path, value):
    """The good one with one thing different."""
    seen = copy.deepcopy(good())
    where = {"isvc": seen.isvc, "deployment": seen.deployment, "pod": seen.pods[0]}[path[0]]
    for key in path[1:-1]:
        where = where[key]
    where[path[-1]] = value
    return seen


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (changed(("deployment", "metadata", "generation"), 2), "newest form is not yet taken up"),
        (changed(("deployment", "status", "updatedReplicas"), 0), "0 of 1 pods are ready"),
        (changed(("deployment", "status", "availableReplicas"), 0), "0 of 1 pods are ready"),
        (changed(("deployment", "status", "replicas"), 2), "1 of 1 pods are ready"),
        (
            changed(("isvc", "status", "conditions"), [condition("PredictorReady", "Unknown", message="hm")]),
            "KServe says of its predictor: hm",
        ),
        (
            changed(
                ("isvc", "status", "conditions"),
                [condition("PredictorReady", "True", reason="MinimumReplicasAvailable")],
            ),
            "MinimumReplicasAvailable",
        ),
        (replace(good(), slices=[]), "0 of 1 endpoints"),
        (replace(good(), deployment=None), "no Deployment yet"),
    ],
)
def test_kserves_own_ready_is_not_enough(seen, words):
    found = judged(seen)
    assert found.state == "starting"
    assert words in found.reason


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (
            starting(state={"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}}),
            "pod p: image i cannot be pulled: ImagePullBackOff: manifest unknown",
        ),
        (starting(state={"waiting": {"reason": "InvalidImageName", "message": "?"}}), "cannot be pulled"),
        (
            starting(state={"waiting": {"reason": "CreateContainerConfigError", "message": "no secret"}}),
            "cannot be started: CreateContainerConfigError: no secret",
        ),
        (
            starting(
                state={"waiting": {"reason": "CrashLoopBackOff"}},
                restartCount=1,
                lastState={"terminated": {"reason": "Error", "exitCode": 1, "message": "a\nbad\n"}},
            ),
            "ends again and again (1 restarts): Error, exit code 1: a | bad",
        ),
        (
            starting(
                state={"running": {}}, restartCount=2, lastState={"terminated": {"reason": "Error", "exitCode": 1}}
            ),
            "ended 2 times before it was ready: Error, exit code 1",
        ),
        (
            starting(
                state={"running": {}},
                restartCount=1,
                lastState={"terminated": {"reason": "OOMKilled", "exitCode": 137}},
            ),
            "more memory than its limit; raise rollout.kserve.memory",
        ),
        (
            fetching(state={"terminated": {"reason": "Error", "exitCode": 1, "message": "weights: sha256 differs"}}),
            "storage-initializer could not bring the release: Error, exit code 1: weights: sha256 differs",
        ),
        (
            fetching(
                state={"waiting": {"reason": "CrashLoopBackOff"}},
                lastState={"terminated": {"reason": "Error", "exitCode": 1, "message": "no bucket"}},
            ),
            "could not bring the release: Error, exit code 1: no bucket",
        ),
        (fetching(state={"waiting": {"reason": "ErrImagePull", "message": "gone"}}), "cannot be pulled"),
        (
            changed(("isvc", "metadata", "deletionTimestamp"), CREATED),
            "its InferenceService is being deleted",
        ),
    ],
)
def test_what_will_not_mend_itself_has_failed_at_once(seen, words):
    found = judged(seen)
    assert found.state == "failed"
    assert words in found.reason


def refused(message, pods=()):
    seen = starting()
    seen.deployment["status"] |= {
        "replicas": 0,
        "updatedReplicas": 0,
        "conditions": [condition("ReplicaFailure", "True", reason="FailedCreate", message=message)],
    }
    return replace(seen, pods=list(pods))


def test_pods_that_are_refused_have_failed_in_the_words_of_the_refusal():
    found = judged(refused('pods "x" is forbidden: exceeded quota: gpus, requested: 1, used: 1, limited: 1'))
    assert found.state == "failed"
    assert "its pods are refused (FailedCreate): pods" in found.reason and "exceeded quota: gpus" in found.reason


def test_a_webhook_that_cannot_be_asked_may_come_back():
    found = judged(refused('failed calling webhook "pod-mutator": connection refused'))
    assert found.state == "starting"
    assert "connection refused" in found.reason


def test_kubernetes_own_deadline_is_told_and_ends_nothing():
    """It is 600 s for every Deployment of KServe's; large weights take longer."""
    seen = starting(state={"waiting": {"reason": "PodInitializing"}})
    seen.deployment["status"]["conditions"] = [
        condition("Progressing", "False", reason="ProgressDeadlineExceeded", message="timed out")
    ]
    waits = "0 of 1 pods are ready (ProgressDeadlineExceeded): pod p loads the release, or does not answer /health"
    found = judged(seen, now=NOW + 600, ready_seconds=1500)
    assert (found.state, found.reason) == ("starting", waits)
    found = judged(seen, now=NOW + 1500, ready_seconds=1500)
    assert (found.state, found.reason) == ("failed", f"not ready within 1500 s: {waits}")


def model_status(transition, **info):
    seen = replace(starting(), deployment=None, pods=[])
    seen.isvc["status"] = {"modelStatus": {"transitionStatus": transition, "lastFailureInfo": info}}
    return seen


def test_a_form_that_kserve_does_not_take_has_failed():
    found = judged(model_status("InvalidSpec", reason="RuntimeNotRecognized", message="Waiting for runtime"))
    assert found.state == "failed"
    assert found.reason == (
        "KServe does not take it (InvalidSpec, runtime slipway-cpu): RuntimeNotRecognized: Waiting for runtime"
    )


def test_a_failure_of_the_past_is_not_believed():
    seen = good()
    seen.isvc["status"]["modelStatus"] = {
        "transitionStatus": "UpToDate",
        "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "long ago"},
    }
    assert judged(seen).state == "ready"


def unschedulable(message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu."):
    seen = starting()
    seen.pods[0]["status"] = {
        "phase": "Pending",
        "conditions": [condition("PodScheduled", "False", reason="Unschedulable", message=message)],
    }
    return seen


def test_a_pod_without_a_node_waits_until_the_deadline_and_then_has_failed():
    early, late = judged(unschedulable()), judged(unschedulable(), ready_seconds=30)
    assert early.state == "starting" and late.state == "failed"
    for found in (early, late):
        assert "not scheduled: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu." in found.reason
    assert late.reason.startswith("not ready within 30 s")


def test_an_event_tells_where_no_status_does():
    event = {"reason": "InternalError", "message": "unknown storage scheme"}
    seen = replace(starting(), deployment=None, pods=[], events=[event])
    assert judged(seen).reason == "KServe has made no Deployment yet (InternalError: unknown storage scheme)"
    assert judged(seen, ready_seconds=30).state == "failed"


def test_restarts_of_the_past_do_not_make_a_server_fail():
    seen = good()
    seen.pods[0]["status"]["containerStatuses"][0] |= {
        "restartCount": 7,
        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
    }
    assert judged(seen, now=NOW + 1e6).state == "ready"


def test_a_server_that_was_ready_gets_the_time_to_come_back():
    seen, then = good(), "2026-01-11T00:00:00Z"
    seen.deployment["status"]["availableReplicas"] = 0
    seen.deployment["status"]["conditions"][1] = condition("Available", "False", lastTransitionTime=then)
    seen.pods[0]["status"]["conditions"] = [condition("Ready", "False", lastTransitionTime=then)]
    seen.pods[0]["status"]["containerStatuses"][0] |= {"ready": False, "restartCount": 3}
    ten_days_later = NOW + 10 * 86400
    assert judged(seen, now=ten_days_later - 30).state == "starting"
    assert judged(seen, now=ten_days_later + 3600).state == "failed"


def test_a_pod_that_is_made_again_for_ever_is_late_all_the_same():
    """Each lives for less than the deadline: its node is drained, or it is evicted."""
    seen = starting(state={"running": {}})
    made = "2026-01-01T00:10:00Z"
    seen.pods[0]["metadata"]["creationTimestamp"] = made
    seen.pods[0]["status"]["conditions"] = [condition("Ready", "False", lastTransitionTime=made)]
    assert judged(seen, now=NOW + 30).state == "starting"
    found = judged(seen, now=NOW + 9 * 60 + 30)  # half a minute after this one was made
    assert found.state == "failed" and found.reason.startswith("not ready within 120 s: 0 of 1 pods are ready")


def test_an_evicted_pod_that_was_replaced_does_not_count():
    seen = good()
    evicted = {
        "metadata": {"name": "e", "creationTimestamp": CREATED},
        "status": {"phase": "Failed", "reason": "Evicted", "message": "disk"},
    }
    assert judged(replace(seen, pods=[evicted, *seen.pods])).state == "ready"


def test_endpoints_on_their_way_out_are_none():
    def end(**conditions):
        return {"addresses": ["10.0.0.1"], "conditions": conditions}

    ends = [end(ready=True), end(ready=False), end(ready=True, terminating=True), end()]
    assert ready_endpoints([{"endpoints": ends}, {"endpoints": None}]) == 2
