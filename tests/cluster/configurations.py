"""Configuration files of the components that take one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.cluster.place import DNS_SERVICE, DOMAIN, NODE, POD_RANGE, Place

PAUSE_IMAGE = "slipway.cluster/pause:1"
DNS_IMAGE = "slipway.cluster/coredns:1"


def configurations(place: Place) -> dict[Path, str]:
    """File -> content. YAML is written as JSON, which every YAML reader takes."""
    folder = place.configurations
    return {
        folder / "containerd.toml": _containerd(place),
        folder / f"hosts/{place.registry}/hosts.toml": _registry_host(place),
        folder / "network/10-slipway.conflist": _json(_network(place)),
        folder / "kubelet.yaml": _json(_kubelet(place)),
        folder / "kube-proxy.yaml": _json(_kube_proxy(place)),
        folder / "registry.yaml": _json(_registry(place)),
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _containerd(place: Place) -> str:
    # restrict_oom_score_adj: lowering a score needs CAP_SYS_RESOURCE, which root in a container or a small VM lacks.
    return f"""version = 2
root = "{place.containerd_root}"
state = "{place.run}/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]

[grpc]
  address = "{place.containerd_socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  discard_unpacked_layers = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{place.configurations}/network"

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{place.configurations}/hosts"
"""


def _registry_host(place: Place) -> str:
    """That the registry speaks plain HTTP. containerd 1.6 refuses the file without a `host` table."""
    url = f"http://{place.registry}"
    return f'server = "{url}"\n\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'


def _network(place: Place) -> dict[str, Any]:
    """Pods on a bridge. Masquerading is a rule of the harness: the plugin's own chains would outlive a killed pod."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_RANGE}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": f"{place.run}/addresses",
    }
    bridge = {"type": "bridge", "bridge": NODE, "isGateway": True, "hairpinMode": True, "mtu": _mtu()}
    return {"cniVersion": "0.4.0", "name": NODE, "plugins": [{**bridge, "ipam": addresses}]}


def _mtu() -> int:
    """The smallest of the real interfaces': a larger one on the bridge loses large packets on their way out."""
    sizes = [
        int((folder / "mtu").read_text())
        for folder in Path("/sys/class/net").iterdir()
        if (folder / "device").exists() and (folder / "operstate").read_text().strip() == "up"
    ]
    return min(sizes, default=1500)


def _kubelet(place: Place) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": place.node_ip,
        "authentication": {"x509": {"clientCAFile": f"{place.certificates}/ca.crt"}, "anonymous": {"enabled": False}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{place.certificates}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{place.certificates}/kubelet-server.key",
        "containerRuntimeEndpoint": f"unix://{place.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{NODE}",
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": DOMAIN,
        "resolvConf": str(resolver_file()),
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "podLogsDir": f"{place.logs}/pods",
        "serializeImagePulls": False,
        # Images are loaded by hand, and a disk that looks full must not cost the cluster its only copy.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def resolver_file() -> Path:
    """The real resolvers: systemd's stub listens on loopback, where pods find nobody."""
    behind_stub = Path("/run/systemd/resolve/resolv.conf")
    return behind_stub if behind_stub.exists() else Path("/etc/resolv.conf")


def _kube_proxy(place: Place) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": f"{place.kubeconfigs}/kube-proxy"},
        "hostnameOverride": NODE,
        "clusterCIDR": POD_RANGE,
        "bindAddress": place.node_ip,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "iptables": {"localhostNodePorts": True},
        "oomScoreAdj": 0,
        # Connection tracking is the machine's own matter.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def _registry(place: Place) -> dict[str, Any]:
    return {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            # Pushed images outlive a cluster: building them takes longer than starting one.
            "filesystem": {"rootdirectory": f"{place.cache}/registry"},
            "delete": {"enabled": True},
        },
        "http": {"addr": place.registry, "secret": os.urandom(16).hex()},
    }
