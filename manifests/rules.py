"""What rendered manifests must hold, whatever environment they are for.

    kubectl kustomize manifests/overlays/gke-dev | python -m manifests.rules

prints what is wrong, a line each, and exits with 1. Every rule is a function from objects to sentences; RULES has them
all, and tests plant a mistake for each. Schemas are another matter (tests/manifests/schemas.py).
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import yaml

Object = dict[str, Any]

IMAGE = re.compile(r"[a-z0-9][^@\s]*/[^@\s]+@sha256:(?!0{64})[0-9a-f]{64}")
"""REGISTRY/REPOSITORY@sha256:DIGEST: only a digest says what runs."""

GOOGLE_ACCOUNT = "iam.gke.io/gcp-service-account"
_EMAIL = re.compile(r"[a-z0-9-]+@[a-z0-9-]+\.iam\.gserviceaccount\.com")
ACTS_AS = {"slipway-pipelines/pipeline-step", "slipway-pipelines/rollout-janitor", "slipway-serving/predictor"}
"""Accounts of ours that act as a Google account (terraform/environments/gke/identities.tf)."""

_SUBMITTER = "submitter"
"""Name of the rights of GitHub's jobs (components/gke/submitter.yaml): a Google account, which forwards a port."""

PUBLIC_CLASSES = ("gke-l7-global-external-managed", "gke-l7-regional-external-managed", "gke-l7-gxlb")
PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
)
_CLOSED = {"secrets", "roles", "rolebindings", "clusterroles", "clusterrolebindings", "serviceaccounts", "nodes"}
_CLOSED |= {"namespaces", "pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers"}
_CLOSED_VERBS = {"impersonate", "escalate", "bind", "deletecollection"}
_MODES = ("enforce", "warn", "audit")
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_POD_KINDS = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"}


def name_of(one: Object) -> str:
    """Kind namespace/name, for a reader."""
    metadata = one["metadata"]
    return f"{one['kind']} {'/'.join(filter(None, (metadata.get('namespace'), metadata['name'])))}"


def of_kind(objects: Iterable[Object], *kinds: str) -> Iterator[Object]:
    return (one for one in objects if one["kind"] in kinds)


# ------------------------------------------------------------------------------------------- pods


def pod_of(one: Object) -> Object | None:
    """The pod's spec in an object that makes pods, or joins them; None for the others."""
    spec = one.get("spec", {})
    match one["kind"]:
        case "ClusterStorageContainer":  # joins the pods of a ServingRuntime
            return {"containers": [spec["container"]]}
        case "ServingRuntime" | "ClusterServingRuntime" | "Pod":
            return spec
        case "CronJob":
            return spec["jobTemplate"]["spec"]["template"]["spec"]
        case kind if kind in _POD_KINDS:
            return spec["template"]["spec"]
    return None


def containers(objects: Iterable[Object]) -> Iterator[tuple[str, Object, Object, Object]]:
    """(where, object, pod's spec, container) of every container."""
    for one in objects:
        pod = pod_of(one)
        if pod:
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                yield f"{name_of(one)}, container {container['name']}", one, pod, container


def loose(pod: Object, container: Object) -> list[str]:
    """What a container lacks of Pod Security `restricted`, and of a root file system that nobody writes to."""
    context = pod.get("securityContext", {}) | container.get("securityContext", {})
    asked = {
        "runAsNonRoot": context.get("runAsNonRoot") is True,
        "runAsUser": isinstance(context.get("runAsUser"), int) and context["runAsUser"] > 0,
        "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
        "privileged": not context.get("privileged"),
        "capabilities.drop": context.get("capabilities", {}).get("drop") == ["ALL"],
        "capabilities.add": not context.get("capabilities", {}).get("add"),
        "seccompProfile": context.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        "readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is True,
    }
    return [name for name, holds in asked.items() if not holds]


def unrestricted(objects: list[Object]) -> Iterator[str]:
    for where, _, pod, container in containers(objects):
        for name in loose(pod, container):
            yield f"{where}: {name} is not as Pod Security `restricted` and this project ask"
    for one in objects:
        pod = pod_of(one) or {}
        for name in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(name):
                yield f"{name_of(one)}: {name} lets a pod out of its box"
        for volume in pod.get("volumes", []):
            if "hostPath" in volume:
                yield f"{name_of(one)}: volume {volume['name']} is a folder of the node"


def unpinned_images(objects: list[Object]) -> Iterator[str]:
    for where, _, _, container in containers(objects):
        if not IMAGE.fullmatch(container["image"]):
            yield f"{where}: image {container['image']} is not REGISTRY/REPOSITORY@sha256:DIGEST"
        if container.get("imagePullPolicy") != "IfNotPresent":
            yield f"{where}: imagePullPolicy is not IfNotPresent, so that a registry's outage stops a restart"


