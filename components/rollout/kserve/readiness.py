"""What is seen of an InferenceService, its Deployment and its pods -> how the release is. Pure.

KServe's own Ready is no witness: it stays True while new pods fail, and it can stay Unknown for ever without a
reason. So the Deployment, the pods and the Service's endpoints are looked at themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from components.rollout.kserve.client import Object
from components.rollout.kserve.objects import AUTOSCALER, PREFIX, backend_of, server_of
from components.rollout.target import Instance, Origin

_NO_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_NO_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_LATE = "ProgressDeadlineExceeded"
_HARMLESS = frozenset({"ContainerCreating", "PodInitializing", ""})
_RESTARTS = 2
"""A server that ended so often before it was ever ready will not be ready."""


@dataclass(frozen=True)
class Seen:
    """Everything of one InferenceService that the cluster shows."""

    isvc: Object
    deployment: Object | None = None
    pods: Sequence[Object] = ()
    slices: Sequence[Object] = ()
    """EndpointSlices of its Service."""

    events: Sequence[Object] = field(default_factory=list[Object])
    """Warnings about any of these, oldest first."""


def instance(digest: str, url: str, seen: Seen, ready_seconds: float, now: float) -> Instance:
    """How a release is. `now` is in seconds since the epoch, by the API server's clock."""
    failure = _failure(seen)
    missing = "" if failure else _missing(seen)
    waited = now - _waiting_since(seen)
    if not failure and missing and waited > ready_seconds:
        failure = f"not ready within {ready_seconds:g} s: {missing}"
    return Instance(
        digest,
        "failed" if failure else "starting" if missing else "ready",
        url,
        failure or missing,
        origin_of(seen.isvc),
        _details(seen),
    )


def ready_endpoints(slices: Sequence[Object]) -> int:
    """Addresses that a Service sends requests to."""
    ends = [end for one in slices for end in _items(one, "endpoints")]
    serving = [end for end in ends if _part(end, "conditions").get("ready") is not False]
    return sum(len(_items(end, "addresses")) for end in serving if not _part(end, "conditions").get("terminating"))


# ------------------------------------------------------------------------------------- what is missing


def _missing(seen: Seen) -> str:
    """What it still waits for; "" when it is really ready."""
    if seen.deployment is None:
        return _with_warning("KServe has made no Deployment yet", seen)
    spec, status = _part(seen.deployment, "spec"), _part(seen.deployment, "status")
    # an autoscaler may add pods at any time; those that were there before serve on
    scaled = _is_scaled(seen.isvc)
    wanted = _fewest(seen.isvc) if scaled else int(spec.get("replicas", 1))
    if status.get("observedGeneration", 0) < _part(seen.deployment, "metadata").get("generation", 0):
        return "the Deployment's newest form is not yet taken up"
    counts = {key: int(status.get(key) or 0) for key in ("updatedReplicas", "availableReplicas", "replicas")}
    if not seen.pods and counts["replicas"] < wanted:
        refused = _condition(seen.deployment, "ReplicaFailure").get("message")
        return f"its pods cannot be made: {refused}" if refused else _with_warning(f"0 of {wanted} pods are made", seen)
    if any(count < wanted or (count > wanted and not scaled) for count in counts.values()):
        waits = next((words for pod in seen.pods if (words := _pod_waits(pod))), "")
        # Kubernetes' own deadline is 600 s whatever is loaded, and ends nothing: the pods go on starting
        late = _condition(seen.deployment, "Progressing").get("reason") == _LATE
        ready = min(counts["updatedReplicas"], counts["availableReplicas"])
        has = f"{ready} of {wanted} pods are ready{f' ({_LATE})' if late else ''}"
        return f"{has}: {waits}" if waits else _with_warning(has, seen)
    predictor = _condition(seen.isvc, "PredictorReady")
    if predictor.get("status") != "True" or predictor.get("reason") == "MinimumReplicasAvailable":
        said = predictor.get("message") or predictor.get("reason") or "nothing yet"
        return f"its pods are ready, but KServe says of its predictor: {said}"
    ends = ready_endpoints(seen.slices)
    if ends < wanted:
        return f"its Service has {ends} of {wanted} endpoints"
    return ""


def _is_scaled(isvc: Object) -> bool:
    return _part(_part(isvc, "metadata"), "annotations").get(AUTOSCALER, "none") != "none"


