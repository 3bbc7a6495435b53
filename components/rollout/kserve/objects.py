"""What the rollout writes into the cluster, as plain objects. Pure.

An InferenceService is named for one release, and only its settings may change. All else that changes stands on the
service's HTTPRoute: its weights, and in its annotations which release has which role.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from components.rollout.config import KServeConfig, RolloutConfig
from components.rollout.kserve.client import (
    DISRUPTION_BUDGET,
    GATEWAY,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    MANAGER,
    Kind,
    Object,
)

PREFIX = "slipway.dev/"
MANAGED_BY = "app.kubernetes.io/managed-by"
SERVICE = f"{PREFIX}service"
RELEASE = f"{PREFIX}release"
SETTINGS = f"{PREFIX}settings"
AUTOSCALER = "serving.kserve.io/autoscalerClass"
ISVC_LABEL = "serving.kserve.io/inferenceservice"
"""KServe's, on the pods of an InferenceService."""

CONTAINER = "kserve-container"
FRONT = "transformer-container"
"""Where vLLM computes, KServe's name for what stands before it in the same pod: our server."""

_RUNTIMES = {"vllm": "slipway-gpu"}
_RUNTIME = "slipway-cpu"
"""ServingRuntimes of manifests/, by the engine of a release."""

PORT = 80
"""Of the Service that KServe makes before the pods."""

NOBODY = "slipway-nobody"
"""A Service without servers (manifests/base/nobody.yaml): gateways answer 503 for it, or 500 where it is missing."""

_ACCOUNT = "predictor"
"""The ServiceAccount of model servers (manifests/base/accounts.yaml)."""

_PRIORITY = "slipway-serving"
"""The PriorityClass of model servers (manifests/base/priorities.yaml): steps of a pipeline make room for them."""

_FETCH = "slipway"
"""The ClusterStorageContainer of the verified fetch. KServe's own one takes gs:// too, and the first match wins."""

_NAME_DIGITS = 10
_HISTORY = 20
_FORMAT = "slipway"
"""The model format that our ServingRuntimes list."""


def short(digest: str) -> str:
    """The digits of a release's digest that stand in names and labels."""
    return digest.removeprefix("sha256:")[:_NAME_DIGITS]


def name_of(service: str, digest: str) -> str:
    """The InferenceService of a release."""
    return f"{service}-{short(digest)}"


def backend_of(name: str) -> str:
    """The Service (and Deployment) that KServe makes for an InferenceService."""
    return f"{name}-predictor"


def release_uri(releases: str, digest: str) -> str:
    """Where a release is published; the last segment is its digest, which the fetch verifies."""
    return f"{releases.rstrip('/')}/{digest.removeprefix('sha256:')}"


def labels(service: str) -> dict[str, str]:
    """What everything of a service bears."""
    return {MANAGED_BY: MANAGER, SERVICE: service}


@dataclass(frozen=True)
class Address:
    """Where the public meets a release: the settings of the same names."""

    gateway: str
    hostname: str


# ------------------------------------------------------------------------------------------- the record