def unlimited(objects: list[Object]) -> Iterator[str]:
    for where, _, _, container in containers(objects):
        resources = container.get("resources", {})
        for kind, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if name not in resources.get(kind, {}):
                yield f"{where}: resources.{kind}.{name} is not there"
        if "cpu" in resources.get("limits", {}):
            yield f"{where}: a limit of processor time takes away only what nobody else wants"


def unprobed(objects: list[Object]) -> Iterator[str]:
    """Servers that nobody asks how they are, or that end while requests still come."""
    for where, one, _, container in containers(objects):
        if one["kind"] in ("Job", "CronJob", "ClusterStorageContainer"):
            continue
        ports = {port["containerPort"] for port in container.get("ports", [])}
        for probe in _PROBES:
            asked = container.get(probe, {})
            port = (asked.get("httpGet") or asked.get("tcpSocket") or {}).get("port")
            if port not in ports and not asked.get("exec", {}).get("command"):
                yield f"{where}: {probe} is not there, or asks where nothing listens"
        if "preStop" not in container.get("lifecycle", {}):
            yield f"{where}: no preStop, so that it ends while gateways still send requests"


def with_a_token(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "ServiceAccount"):
        if one.get("automountServiceAccountToken") is not False:
            yield f"{name_of(one)}: pods mount its token without saying so"


# ------------------------------------------------------------------------------------------- rights


def wide_rights(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "ClusterRole", "ClusterRoleBinding"):
        yield f"{name_of(one)}: rights end at a namespace"
    for one in of_kind(objects, "Role"):
        for rule in one["rules"]:
            words = [*rule.get("apiGroups", []), *rule.get("resources", []), *rule["verbs"]]
            for word in words:
                if "*" in word:
                    yield f"{name_of(one)}: {word!r} gives what nobody has looked at"
            allowed = {"pods/portforward"} if one["metadata"]["name"] == _SUBMITTER else set()
            closed = _CLOSED.intersection(rule.get("resources", [])) - allowed
            for word in closed | _CLOSED_VERBS.intersection(rule["verbs"]):
                yield f"{name_of(one)}: {word} would undo the separation"
    for one in of_kind(objects, "RoleBinding"):
        for subject in one["subjects"]:
            submits = one["metadata"]["name"] == _SUBMITTER and _EMAIL.fullmatch(subject["name"])
            if subject["kind"] != "ServiceAccount" and not submits:
                yield f"{name_of(one)}: {subject['kind']} {subject['name']} is no account of the cluster"


def google_accounts(objects: list[Object]) -> Iterator[str]:
    """On GKE: exactly the accounts that Terraform knows act as Google accounts."""
    if not _on_gke(objects):
        return
    for one in of_kind(objects, "ServiceAccount"):
        account = f"{one['metadata']['namespace']}/{one['metadata']['name']}"
        given = one["metadata"].get("annotations", {}).get(GOOGLE_ACCOUNT)
        if account in ACTS_AS and not _EMAIL.fullmatch(given or ""):
            yield f"{name_of(one)}: {GOOGLE_ACCOUNT} is {given!r}, no Google account; see platform.env"
        if account not in ACTS_AS and given is not None:
            yield f"{name_of(one)}: {GOOGLE_ACCOUNT} is {given!r}, and Terraform gives it none"


# ------------------------------------------------------------------------------------------- network


def open_policies(objects: list[Object]) -> Iterator[str]:
    """Policies that let in or out more than they name."""
    for one in of_kind(objects, "NetworkPolicy"):
        where = name_of(one)
        for rule in one["spec"].get("ingress", []):
            if not rule.get("from") and not _is_the_gateways(one):
                yield f"{where}: lets everybody in"
            yield from _open_blocks(where, rule.get("from", []))
        for rule in one["spec"].get("egress", []):
            if not rule.get("to"):
                yield f"{where}: lets out to everywhere"
            if not rule.get("ports"):
                yield f"{where}: lets out to every port"
            yield from _open_blocks(where, rule.get("to", []))


def _is_the_gateways(policy: Object) -> bool:
    """A gateway that runs as pods is the public door itself."""
    selector = policy["spec"]["podSelector"].get("matchLabels", {})
    return "gateway.networking.k8s.io/gateway-name" in selector


