"""Starting, noticing death, restarting and stopping, with small real programs in place of Kubernetes."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cluster import harness
from tests.cluster.components import Component
from tests.cluster.harness import Cluster
from tests.cluster.place import ClusterError, Place
from tests.ports import free_port

STUBBORN = """
import http.server, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.HTTPServer(("127.0.0.1", {port}), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    place = Place(state=tmp_path / "state", cache=tmp_path / "cache", run=tmp_path / "run", node_ip="127.0.0.1")
    place.state.mkdir()
    cluster = Cluster(place)
    cluster.components = {}
    return cluster


def server(cluster: Cluster, name: str = "server", program: str = "") -> int:
    """A component that answers on a port; returns the port."""
    port = free_port()
    flags = ("-c", program.format(port=port)) if program else ("-m", "http.server", str(port), "--bind", "127.0.0.1")
    ready = f"http://127.0.0.1:{port}/"
    cluster.components[name] = Component(name, sys.executable, flags, ready, seconds=20)
    return port


def test_a_component_is_started_once_restarted_anew_and_stopped(cluster: Cluster) -> None:
    server(cluster)
    try:
        cluster.start("server")
        first = cluster.process("server")
        assert first and cluster.is_ready("server")
        cluster.start("server")
        assert cluster.process("server") == first

        cluster.place.kubeconfig.write_text("")  # a cluster is up
        cluster.restart("server")
        second = cluster.process("server")
        assert second and second != first and cluster.is_ready("server")
    finally:
        cluster.stop("server")
    assert cluster.process("server") is None and not cluster.is_ready("server")


def test_what_ignores_the_polite_signal_is_killed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_STOP_SECONDS", 0.5)
    server(cluster, program=STUBBORN)
    cluster.start("server")
    cluster.stop("server")
    assert cluster.process("server") is None


def test_a_component_that_ends_is_told_with_the_last_of_its_log(cluster: Cluster) -> None:
    dying = ("-c", "import sys; print('bind: address already in use'); sys.exit(1)")
    cluster.components["server"] = Component("server", sys.executable, dying, "http://127.0.0.1:9/", seconds=20)
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"server ended(.|\n)*address already in use"):
        cluster.start("server")
    assert time.monotonic() - began < 10, "it waited on for a process that was gone"


def test_a_component_that_never_answers_has_a_deadline(cluster: Cluster) -> None:
    silent = Component(
        "server", sys.executable, ("-c", "import time; time.sleep(60)"), "http://127.0.0.1:9/", seconds=1
    )
    cluster.components["server"] = silent
    try:
        with pytest.raises(ClusterError, match="waited 1 s for server to be ready"):
            cluster.start("server")
    finally:
        cluster.stop("server")


def test_a_number_that_another_process_got_is_not_taken_for_ours(cluster: Cluster) -> None:
    """Process numbers come round again: what is not ours must never be signalled."""
    server(cluster)
    bystander = psutil.Process()
    noted = {"server": {"pid": bystander.pid, "created": bystander.create_time() - 100}}
    cluster.place.processes.write_text(json.dumps(noted))
    assert cluster.process("server") is None
    cluster.stop("server")
    assert bystander.is_running()


def test_a_socket_file_of_a_dead_process_is_not_ready(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert harness._listens(path)
    assert path.exists() and not harness._listens(path)


def test_an_unknown_component_is_refused_with_the_known_ones(cluster: Cluster) -> None:
    server(cluster, name="etcd")
    with pytest.raises(ClusterError, match="no component 'ectd'; there are etcd"):
        cluster.restart("ectd")


def test_a_machine_that_got_another_address_is_told(cluster: Cluster) -> None:
    cluster.place.kubeconfig.write_text('{"clusters": [{"cluster": {"server": "https://10.9.9.9:6443"}}]}')
    with pytest.raises(ClusterError, match=r"https://10.9.9.9:6443 .* make cluster-down"):
        cluster._make_files()


def test_circular_needs_are_named(cluster: Cluster) -> None:
    for name, needed in (("a", "b"), ("b", "a")):
        cluster.components[name] = Component(name, "x", (), "http://127.0.0.1:9/", after=(needed,))
    with pytest.raises(ClusterError, match="a, b wait for each other"):
        list(cluster._waves())


def test_without_a_cluster_the_reason_says_what_to_do(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "Place", lambda: cluster.place)
    with pytest.raises(ClusterError, match="no cluster is up; `make cluster` starts one"):
        Cluster.attach()
    cluster.place.kubeconfig.write_text("")
    with pytest.raises(ClusterError, match=r"kube-apiserver.* died"):
        Cluster.attach()


def test_down_without_a_cluster_does_nothing(cluster: Cluster) -> None:
    said: list[str] = []
    cluster.down(said.append)
    assert said == ["no cluster is up"]


def test_two_at_once_are_told(cluster: Cluster) -> None:
    with cluster._alone(), pytest.raises(ClusterError, match="another `up` or `down`"), Cluster(cluster.place)._alone():
        pass
