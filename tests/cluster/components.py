"""Every process of the cluster as one declarative entry: binary, flags, readiness, what must stand before it.

The order of the list is the order of starting; entries whose `after` stand are started together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.place import (
    API_SERVICE,
    BUCKET_PORT,
    DOMAIN,
    GATEWAY_PORT,
    NODE,
    SERVICE_RANGE,
    WEBHOOK_PORT,
    Place,
)

KSERVE_USER = "system:serviceaccount:kserve:kserve-controller-manager"
"""KServe's manager runs beside the cluster, with the rights that its own manifests give its account inside."""

KUBELET_CLIENT = "kube-apiserver-kubelet-client"
"""As whom the API server reads logs from the kubelet."""


@dataclass(frozen=True)
class Component:
    """One process on this machine. `ready` is a URL that answers 200, or the socket that somebody listens on."""

    name: str
    binary: str
    flags: tuple[str, ...]
    ready: str | Path
    after: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    user: str = ""
    """Whom the API server sees; gets a kubeconfig of that name."""

    groups: tuple[str, ...] = ()
    on_demand: bool = False
    """Not started by `up`."""

    seconds: float = 60
    """How long it may take to become ready."""


def components(place: Place) -> tuple[Component, ...]:
    """All of them, in the order of starting."""
    return (*_stores(place), *_control_plane(place), *_node(place), *_platform(place))


def _stores(place: Place) -> tuple[Component, ...]:
    return (
        Component(
            name="etcd",
            binary="etcd",
            flags=(
                f"--data-dir={place.state}/etcd",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                "--listen-peer-urls=http://127.0.0.1:2380",
                "--unsafe-no-fsync",  # the cluster does not outlive the machine, so nothing is lost
                "--log-level=warn",
            ),
            ready="http://127.0.0.1:2379/readyz",
        ),
        Component(
            name="containerd",
            binary="/usr/bin/containerd",
            flags=(f"--config={place.configurations}/containerd.toml",),
            ready=place.containerd_socket,
        ),
        Component(
            name="registry",
            binary="registry",
            flags=("serve", f"{place.configurations}/registry.yaml"),
            ready=f"http://{place.registry}/v2/",
            environment={"OTEL_TRACES_EXPORTER": "none"},
        ),
        Component(
            name="bucket-server",
            binary="fake-gcs-server",
            flags=(
                "-scheme=http",
                f"-host={place.node_ip}",
                f"-port={BUCKET_PORT}",
                f"-external-url={place.bucket_server}",
                f"-public-host={place.node_ip}:{BUCKET_PORT}",
                "-backend=filesystem",
                f"-filesystem-root={place.state}/buckets",
                "-log-level=warn",
            ),
            ready=f"{place.bucket_server}/storage/v1/b?project=slipway",
        ),
    )


def _control_plane(place: Place) -> tuple[Component, ...]:
    keys = place.certificates
    return (
        Component(
            name="kube-apiserver",
            binary="kube-apiserver",
            flags=(
                f"--advertise-address={place.node_ip}",
                f"--bind-address={place.node_ip}",
                "--etcd-servers=http://127.0.0.1:2379",
                f"--service-cluster-ip-range={SERVICE_RANGE}",
                f"--client-ca-file={keys}/ca.crt",
                f"--tls-cert-file={keys}/kube-apiserver.crt",
                f"--tls-private-key-file={keys}/kube-apiserver.key",
                f"--kubelet-certificate-authority={keys}/ca.crt",
                f"--kubelet-client-certificate={keys}/{KUBELET_CLIENT}.crt",
                f"--kubelet-client-key={keys}/{KUBELET_CLIENT}.key",
                "--kubelet-preferred-address-types=InternalIP",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={keys}/service-account.pub",
                f"--service-account-signing-key-file={keys}/service-account.key",
                # For API servers behind this one; none is installed, but the others wait for the setting.
                f"--requestheader-client-ca-file={keys}/ca.crt",
                "--requestheader-allowed-names=front-proxy",
                "--requestheader-username-headers=X-Remote-User",
                "--requestheader-group-headers=X-Remote-Group",
                "--requestheader-extra-headers-prefix=X-Remote-Extra-",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                "--profiling=false",
            ),
            ready=f"{place.api}/readyz",
            after=("etcd",),
        ),
        Component(
            name="kube-controller-manager",
            binary="kube-controller-manager",
            flags=(
                f"--kubeconfig={place.kubeconfigs}/kube-controller-manager",
                f"--authentication-kubeconfig={place.kubeconfigs}/kube-controller-manager",
                f"--authorization-kubeconfig={place.kubeconfigs}/kube-controller-manager",
                "--bind-address=127.0.0.1",
                f"--root-ca-file={keys}/ca.crt",
                f"--cluster-signing-cert-file={keys}/ca.crt",
                f"--cluster-signing-key-file={keys}/ca.key",
                f"--service-account-private-key-file={keys}/service-account.key",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                "--profiling=false",
            ),
            ready="https://127.0.0.1:10257/healthz",
            after=("kube-apiserver",),
            user="system:kube-controller-manager",
        ),
        Component(
            name="kube-scheduler",
            binary="kube-scheduler",
            flags=(
                f"--kubeconfig={place.kubeconfigs}/kube-scheduler",
                f"--authentication-kubeconfig={place.kubeconfigs}/kube-scheduler",
                f"--authorization-kubeconfig={place.kubeconfigs}/kube-scheduler",
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
                "--profiling=false",
            ),
            ready="https://127.0.0.1:10259/readyz",
            after=("kube-apiserver",),
            user="system:kube-scheduler",
        ),
    )