def _open_blocks(where: str, peers: list[Object]) -> Iterator[str]:
    for peer in peers:
        if not peer or peer.get("namespaceSelector") == {}:
            yield f"{where}: names every namespace"
        if peer.get("podSelector") == {} and "namespaceSelector" not in peer:
            yield f"{where}: names every pod of its namespace"
        if "ipBlock" in peer:
            block = ipaddress.ip_network(peer["ipBlock"]["cidr"])
            kept_out = {ipaddress.ip_network(text) for text in peer["ipBlock"].get("except", [])}
            for private in PRIVATE if block.prefixlen < 8 else ():
                if private not in kept_out:
                    yield f"{where}: {block} holds {private}, the cluster's own network or the metadata server"


def undenied(objects: list[Object]) -> Iterator[str]:
    """Namespaces where a pod that no policy names may speak to anybody."""
    closed = {
        one["metadata"]["namespace"]
        for one in of_kind(objects, "NetworkPolicy")
        if one["spec"]["podSelector"] == {}
        and set(one["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        and not one["spec"].get("ingress")
        and not one["spec"].get("egress")
    }
    for one in of_kind(objects, "Namespace"):
        if one["metadata"]["name"] not in closed:
            yield f"{name_of(one)}: no policy denies what the others do not allow"


# ------------------------------------------------------------------------------------------- namespaces


def lax_namespaces(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "Namespace"):
        labels = one["metadata"].get("labels", {})
        for mode in _MODES:
            level = labels.get(f"pod-security.kubernetes.io/{mode}")
            version = labels.get(f"pod-security.kubernetes.io/{mode}-version", "")
            if level != "restricted" or not re.fullmatch(r"v1\.\d+", version):
                yield f"{name_of(one)}: Pod Security {mode} is {level} {version}, not restricted at a version"


def unbounded_namespaces(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "Namespace"):
        for kind in ("ResourceQuota", "LimitRange"):
            held = [
                other for other in of_kind(objects, kind) if other["metadata"]["namespace"] == one["metadata"]["name"]
            ]
            if len(held) != 1:
                yield f"{name_of(one)}: has {len(held)} {kind}s, not one"
    for one in of_kind(objects, "ResourceQuota"):
        for name in ("services.loadbalancers", "services.nodeports"):
            if one["spec"]["hard"].get(name) != "0":
                yield f"{name_of(one)}: {name} is not 0; the one door is the Gateway"


# ------------------------------------------------------------------------------------------- the door


def _on_gke(objects: list[Object]) -> bool:
    return any(one["spec"].get("gatewayClassName", "").startswith("gke-") for one in of_kind(objects, "Gateway"))


def public_doors(objects: list[Object]) -> Iterator[str]:
    """A public gateway that speaks without TLS, or to anybody who knows its address."""
    policies = {one["spec"]["targetRef"]["name"]: one for one in of_kind(objects, "GCPGatewayPolicy")}
    for one in of_kind(objects, "Gateway"):
        if one["spec"]["gatewayClassName"] not in PUBLIC_CLASSES:
            continue
        where, spec = name_of(one), one["spec"]
        if not one["metadata"].get("annotations", {}).get("networking.gke.io/certmap"):
            yield f"{where}: no certificate map; without an edge take components/gke-internal"
        if not all(address.get("value") for address in spec.get("addresses", [{}])):
            yield f"{where}: no address of its own; without an edge take components/gke-internal"
        for listener in spec["listeners"]:
            takes = listener["allowedRoutes"]["namespaces"]["from"]
            if listener["protocol"] == "HTTP" and takes != "Same":
                yield f"{where}: listener {listener['name']} takes services' routes without TLS"
            if listener["protocol"] == "HTTPS" and not listener.get("hostname"):
                yield f"{where}: listener {listener['name']} has no host name"
        if not policies.get(one["metadata"]["name"], {}).get("spec", {}).get("default", {}).get("sslPolicy"):
            yield f"{where}: no policy says which versions of TLS it speaks"
        yield from _backends(where, objects)


def _backends(where: str, objects: list[Object]) -> Iterator[str]:
    """What a public gateway's backends must have: Cloud Armor, and a sign-in where Terraform has not left it out."""
    texts = [one["data"] for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"] == "backend-policies"]
    if not texts:
        yield f"{where}: no ConfigMap backend-policies says how releases are treated"
        return
    policy = yaml.safe_load(texts[0]["GCPBackendPolicy"])["default"]
    if not policy.get("securityPolicy"):
        yield f"{where}: no Cloud Armor policy limits the rate of requests"
    if not isinstance(policy.get("iap", {}).get("enabled"), bool):
        yield f"{where}: nothing says whether Identity-Aware Proxy stands before it"
    elif policy["iap"]["enabled"]:
        if not policy["iap"].get("clientID"):
            yield f"{where}: Identity-Aware Proxy has no OAuth client (edge.iap_client_id), so that it is not in force"
        if not policy["iap"].get("oauth2ClientSecret", {}).get("name"):
            yield f"{where}: Identity-Aware Proxy names no Secret of its OAuth client, so that it is not in force"


def other_doors(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "Service"):
        if one["spec"].get("type", "ClusterIP") != "ClusterIP" or one["spec"].get("externalIPs"):
            yield f"{name_of(one)}: is reached past the Gateway"
    for one in of_kind(objects, "Ingress"):
        yield f"{name_of(one)}: is a second door; the one door is the Gateway"


# ------------------------------------------------------------------------------------------- references and values


def left_open(objects: list[Object]) -> Iterator[str]:
    """Places that platform.env or images.env should have filled."""
    for one in objects:
        for path, value in _texts(one):
            if value == "" and not path.endswith(("apiGroup", "apiGroups.0", "group")):
                yield f"{name_of(one)}: {path} is empty; see platform.env"
            if re.search(r"PLATFORM_[A-Z]|SLIPWAY_IMAGE_|sha256:DIGEST|192\.0\.2\.0/24", value):
                yield f"{name_of(one)}: {path} still is {value[:60]!r}"


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _texts(inner, f"{path}.{key}".removeprefix("."))


def broken_references(objects: list[Object]) -> Iterator[str]:
    known = {(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects}

    def missing(kind: str, namespace: str | None, name: str) -> bool:
        return (kind, namespace, name) not in known

    for one in objects:
        where, namespace, spec = name_of(one), one["metadata"].get("namespace"), one.get("spec", {})
        pod = pod_of(one) or {}
        wanted = [("ServiceAccount", namespace, pod.get("serviceAccountName"))]
        wanted += [("PriorityClass", None, pod.get("priorityClassName"))]
        for volume in pod.get("volumes", []):
            wanted += [("PersistentVolumeClaim", namespace, volume.get("persistentVolumeClaim", {}).get("claimName"))]
            wanted += [("ConfigMap", namespace, volume.get("configMap", {}).get("name"))]
        if one["kind"] == "LocalQueue":
            wanted += [("ClusterQueue", None, spec["clusterQueue"])]
        if one["kind"] == "ClusterQueue":
            flavors = [flavor["name"] for group in spec["resourceGroups"] for flavor in group["flavors"]]
            wanted += [("ResourceFlavor", None, name) for name in flavors]
        if one["kind"] == "PersistentVolumeClaim":
            wanted += [("StorageClass", None, spec.get("storageClassName"))]
        if one["kind"] == "HTTPRoute":
            wanted += [("Gateway", parent.get("namespace", namespace), parent["name"]) for parent in spec["parentRefs"]]
        if one["kind"] == "GCPGatewayPolicy":
            wanted += [("Gateway", namespace, spec["targetRef"]["name"])]
        for kind, space, name in wanted:
            if name and missing(kind, space, name):
                yield f"{where}: there is no {kind} {name}"


def unused_flavors(objects: list[Object]) -> Iterator[str]:
    queues = [one["spec"] for one in of_kind(objects, "ClusterQueue")]
    used = {flavor["name"] for queue in queues for group in queue["resourceGroups"] for flavor in group["flavors"]}
    for one in of_kind(objects, "ResourceFlavor"):
        if one["metadata"]["name"] not in used:
            yield f"{name_of(one)}: no queue may use it"


def twins(objects: list[Object]) -> Iterator[str]:
    seen: set[str] = set()
    for one in objects:
        if name_of(one) in seen:
            yield f"{name_of(one)}: stands here twice"
        seen.add(name_of(one))


Rule = Callable[[list[Object]], Iterator[str]]
RULES: tuple[Rule, ...] = (
    unrestricted,
    unpinned_images,
    unlimited,
    unprobed,
    with_a_token,
    wide_rights,
    google_accounts,
    open_policies,
    undenied,
    lax_namespaces,
    unbounded_namespaces,
    public_doors,
    other_doors,
    left_open,
    broken_references,
    unused_flavors,
    twins,
)


def findings(objects: list[Object], without: Iterable[Rule] = ()) -> list[str]:
    """What all rules, or all but some, have to say."""
    return [line for rule in RULES if rule not in tuple(without) for line in rule(objects)]


def main() -> int:
    """Read what kubectl rendered; 1 when something is wrong."""
    objects = [one for one in yaml.safe_load_all(sys.stdin) if one]
    if not objects:
        print("nothing was rendered; give the output of `kubectl kustomize`", file=sys.stderr)
        return 2
    found = findings(objects)
    print("\n".join(found) or f"{len(objects)} objects, nothing wrong")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