def _fewest(isvc: Object) -> int:
    return int(_part(_part(isvc, "spec"), "predictor").get("minReplicas", 1))


def _pod_waits(pod: Object) -> str:
    """What one pod waits for, in the scheduler's or the kubelet's words; "" for one that is ready."""
    name = _part(pod, "metadata").get("name", "")
    if _part(pod, "status").get("phase") == "Failed":
        status = _part(pod, "status")
        return f"pod {name} was ended: {status.get('reason', 'Failed')}: {status.get('message', '')}".rstrip(": ")
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"pod {name} is not scheduled: {scheduled.get('message') or scheduled.get('reason')}"
    for status in _statuses(pod, "initContainerStatuses"):
        if not _part(status, "state").get("terminated"):
            return f"pod {name}: {status['name']} brings the release"
    for status in _statuses(pod, "containerStatuses"):
        waiting = _part(_part(status, "state"), "waiting")
        if waiting.get("reason", "") not in _HARMLESS:
            return f"pod {name}: {status['name']}: {waiting['reason']} {waiting.get('message', '')}".rstrip()
        ended = _part(_part(status, "lastState"), "terminated")
        if not status.get("ready") and ended:
            return f"pod {name}: {status['name']} was started again, it ended before: {_ended(ended)}"
    if _condition(pod, "Ready").get("status") != "True":
        return f"pod {name} loads the release, or does not answer /health"
    return ""


def _with_warning(words: str, seen: Seen) -> str:
    """The words, and the latest Event of type Warning, which often is all that tells why."""
    if not seen.events:
        return words
    last = seen.events[-1]
    return f"{words} ({last.get('reason', '')}: {str(last.get('message', ''))[:300]})"


def _waiting_since(seen: Seen) -> float:
    """Since when it might be ready: it was made, or its pods, which had been ready, no longer are.

    New pods alone give it no more time: one that is evicted and made again for ever would never be late.
    """
    changed = _condition(seen.deployment or {}, "Available").get("lastTransitionTime")
    moments = (_part(seen.isvc, "metadata").get("creationTimestamp"), changed)
    return max((_seconds(moment) for moment in moments if moment), default=0.0)


# ------------------------------------------------------------------------------------------ what failed


def _failure(seen: Seen) -> str:
    """What will not mend itself; "" when there is nothing of the kind."""
    if _part(seen.isvc, "metadata").get("deletionTimestamp"):
        return "its InferenceService is being deleted"
    if seen.deployment and _part(seen.deployment, "metadata").get("deletionTimestamp"):
        return "its Deployment is being deleted"
    for pod in _living(seen.pods):
        words = _pod_failure(pod, was_ready=_was_ready(seen.deployment))
        if words:
            return f"pod {pod['metadata']['name']}: {words}"
    return _deployment_failure(seen) or _model_failure(seen)


def _pod_failure(pod: Object, was_ready: bool) -> str:
    for status in _statuses(pod, "initContainerStatuses"):
        if words := _init_failure(status):
            return words
    for status in _statuses(pod, "containerStatuses"):
        if words := _container_failure(status, was_ready):
            return words
    return ""


def _init_failure(status: Object) -> str:
    """The container that fetches the release tries its downloads again itself, so its end is final."""
    waiting = _part(_part(status, "state"), "waiting")
    if words := _cannot_start(status, waiting):
        return words
    ended = _part(_part(status, "state"), "terminated") or _part(_part(status, "lastState"), "terminated")
    return f"{status['name']} could not bring the release: {_ended(ended)}" if ended.get("exitCode") else ""


def _container_failure(status: Object, was_ready: bool) -> str:
    waiting = _part(_part(status, "state"), "waiting")
    if words := _cannot_start(status, waiting):
        return words
    ended = _part(_part(status, "state"), "terminated") or _part(_part(status, "lastState"), "terminated")
    name, restarts = status["name"], int(status.get("restartCount") or 0)
    if status.get("ready"):
        return ""
    if ended.get("reason") == "OOMKilled" and not was_ready:
        return f"{name} was killed: it needs more memory than its limit; raise rollout.kserve.memory ({_ended(ended)})"
    if waiting.get("reason") == "CrashLoopBackOff":
        return f"{name} ends again and again ({restarts} restarts): {_ended(ended)}"
    if restarts >= _RESTARTS and not was_ready:
        return f"{name} ended {restarts} times before it was ready: {_ended(ended)}"
    return ""


