"""Where the cluster lies on this machine: folders, addresses, ports."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent

NODE = "slipway"
"""The node's name, its bridge and its cgroup: what the harness makes outside its folder is found by this word."""

POD_RANGE = "10.244.0.0/24"
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
DOMAIN = "cluster.local"

API_PORT, REGISTRY_PORT, BUCKET_PORT, GATEWAY_PORT, WEBHOOK_PORT = 6443, 5000, 4443, 80, 9443
BUCKET = "slipway"
"""The bucket that the GCS emulator holds from the start."""

FAKE_GPUS = 1
"""What the real node says it has: with two releases that want one each, the second is unschedulable."""


class ClusterError(RuntimeError):
    """The cluster cannot be built, started or used; says what is missing or where to look."""


@dataclass(frozen=True)
class Place:
    """Two folders: `state` is made by `up` and removed by `down`, `cache` outlives clusters."""

    state: Path = ROOT / ".slipway/cluster"
    cache: Path = field(default_factory=lambda: cache_folder() / "cluster")
    run: Path = Path("/run/slipway-cluster")
    """Sockets and mounts: a socket's path may have 107 characters, and a checkout lies anywhere."""

    node_ip: str = field(default_factory=lambda: address_of_this_machine())

    @property
    def binaries(self) -> Path:
        return self.cache / "bin"

    @property
    def assets(self) -> Path:
        """What `build` prepared besides binaries: custom resource definitions, KServe's manifests, two images."""
        return self.cache / "assets"

    @property
    def certificates(self) -> Path:
        return self.state / "certificates"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's; those of the components lie in `kubeconfigs`."""
        return self.state / "kubeconfig"

    @property
    def kubeconfigs(self) -> Path:
        return self.state / "kubeconfigs"

    @property
    def configurations(self) -> Path:
        return self.state / "configurations"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def processes(self) -> Path:
        return self.state / "processes.json"

    @property
    def containerd_socket(self) -> Path:
        return self.run / "containerd.sock"

    @property
    def containerd_root(self) -> Path:
        """Images and their unpacked layers: kept by `down`, so that the next cluster need not unpack them again."""
        return self.cache / "containerd"

    @property
    def api(self) -> str:
        return f"https://{self.node_ip}:{API_PORT}"

    @property
    def registry(self) -> str:
        return f"{self.node_ip}:{REGISTRY_PORT}"

    @property
    def bucket_server(self) -> str:
        return f"http://{self.node_ip}:{BUCKET_PORT}"

    @property
    def gateway(self) -> str:
        return f"http://{self.node_ip}:{GATEWAY_PORT}"


def cache_folder() -> Path:
    """SLIPWAY_CACHE, else ~/.cache/slipway."""
    chosen = os.environ.get("SLIPWAY_CACHE")
    return Path(chosen).expanduser().resolve() if chosen else Path.home() / ".cache/slipway"


def address_of_this_machine() -> str:
    """The IPv4 address that pods can reach this machine by; never loopback, which EndpointSlices refuse."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing: a datagram socket only chooses its own address
            return str(probe.getsockname()[0])
        except OSError:
            pass  # no default route: any interface's address serves
    for interface in psutil.net_if_addrs().values():
        for address in interface:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    raise ClusterError("this machine has no IPv4 address besides loopback; give an interface one (`ip addr add`)")