@dataclass(frozen=True)
class WentLive:
    """One entry of the history."""

    digest: str
    since: str
    run_id: str
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The rollout configuration that it had when it was replaced, by which it may return; {} until then."""


@dataclass(frozen=True)
class Record:
    """What the annotations of the HTTPRoute say; who has which role."""

    stable: str | None = None
    candidate: str | None = None
    stopped: str | None = None
    """The stable release when its servers were ended on purpose."""

    rejected: str = ""
    """Why the candidate is to go; "" while it may go live."""

    state: str = ""
    reason: str = ""
    since: str = ""
    history: tuple[WentLive, ...] = ()
    """Oldest first; the last is live."""

    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The rollout configuration by which the stable release went live, and by which it is started again."""

    candidate_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """That of the rollout at work; it becomes `config` when the candidate is promoted."""

    asked_config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """That to which the stable release is being changed; it becomes `config` when it serves by it."""

    @property
    def latest_config(self) -> Mapping[str, Any]:
        """The configuration of the rollout at work, else the one that is live; {} before the first."""
        return self.candidate_config or self.asked_config or self.config

    @property
    def previous(self) -> str | None:
        """The release that was live before the stable one."""
        return next((entry.digest for entry in reversed(self.history) if entry.digest != self.stable), None)

    def replaced_by(self, entry: WentLive, config: Mapping[str, Any]) -> Record:
        """The record once another release is live; that which was leaves its configuration in the history."""
        past = [replace(one, config=self.config) for one in self.history[-1:] if one.digest == self.stable]
        history = (*self.history[: len(self.history) - len(past)], *past, entry)
        return replace(self, stable=entry.digest, stopped=None, history=history, config=config, asked_config={})

    def annotations(self) -> dict[str, str]:
        """As they stand on the route; what is empty is left out."""
        history = [vars(entry) for entry in self.history[-_HISTORY:]]
        values = {
            "stable": self.stable,
            "candidate": self.candidate,
            "stopped": self.stopped,
            "rejected": self.rejected,
            "state": self.state,
            "reason": self.reason,
            "since": self.since,
            "history": json.dumps(history) if history else "",
            "config": json.dumps(self.config, sort_keys=True) if self.config else "",
            "candidate-config": json.dumps(self.candidate_config, sort_keys=True) if self.candidate_config else "",
            "asked-config": json.dumps(self.asked_config, sort_keys=True) if self.asked_config else "",
        }
        return {f"{PREFIX}{key}": value for key, value in values.items() if value}


def read_record(route: Object | None) -> Record:
    """The record on a route. Raises ValueError that names the annotation that a person has made unreadable."""
    noted = _part(_part(route or {}, "metadata"), "annotations")

    def text(key: str) -> str:
        return noted.get(f"{PREFIX}{key}", "")

    def parsed(key: str) -> Any:
        try:
            return json.loads(text(key) or "null")
        except ValueError as error:
            raise ValueError(f"annotation {PREFIX}{key} is not JSON: {error}") from error

    try:
        history = tuple(WentLive(**entry) for entry in cast("list[dict[str, Any]]", parsed("history") or []))
    except TypeError as error:
        raise ValueError(f"annotation {PREFIX}history has entries of another form: {error}") from error
    return Record(
        stable=text("stable") or None,
        candidate=text("candidate") or None,
        stopped=text("stopped") or None,
        rejected=text("rejected"),
        state=text("state"),
        reason=text("reason"),
        since=text("since"),
        history=history,
        config=parsed("config") or {},
        candidate_config=parsed("candidate-config") or {},
        asked_config=parsed("asked-config") or {},
    )


# ------------------------------------------------------------------------------------------- the objects


def inference_service(config: RolloutConfig, namespace: str, digest: str, facts: Mapping[str, str]) -> Object:
    """The InferenceService of a release. `facts` (run, commit, …) stand as annotations for whoever looks."""
    kserve, name = config.kserve, name_of(config.service, digest)
    limits: dict[str, str] = {"memory": kserve.memory}
    if kserve.gpus:
        limits["nvidia.com/gpu"] = str(kserve.gpus)
    model: Object = {
        "modelFormat": {"name": _FORMAT},
        "runtime": kserve.runtime or _RUNTIMES.get(config.serving.engine, _RUNTIME),
        "storageUri": release_uri(kserve.releases, digest),
        # processor time that nobody else asks for makes answers faster; a limit would only take it away
        "resources": {"requests": {"cpu": kserve.cpu, **limits}, "limits": limits},
    }
    server: Object = {"env": [{"name": "SLIPWAY_DRAIN_SECONDS", "value": str(_whole(config.drain_seconds))}]}
    if kserve.image:
        server["image"] = kserve.image
    predictor: Object = {
        "minReplicas": kserve.replicas,
        "maxReplicas": kserve.max_replicas or kserve.replicas,
        "serviceAccountName": _ACCOUNT,
        "priorityClassName": _PRIORITY,
        "terminationGracePeriodSeconds": kserve.grace_seconds,
        "deploymentStrategy": _pod_replacement(config.strategy),
        "storageContainerName": _FETCH,
        "enableServiceLinks": False,
        "model": model,
    }
    if config.serving.engine == "vllm":
        model["env"] = [{"name": "SLIPWAY_GPUS", "value": str(kserve.gpus)}]
        predictor["containers"] = [{"name": FRONT, **server}]
    else:
        model.update(server)
    if kserve.max_replicas:
        predictor["autoScaling"] = {"metrics": [_load(kserve, namespace, name)]}
    if kserve.node_selector:
        predictor["nodeSelector"] = dict(kserve.node_selector)
    if kserve.tolerations:
        predictor["tolerations"] = [dict(one) for one in kserve.tolerations]
    return {
        "apiVersion": INFERENCE_SERVICE.version,
        "kind": INFERENCE_SERVICE.name,
        "metadata": {
            "name": name,
            "namespace": namespace,
            # cluster-local: KServe makes no route of its own, and is ready without one
            "labels": labels(config.service)
            | {RELEASE: short(digest), "networking.kserve.io/visibility": "cluster-local"},
            "annotations": {
                "serving.kserve.io/deploymentMode": "Standard",
                AUTOSCALER: "keda" if kserve.max_replicas else "none",
                "storage.kserve.io/readonly": "false",  # OpenVINO opens a GGUF file for writing, though it only reads
                f"{PREFIX}digest": digest,
                SETTINGS: _pod_settings(predictor),
                **{f"{PREFIX}{key}": value for key, value in facts.items() if value},
            },
        },
        "spec": {"predictor": predictor},
    }