def _cannot_start(status: Object, waiting: Object) -> str:
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _NO_IMAGE:
        return f"image {status.get('image') or 'of ' + status['name']} cannot be pulled: {reason}: {message}"
    if reason in _NO_CONTAINER:
        return f"{status['name']} cannot be started: {reason}: {message}"
    return ""


def _ended(ended: Object) -> str:
    """How a container ended: reason, exit code, and what it left as its last words."""
    said = " | ".join(line.strip() for line in str(ended.get("message") or "").splitlines() if line.strip())
    words = f"{ended.get('reason', 'ended')}, exit code {ended.get('exitCode', '?')}"
    return f"{words}: {said[-600:]}" if said else words


def _deployment_failure(seen: Seen) -> str:
    if seen.deployment is None:
        return ""
    refused = _condition(seen.deployment, "ReplicaFailure")
    refusal = str(refused.get("message", ""))
    # A webhook that cannot be asked is back in a moment; one that says no is not.
    if refused.get("status") == "True" and not _living(seen.pods) and "failed calling webhook" not in refusal:
        return f"its pods are refused ({refused.get('reason')}): {refusal}"
    return ""


def _model_failure(seen: Seen) -> str:
    """What KServe says of the model. lastFailureInfo is never cleared, so it counts beside a failing status only."""
    model = _part(_part(seen.isvc, "status"), "modelStatus")
    transition, told = model.get("transitionStatus"), _part(model, "lastFailureInfo")
    words = ": ".join(str(told[key]) for key in ("reason", "message") if told.get(key)) or "no reason given"
    if transition == "InvalidSpec":
        runtime = _part(_part(_part(seen.isvc, "spec"), "predictor"), "model").get("runtime")
        return f"KServe does not take it (InvalidSpec, runtime {runtime}): {words}"
    if transition == "BlockedByFailedLoad" and not seen.pods:  # where there are pods, it is made of their states
        return f"KServe says that its model failed to load: {words}"
    return ""


# ---------------------------------------------------------------------------------------- for the reader


def origin_of(isvc: Object) -> Origin:
    noted = cast("dict[str, str]", _part(isvc, "metadata").get("annotations") or {})
    keys = ("run", "run-id", "commit", "data-digest")
    return Origin(*(noted.get(f"{PREFIX}{key}", "") for key in keys))


def _details(seen: Seen) -> dict[str, Any]:
    name = _part(seen.isvc, "metadata").get("name", "")
    pods = [
        {
            "pod": pod["metadata"]["name"],
            "node": _part(pod, "spec").get("nodeName", ""),
            "phase": _part(pod, "status").get("phase", ""),
            "restarts": sum(int(one.get("restartCount") or 0) for one in _statuses(pod, "containerStatuses")),
        }
        for pod in seen.pods
    ]
    containers = {one["name"] for pod in seen.pods for one in _statuses(pod, "containerStatuses")}
    return {"inference_service": name, "service": backend_of(name), "container": server_of(containers), "pods": pods}


# ------------------------------------------------------------------------------------------ small parts


def _was_ready(deployment: Object | None) -> bool:
    """Whether all of its pods were ready once."""
    progress = _condition(deployment or {}, "Progressing")
    return progress.get("reason") == "NewReplicaSetAvailable"


def _living(pods: Sequence[Object]) -> list[Object]:
    """Pods that are neither on their way out nor ended (evicted ones stay and are replaced)."""
    return [
        pod
        for pod in pods
        if not _part(pod, "metadata").get("deletionTimestamp") and _part(pod, "status").get("phase") != "Failed"
    ]


def _part(found: Object, key: str) -> Object:
    return cast("Object", found.get(key) or {})


def _items(found: Object, key: str) -> list[Object]:
    return cast("list[Object]", found.get(key) or [])


def _statuses(pod: Object, key: str) -> list[Object]:
    return _items(_part(pod, "status"), key)


def _condition(found: Object, kind: str) -> Object:
    listed = _items(_part(found, "status"), "conditions")
    return next((one for one in listed if one.get("type") == kind), Object())


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