def _node(place: Place) -> tuple[Component, ...]:
    return (
        Component(
            name="kubelet",
            binary="kubelet",
            flags=(
                f"--config={place.configurations}/kubelet.yaml",
                f"--kubeconfig={place.kubeconfigs}/kubelet",
                f"--root-dir={place.state}/kubelet",
                f"--hostname-override={NODE}",
                f"--node-ip={place.node_ip}",
            ),
            ready="http://127.0.0.1:10248/healthz",
            after=("kube-apiserver", "containerd"),
            user=f"system:node:{NODE}",
            groups=("system:nodes",),
        ),
        Component(
            name="kube-proxy",
            binary="kube-proxy",
            flags=(f"--config={place.configurations}/kube-proxy.yaml",),
            ready="http://127.0.0.1:10256/livez",  # healthz is about the node, which may not have joined yet
            after=("kube-apiserver",),
            user="system:kube-proxy",
        ),
        Component(
            name="kwok",
            binary="kwok",
            flags=(
                f"--kubeconfig={place.kubeconfigs}/kwok",
                "--manage-all-nodes=false",
                "--manage-nodes-with-label-selector=type=kwok",
                "--server-address=127.0.0.1:10247",
                "--cidr=10.245.0.1/24",
                f"--node-ip={place.node_ip}",
            ),
            ready="http://127.0.0.1:10247/healthz",
            after=("kube-apiserver",),
            user="kwok",
            groups=("system:masters",),
            on_demand=True,
        ),
    )


def _platform(place: Place) -> tuple[Component, ...]:
    return (
        Component(
            name="kserve",
            binary="manager",
            flags=(
                f"--kubeconfig={place.kubeconfigs}/kserve",
                f"--webhook-port={WEBHOOK_PORT}",
                "--metrics-addr=0",
                "--health-probe-addr=127.0.0.1:10246",
            ),
            ready="http://127.0.0.1:10246/readyz",
            after=("kube-apiserver",),
            # It looks for its webhook's certificate in the folder for temporary files.
            environment={"POD_NAMESPACE": "kserve", "TMPDIR": f"{place.state}/kserve"},
            user=KSERVE_USER,
        ),
        Component(
            name="traefik",
            binary="traefik",
            flags=(
                # A Gateway's listener finds its entry point by the port, so the two must be equal.
                f"--entrypoints.web.address={place.node_ip}:{GATEWAY_PORT}",
                "--entrypoints.ping.address=127.0.0.1:10245",
                "--ping=true",
                "--ping.entrypoint=ping",
                # Go's own reverse proxy now and then loses a stream whose answer begins before it saw the end of the
                # request (golang/go#40747)
                "--experimental.fastproxy=true",
                "--providers.kubernetesgateway=true",
                f"--providers.kubernetesgateway.statusaddress.ip={place.node_ip}",
                "--global.checknewversion=false",
                "--global.sendanonymoususage=false",
                "--log.level=INFO",
            ),
            ready="http://127.0.0.1:10245/ping",
            after=("kube-apiserver",),
            environment={"KUBECONFIG": f"{place.kubeconfigs}/traefik"},
            user="traefik",
        ),
    )


@dataclass(frozen=True)
class Identity:
    """A certificate of `certificates/`: as whom it speaks, and the addresses it answers for."""

    name: str
    user: str
    groups: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


def identities(place: Place) -> tuple[Identity, ...]:
    """One per component that speaks to the API server (named like it), and those of servers."""
    service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}")
    return (
        *(Identity(one.name, one.user, one.groups) for one in components(place) if one.user),
        Identity("kube-apiserver", "kube-apiserver", hosts=(place.node_ip, "localhost", API_SERVICE, *service)),
        Identity(KUBELET_CLIENT, KUBELET_CLIENT, groups=("system:masters",)),
        Identity("kubelet-server", f"system:node:{NODE}", hosts=(place.node_ip, NODE)),
        Identity("kserve-webhook", "kserve-webhook", hosts=("127.0.0.1",)),
    )