def _pod_settings(predictor: Object) -> str:
    """Differs where pods do; KServe hands it down to the Deployment's template, and so to them.

    Their number is left out, since no pod is made anew for another.
    """
    of_the_whole = ("minReplicas", "maxReplicas", "autoScaling", "deploymentStrategy")
    of_pods = {key: value for key, value in predictor.items() if key not in of_the_whole}
    return hashlib.sha256(json.dumps(of_pods, sort_keys=True).encode()).hexdigest()[:_NAME_DIGITS]


def same_pods(one: Object, other: Object) -> bool:
    """Whether two InferenceServices, or what KServe makes of them, have pods of the same settings."""
    return settings_of(one) == settings_of(other)


def settings_of(found: Object) -> str:
    """The mark of the settings that something of a release was made by."""
    return str(_part(_part(found, "metadata"), "annotations").get(SETTINGS, ""))


def is_taken_up(isvc: Object, deployment: Object | None) -> bool:
    """Whether the Deployment is what the InferenceService says, and its controller has seen that.

    No status tells: KServe's observedGeneration is the Deployment's.
    """
    spec, wanted = _part(deployment or {}, "spec"), int(_part(_part(isvc, "spec"), "predictor").get("minReplicas", 1))
    scaled = _part(_part(isvc, "metadata"), "annotations").get(AUTOSCALER, "none") != "none"
    seen = _part(deployment or {}, "status").get("observedGeneration", 0)
    is_seen = seen >= _part(deployment or {}, "metadata").get("generation", 0)
    return is_seen and same_pods(isvc, _part(spec, "template")) and (scaled or spec.get("replicas") == wanted)


def updated_pods(deployment: Object | None) -> int:
    """How many pods of its newest form a Deployment has."""
    return int(_part(deployment or {}, "status").get("updatedReplicas") or 0)


def differences(was: RolloutConfig, asked: RolloutConfig) -> str:
    """The settings that would have a release serve otherwise, or elsewhere, each with both values; "" without any."""
    before, words = _made(was), list[str]()
    for name in ("drain_seconds", "strategy"):
        old, new = getattr(was, name), getattr(asked, name)
        if old != new and _made(was.model_copy(update={name: new})) != before:
            words.append(f"{name} {old} → {new}")
    for name in KServeConfig.model_fields:
        old, new = getattr(was.kserve, name), getattr(asked.kserve, name)
        one = was.model_copy(update={"kserve": was.kserve.model_copy(update={name: new})})
        if old != new and (name in ("gateway", "hostname") or _made(one) != before):
            words.append(f"kserve.{name} {old or 'none'} → {new or 'none'}")
    return ", ".join(words)


def _made(config: RolloutConfig) -> Object:
    return inference_service(config, "", "", {})


def has_other_pods(was: RolloutConfig, asked: RolloutConfig) -> bool:
    """Whether a change of settings makes a release's pods anew."""
    return not same_pods(_made(was), _made(asked))


