"""What the harness brings into a fresh cluster besides the project's own manifests.

DNS, KServe's settings, rights of the gateway's process, fake GPUs.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import yaml

from tests.cluster.configurations import DNS_IMAGE, resolver_file
from tests.cluster.place import DNS_SERVICE, DOMAIN, FAKE_GPUS, NODE, WEBHOOK_PORT, Place

GPU = "nvidia.com/gpu"
GATEWAY = "slipway-system/slipway"


def kserve_objects(place: Place) -> list[dict[str, Any]]:
    """KServe's own manifests, with Standard mode, our gateway, and webhooks that call the process on this machine."""
    objects: list[dict[str, Any]] = [_namespace("kserve")]
    authority = base64.b64encode((place.certificates / "ca.crt").read_bytes()).decode()
    for manifest in yaml.load_all((place.assets / "kserve.yaml").read_text(), yaml.CSafeLoader):
        for webhook in manifest.get("webhooks", []):
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{WEBHOOK_PORT}{path}", "caBundle": authority}
        if manifest["kind"].endswith("WebhookConfiguration"):
            manifest["metadata"].get("annotations", {}).pop("cert-manager.io/inject-ca-from", None)
        if manifest["metadata"]["name"] == "inferenceservice-config":
            _set_standard_mode(manifest["data"])
        objects.append(manifest)
    return objects


def _set_standard_mode(settings: dict[str, str]) -> None:
    settings.pop("_example", None)
    settings["deploy"] = json.dumps({"defaultDeploymentMode": "Standard"})
    ingress = json.loads(settings["ingress"])
    ingress |= {"enableGatewayApi": True, "kserveIngressGateway": GATEWAY, "disableIstioVirtualHost": True}
    settings["ingress"] = json.dumps(ingress)


def gateway_rights() -> list[dict[str, Any]]:
    """Traefik reads routes and endpoints of every namespace, and writes the status of what it serves."""
    group = "gateway.networking.k8s.io"
    kinds = ["gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants", "backendtlspolicies"]
    read, role = ["get", "list", "watch"], "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": [""], "resources": ["namespaces", "services", "secrets", "configmaps"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        {"apiGroups": [group], "resources": kinds, "verbs": read},
        {"apiGroups": [group], "resources": [f"{kind}/status" for kind in kinds], "verbs": ["update"]},
    ]
    metadata = {"name": "traefik"}
    return [
        {"apiVersion": f"{role}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{role}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": role, "kind": "ClusterRole", "name": "traefik"},
            "subjects": [{"apiGroup": role, "kind": "User", "name": "traefik"}],
        },
    ]


def dns_objects() -> list[dict[str, Any]]:
    """CoreDNS as a pod on the real node, behind the address that the kubelet gives to every pod."""
    metadata = {"name": "coredns", "namespace": "kube-system"}
    labels = {"k8s-app": "kube-dns"}
    role = "rbac.authorization.k8s.io"
    read = ["list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
    ]
    ports = [{"name": f"dns-{one.lower()}", "port": 53, "protocol": one} for one in ("UDP", "TCP")]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": f"{role}/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"}, "rules": rules},
        {
            "apiVersion": f"{role}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": role, "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"Corefile": _corefile()}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "spec": {"clusterIP": DNS_SERVICE, "selector": labels, "ports": ports},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": _dns_pod()},
            },
        },
    ]


def _corefile() -> str:
    """Names of the cluster, and the machine's own resolvers for the rest where it has any."""
    resolvers = [line for line in resolver_file().read_text().splitlines() if line.startswith("nameserver")]
    forward = "    forward . /etc/resolv.conf\n" if resolvers else ""
    return f""".:53 {{
    errors
    health
    ready
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
{forward}    cache 5
    loadbalance
}}
"""


def _dns_pod() -> dict[str, Any]:
    capabilities = {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}
    return {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",  # the machine's resolvers: its own would ask itself
        "nodeSelector": {"kubernetes.io/hostname": NODE},
        "priorityClassName": "system-cluster-critical",
        "containers": [
            {
                "name": "coredns",
                "image": DNS_IMAGE,
                "imagePullPolicy": "Never",
                "args": ["-conf", "/etc/coredns/Corefile"],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": capabilities,
                },
                "volumeMounts": [{"name": "settings", "mountPath": "/etc/coredns"}],
            }
        ],
        "volumes": [{"name": "settings", "configMap": {"name": "coredns"}}],
    }


def gpu_capacity() -> list[dict[str, Any]]:
    """A patch of the real node's status; the kubelet copies the number to what may be asked for."""
    path = "/status/capacity/" + GPU.replace("/", "~1")
    return [{"op": "add", "path": path, "value": str(FAKE_GPUS)}]


def gpu_nodes(count: int, gpus: int = 8) -> list[dict[str, Any]]:
    """Nodes that exist in name alone (kwok answers for them), labelled and tainted as GKE's GPU nodes are."""
    return [_gpu_node(f"gpu-{number}", gpus) for number in range(count)]


def _gpu_node(name: str, gpus: int) -> dict[str, Any]:
    size = {"cpu": "96", "memory": "680Gi", "pods": "110", "ephemeral-storage": "1Ti", GPU: str(gpus)}
    labels = {
        "type": "kwok",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "cloud.google.com/gke-accelerator": "nvidia-l4",
        "cloud.google.com/gke-accelerator-count": str(gpus),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": [{"key": GPU, "value": "present", "effect": "NoSchedule"}]},
        "status": {"allocatable": size, "capacity": size},
    }


def probe_service() -> dict[str, Any]:
    """An InferenceService that the validating webhook must refuse: more replicas at least than at most."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "probe", "namespace": "default"},
        "spec": {
            "predictor": {
                "minReplicas": 2,
                "maxReplicas": 1,
                "containers": [{"name": "kserve-container", "image": "none"}],
            }
        },
    }


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