def facts_of(isvc: Object) -> dict[str, str]:
    """The facts that an InferenceService was made with; see inference_service."""
    noted = cast("dict[str, str]", _part(_part(isvc, "metadata"), "annotations"))
    own = {key: value for key, value in noted.items() if key not in (f"{PREFIX}digest", SETTINGS)}
    return {key.removeprefix(PREFIX): value for key, value in own.items() if key.startswith(PREFIX)}


def _load(kserve: KServeConfig, namespace: str, name: str) -> Object:
    """What KEDA is to look at: the requests that a release's pods have, answered or waiting."""
    pods = f'{{namespace="{namespace}",pod=~"{backend_of(name)}-.*"}}'
    query = " + ".join(f"sum({gauge}{pods})" for gauge in ("slipway_requests_running", "slipway_queue_depth"))
    metric = {"backend": "prometheus", "serverAddress": kserve.prometheus, "query": query}
    # KServe gives KEDA the value as `threshold`, which KEDA takes as the average over the pods
    target = {"type": "Value", "value": str(kserve.requests_per_replica)}
    return {"type": "External", "external": {"metric": metric, "target": target}}


def _pod_replacement(strategy: str) -> Object:
    """How the Deployment replaces its pods when their settings change."""
    if strategy == "replace":  # no room for two
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def _whole(seconds: float) -> int:
    return -int(-seconds // 1)


def disruption_budget(isvc: Object) -> Object | None:
    """How many of a release's pods may be evicted at a time. None for one pod: a budget could only hold up its node."""
    if int(isvc["spec"]["predictor"].get("minReplicas", 1)) < 2:
        return None
    selector = {"matchLabels": {ISVC_LABEL: isvc["metadata"]["name"]}}
    return _beside(DISRUPTION_BUDGET, isvc, {"maxUnavailable": 1, "selector": selector})


def backend_policy(kind: Kind, isvc: Object, spec: Object) -> Object:
    """A gateway's policy for a release's Service; `spec` is the whole of it but its target (GEP-713)."""
    target = {"group": "", "kind": "Service", "name": backend_of(isvc["metadata"]["name"])}
    return _beside(kind, isvc, {**spec, "targetRef": target})


def asks_for_sign_in(spec: Object | None) -> bool:
    """Whether a GCPBackendPolicy puts Identity-Aware Proxy before a release."""
    return _part(_part(spec or {}, "default"), "iap").get("enabled") is True


def names_its_client(spec: Object) -> bool:
    """Whether its proxy can sign anybody in: GKE takes no client of Google's own (gke-gateway-api, issue 57)."""
    proxy = _part(_part(spec, "default"), "iap")
    return bool(proxy.get("clientID") and _part(proxy, "oauth2ClientSecret").get("name"))


def sign_in_attached(policy: Object | None) -> tuple[bool | None, str]:
    """Whether the gateway has taken up a policy that asks for sign-in, and in words; None while it says nothing."""
    found = policy or {}
    if not asks_for_sign_in(_part(found, "spec")):
        return False, "it is not there, or asks nobody to sign in"
    conditions = cast("list[Object]", _part(found, "status").get("conditions") or [])
    said = next((one for one in conditions if one["type"] == "Attached"), None)
    generation = _part(found, "metadata").get("generation", 0)
    if said is None or said.get("observedGeneration", generation) < generation:
        return None, "the gateway has not taken it up"
    return said["status"] == "True", f"Attached is {said['status']}: {said.get('reason')}: {said.get('message')}"


def _beside(kind: Kind, isvc: Object, spec: Object) -> Object:
    """An object that goes when the InferenceService goes."""
    metadata = isvc["metadata"]
    owner = {"apiVersion": isvc["apiVersion"], "kind": isvc["kind"], "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": kind.version,
        "kind": kind.name,
        "metadata": {
            "name": backend_of(metadata["name"]),
            "namespace": metadata["namespace"],
            "labels": {key: metadata["labels"][key] for key in (MANAGED_BY, SERVICE, RELEASE)},
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def route(
    config: RolloutConfig,
    namespace: str,
    record: Record,
    weights: Mapping[str, int],
    version: str = "",
    addresses: Collection[Address] = (),
) -> Object:
    """The service's HTTPRoute. Weight 0 is left out: some gateways send such a backend requests all the same.

    Without any weight it leads to NOBODY, so that a service whose release is out keeps its address; detached, its
    requests would go to a service that takes every host. What was never live has no address to keep, and is attached
    to no gateway. `version` is the resourceVersion that it replaces. It is met at `addresses`, by default at that of
    the configuration.
    """
    gateways, hostnames = together(addresses or [Address(config.kserve.gateway, config.kserve.hostname)])
    shares = {backend_of(name_of(config.service, digest)): weight for digest, weight in weights.items() if weight}
    if not shares and record.stable:
        shares = {NOBODY: 1}
    backends: list[Object] = [
        {"group": "", "kind": "Service", "name": name, "port": PORT, "weight": weight}
        for name, weight in shares.items()
    ]
    rule: Object = {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}
    spec: Object = {"rules": [rule]}
    if backends:
        rule["backendRefs"] = backends
        group = GATEWAY.version.partition("/")[0]
        spec["parentRefs"] = [
            {"group": group, "kind": GATEWAY.name, "namespace": space, "name": name}
            for space, _, name in (one.partition("/") for one in gateways)
        ]
    if hostnames:
        spec["hostnames"] = hostnames
    metadata: Object = {
        "name": config.service,
        "namespace": namespace,
        "labels": labels(config.service),
        "annotations": record.annotations(),
    }
    if version:
        metadata["resourceVersion"] = version
    return {"apiVersion": HTTP_ROUTE.version, "kind": HTTP_ROUTE.name, "metadata": metadata, "spec": spec}


def together(addresses: Collection[Address]) -> tuple[list[str], list[str]]:
    """Gateways and hostnames of a route that is met at several addresses; no hostname means every host."""
    gateways = list(dict.fromkeys(one.gateway for one in addresses))
    hostnames = list(dict.fromkeys(one.hostname for one in addresses))
    return gateways, [] if "" in hostnames else hostnames


def weights_of(found: Object | None) -> dict[str, int]:
    """Name of a backend Service -> its weight, as a route stands, without NOBODY; several rules are added up."""
    rules = cast("list[Object]", _part(found or {}, "spec").get("rules") or [])
    seen: dict[str, int] = {}
    for backend in (one for rule in rules for one in cast("list[Object]", rule.get("backendRefs") or [])):
        name, weight = str(backend["name"]), int(backend.get("weight", 1))
        if weight and name != NOBODY:
            seen[name] = seen.get(name, 0) + weight
    return seen


def server_of(names: Collection[str]) -> str:
    """Which of a pod's containers is our server."""
    return FRONT if FRONT in names else CONTAINER


def _part(found: Object, key: str) -> Object:
    return cast("Object", found.get(key) or {})


def has_traffic(found: Object | None) -> bool:
    """Whether a gateway sends somebody requests by a route."""
    return bool(_part(found or {}, "spec").get("parentRefs") and weights_of(found))


def takes(found: Object, address: Address) -> bool:
    """Whether a route has a gateway with this very hostname, or likewise without one."""
    hostnames = cast("list[str]", _part(found, "spec").get("hostnames") or [""])
    return address.gateway in _gateways(found) and address.hostname in hostnames


def carries(found: Object | None, address: Address) -> bool:
    """Whether requests to an address reach a route, as far as it says so itself."""
    hostnames = cast("list[str]", _part(found or {}, "spec").get("hostnames") or [])
    return address.gateway in _gateways(found or {}) and (not hostnames or address.hostname in hostnames)


def _gateways(found: Object) -> set[str]:
    own = _part(found, "metadata").get("namespace", "")
    parents = cast("list[Object]", _part(found, "spec").get("parentRefs") or [])
    return {f"{one.get('namespace', own)}/{one['name']}" for one in parents}


def event(about: Object, reason: str, message: str, when: str, unique: str, warning: bool) -> Object:
    """A Kubernetes Event about an object."""
    metadata = about["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{unique}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata.get("uid", ""),
        },
        "reason": reason,
        "message": message[:1024],  # the API refuses more
        "type": "Warning" if warning else "Normal",
        "source": {"component": MANAGER},
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }
