"""Starts, watches, restarts, stops and cleans a cluster whose processes all run on this machine."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.cluster import build, host, images, manifests, platform
from tests.cluster.certificates import Authority, make_key_pair, write_kubeconfig
from tests.cluster.components import Component, components, identities
from tests.cluster.configurations import DNS_IMAGE, PAUSE_IMAGE, configurations
from tests.cluster.place import BUCKET, NODE, ROOT, ClusterError, Place

_STOP_SECONDS = 4
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}


class Cluster:
    """The cluster of one Place, whether it runs or not."""

    def __init__(self, place: Place | None = None):
        self.place = place or Place()
        self.components = {component.name: component for component in components(self.place)}

    @classmethod
    def attach(cls) -> Cluster:
        """The cluster that is up; ClusterError says why there is none."""
        cluster = cls()
        if not cluster.place.kubeconfig.exists():
            raise ClusterError("no cluster is up; `make cluster` starts one (root on Debian, Go to build it)")
        dead = [one.name for one in cluster.components.values() if not one.on_demand and not cluster.process(one.name)]
        if dead:
            raise ClusterError(f"{', '.join(dead)} died; look into {cluster.place.logs}, then `make cluster`")
        return cluster

    # what others need

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.place.kubeconfig

    @property
    def node_ip(self) -> str:
        """Where the API server, registry, object store and gateway listen; pods reach it too."""
        return self.place.node_ip

    @property
    def registry(self) -> str:
        """HOST:PORT, plain HTTP."""
        return self.place.registry

    @property
    def bucket_server(self) -> str:
        """URL of the GCS emulator."""
        return self.place.bucket_server

    @property
    def gateway(self) -> str:
        """URL of the public door."""
        return self.place.gateway

    def environment(self) -> dict[str, str]:
        """Variables by which kubectl, the rollout, obstore and buildah find the cluster."""
        return {
            "KUBECONFIG": str(self.place.kubeconfig),
            "STORAGE_EMULATOR_HOST": self.place.bucket_server,
            "SLIPWAY_REGISTRY": self.place.registry,
            "SLIPWAY_GATEWAY": self.place.gateway,
        }

    def kubectl(self, *arguments: str, given: str | None = None, seconds: float = 60) -> str:
        """Output of kubectl as administrator; ClusterError with its words when it fails."""
        command = [str(self.place.binaries / "kubectl"), f"--kubeconfig={self.place.kubeconfig}", *arguments]
        try:
            done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"`kubectl {' '.join(arguments)}` took more than {seconds:.0f} s") from error
        if done.returncode:
            raise ClusterError(f"`kubectl {' '.join(arguments)}` failed: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get ... -o json`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, objects: list[dict[str, Any]]) -> None:
        """Server-side apply."""
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self._apply_text(given)

    def _apply_text(self, given: str) -> None:
        # Without --validate kubectl need not read the schemas of all kinds first.
        self.kubectl("apply", "--server-side", "--force-conflicts", "--validate=false", "-f", "-", given=given)

    def use_images(self, *names: str) -> None:
        """Build and push what is new of images ("serving", "components"), and apply the manifests with them."""
        for name in names:
            images.build(name, self.place)
        self._apply_manifests()

    def add_gpu_nodes(self, count: int) -> None:
        """Fake nodes with eight GPUs each; kwok answers for them, and is started when it does not run."""
        self.start("kwok")
        self.apply(platform.gpu_nodes(count))
        self.kubectl("wait", "--for=condition=Ready", "node", "-l", "type=kwok", "--timeout=30s")

    def remove_gpu_nodes(self) -> None:
        """The fake nodes, and with them the pods that were bound there."""
        self.kubectl("delete", "node", "-l", "type=kwok", "--ignore-not-found")

    # processes

    def process(self, name: str) -> psutil.Process | None:
        """The running process of a component; a number that another process got meanwhile does not count."""
        noted = self._noted().get(name)
        if noted is None:
            return None
        try:
            process = psutil.Process(noted["pid"])
            alive = abs(process.create_time() - noted["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None

    def start(self, *names: str) -> None:
        """Start these components where they do not run, and wait until they are ready."""
        for name in names:
            if self.process(name) is None:
                self._launch(self.components[name])
        for name in names:
            self._wait_ready(self.components[name])

    def stop(self, *names: str) -> None:
        """End components; kill those that do not heed: the API server waits a minute for its watchers."""
        for end, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 2 * _STOP_SECONDS)):
            for name in names:
                if process := self.process(name):
                    process.send_signal(end)
            deadline = time.monotonic() + seconds
            while any(self.process(name) for name in names) and time.monotonic() < deadline:
                time.sleep(0.05)
        if left := [name for name in names if self.process(name)]:
            raise ClusterError(f"{', '.join(left)} cannot be killed; `ps -o stat,wchan -p PID` shows what holds it")

    def restart(self, name: str) -> None:
        """End a component and start it anew with what it knows."""
        if name not in self.components:
            raise ClusterError(f"there is no component {name!r}; there are {', '.join(self.components)}")
        if not self.place.kubeconfig.exists():
            raise ClusterError("no cluster is up; `make cluster` starts one")
        self.stop(name)
        self.start(name)
        if name == "kubelet":
            self._advertise_gpus()

    def _launch(self, component: Component) -> None:
        binary = component.binary if component.binary.startswith("/") else str(self.place.binaries / component.binary)
        # The cluster's addresses are all on this machine; a proxy would look for them elsewhere.
        inherited = {name: value for name, value in os.environ.items() if name.lower() not in _PROXIES}
        self.place.logs.mkdir(parents=True, exist_ok=True)
        with self.log(component.name).open("ab") as log:
            started = subprocess.Popen(
                [binary, *component.flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**inherited, **component.environment},
                cwd=self.place.state,
                start_new_session=True,  # Ctrl-C in the terminal that started it is not meant for it
            )
        self._note(component.name, {"pid": started.pid, "created": psutil.Process(started.pid).create_time()})

    def _wait_ready(self, component: Component) -> None:
        wait(
            f"{component.name} to be ready",
            lambda: self._is_ready(component),
            component.seconds,
            lambda: self._death(component),
        )

    def is_ready(self, name: str) -> bool:
        """Whether the component runs and answers now."""
        return self.process(name) is not None and self._is_ready(self.components[name])

    def _is_ready(self, component: Component) -> bool:
        if isinstance(component.ready, Path):
            return _listens(component.ready)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # some sign for themselves; nothing is told that could be misused
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(component.ready, timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _death(self, component: Component) -> str | None:
        """Why waiting on is in vain: the last lines of a process that ended."""
        if self.process(component.name):
            return None
        lines = self.log(component.name).read_text(errors="replace").splitlines()[-15:]
        return f"{component.name} ended; {self.log(component.name)} ends with\n  " + "\n  ".join(lines)

    def log(self, name: str) -> Path:
        """What the component wrote."""
        return self.place.logs / f"{name}.log"

    def _noted(self) -> dict[str, Any]:
        try:
            return json.loads(self.place.processes.read_text())
        except FileNotFoundError:
            return {}

    def _note(self, name: str, process: dict[str, Any]) -> None:
        written = self.place.processes.with_suffix(".new")
        written.write_text(json.dumps({**self._noted(), name: process}, indent=2) + "\n")
        written.replace(self.place.processes)

    # up

    def up(self, say: Callable[[str], None] = print) -> None:
        """Bring everything up; what runs already stays as it is."""
        build.prepare_machine(self.place)
        with self._alone():
            build.build(self.place, say)
            began = time.monotonic()

            def told(what: str) -> None:
                say(f"{time.monotonic() - began:5.1f} s  {what}")

            self._make_files()
            host.prepare(self.place)
            for together in self._waves():
                self.start(*together)
                told(f"{', '.join(together)} ready")
                if "containerd" in together:
                    self._load_images()
                if "kube-apiserver" in together:
                    self._wait_for_defaults()
                    self._install_definitions()
                    told("custom resource definitions, DNS and rights applied")
            self._finish(told)

    def _waves(self) -> Iterator[list[str]]:
        """Names that can be started together, each after what it needs."""
        left = [component for component in self.components.values() if not component.on_demand]
        stand: set[str] = set()
        while left:
            wave = [component for component in left if stand.issuperset(component.after)]
            if not wave:
                raise ClusterError(f"{', '.join(one.name for one in left)} wait for each other; look at `after`")
            yield [component.name for component in wave]
            stand.update(component.name for component in wave)
            left = [component for component in left if component not in wave]

    def _finish(self, told: Callable[[str], None]) -> None:
        wait("the node to be Ready", self._node_ready, 60)
        self._advertise_gpus()
        told("node Ready")
        self._make_bucket()
        wait("KServe's webhook to refuse what it must", self._webhook_refuses, 60)
        told("KServe answers")
        if not self._applied.exists():  # another image in a runtime would restart every server that stands
            self._apply_manifests()
        wait("the Gateway to be programmed", self._gateway_programmed, 60)
        told("manifests applied, Gateway programmed")
        self.kubectl("rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=60s", seconds=70)
        told("DNS ready")

    @property
    def _applied(self) -> Path:
        """Says that the manifests were; `images` applies them anew."""
        return self.place.state / "manifests-applied"

    def _apply_manifests(self) -> None:
        """The project's own, with the images that the registry has."""
        rendered = manifests.render(self.place.node_ip, images_in_registry(self.place))
        manifests.apply(rendered, self.place.kubeconfig)
        self._applied.touch()

    def _make_files(self) -> None:
        """Certificates, kubeconfigs and configuration files, once per cluster."""
        place = self.place
        if place.kubeconfig.exists():
            server = json.loads(place.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
            if server != place.api:
                raise ClusterError(f"the cluster is at {server} and this machine now at {place.api}; make cluster-down")
        place.run.mkdir(parents=True, exist_ok=True)
        for folder in ("etcd", "kserve/k8s-webhook-server/serving-certs", f"buckets/{BUCKET}", "kubelet", "logs"):
            (place.state / folder).mkdir(parents=True, exist_ok=True)
        (place.state / "etcd").chmod(0o700)
        for file, content in configurations(place).items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        if place.kubeconfig.exists():
            return
        for log in place.logs.glob("*.log"):  # of the cluster before this one
            log.unlink()
        authority = Authority(place.certificates)
        make_key_pair(place.certificates / "service-account.key", place.certificates / "service-account.pub")
        for identity in identities(place):
            pair = authority.issue(identity.name, identity.user, identity.groups, identity.hosts)
            if not identity.hosts:  # a client
                write_kubeconfig(place.kubeconfigs / identity.name, place.api, authority.pair, identity.user, pair)
        webhook = place.state / "kserve/k8s-webhook-server/serving-certs"
        for made, wanted in (("kserve-webhook.crt", "tls.crt"), ("kserve-webhook.key", "tls.key")):
            shutil.copyfile(place.certificates / made, webhook / wanted)
        # The administrator's comes last: it says that all are there.
        admin = authority.issue("admin", "admin", ("system:masters",))
        write_kubeconfig(place.kubeconfig, place.api, authority.pair, "admin", admin)

    def _load_images(self) -> None:
        present = self._containerd("images", "list", "-q").split()
        for reference, file in ((PAUSE_IMAGE, "pause.tar"), (DNS_IMAGE, "coredns.tar")):
            if reference not in present or _newer(self.place.assets / file, self.place.containerd_root / file):
                self._containerd("images", "import", str(self.place.assets / file))
                (self.place.containerd_root / file).touch()

    def _containerd(self, *arguments: str) -> str:
        command = ["ctr", "--address", str(self.place.containerd_socket), "--namespace", "k8s.io", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
        return done.stdout

    def _wait_for_defaults(self) -> None:
        """The namespaces that the API server makes on its own appear a moment after it is ready."""
        wait("namespace kube-system", lambda: self._succeeds("get", "namespace", "kube-system", "default"), 30)

    def _install_definitions(self) -> None:
        """Custom resources first: KServe and Traefik look at their start for what the cluster knows."""
        for file in ("gateway-definitions.yaml", "kserve-definitions.yaml"):
            self._apply_text((self.place.assets / file).read_text())
        wait("custom resource definitions to be established", self._established, 30)
        self.apply([*platform.kserve_objects(self.place), *platform.gateway_rights(), *platform.dns_objects()])

    def _established(self) -> bool:
        definitions = self.get("customresourcedefinitions")["items"]
        return all(_holds(definition, "Established") for definition in definitions)

    def _node_ready(self) -> bool:
        if not self._succeeds("get", "node", NODE):
            return False
        return _holds(self.get("node", NODE), "Ready")

    def _advertise_gpus(self) -> None:
        patch = json.dumps(platform.gpu_capacity())
        self.kubectl("patch", "node", NODE, "--subresource=status", "--type=json", f"--patch={patch}")

    def _make_bucket(self) -> None:
        request = urllib.request.Request(
            f"{self.place.bucket_server}/storage/v1/b?project=slipway",
            data=json.dumps({"name": BUCKET}).encode(),
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            if error.code != 409:  # it is there already
                raise

    def _webhook_refuses(self) -> bool:
        given = json.dumps(platform.probe_service())
        try:
            self.kubectl("create", "--dry-run=server", "--validate=false", "-f", "-", given=given)
        except ClusterError as error:
            return "denied the request" in str(error)
        return False  # the API server has not yet heard of the webhook

    def _gateway_programmed(self) -> bool:
        namespace, name = platform.GATEWAY.split("/")
        return _holds(self.get("gateway", name, "-n", namespace), "Programmed")

    def _succeeds(self, *arguments: str) -> bool:
        try:
            self.kubectl(*arguments)
        except ClusterError:
            return False
        return True

    # down

    def down(self, say: Callable[[str], None] = print) -> None:
        """Stop everything and remove what it left; binaries, images and logs stay."""
        if not self.place.processes.exists() and not self.place.run.exists():
            say("no cluster is up")
            return
        if os.geteuid() != 0:
            raise ClusterError("stopping the cluster needs root (`sudo -E make cluster-down`)")
        with self._alone():
            self.stop("kubelet")  # first: it would start anew what is stopped after it
            self.stop(*(name for name in self.components if name != "containerd"))
            self._remove_containers()
            self.stop("containerd")
            for pid in host.shims(self.place):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            host.clean(self.place)
            shutil.rmtree(self.place.run, ignore_errors=True)
            for entry in self.place.state.iterdir():
                if entry not in {self.place.logs, self._lock}:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        say("the cluster is down")

    def _remove_containers(self) -> None:
        """Kill what runs and forget it; images stay."""
        if self.process("containerd") is None:
            if not self.place.containerd_root.exists() or not self.place.configurations.exists():
                return
            self.start("containerd")  # it died, but knows containers that the next cluster must not find
        for container in self._containerd("containers", "list", "-q").split():
            for command in (["tasks", "kill", "-s", "SIGKILL"], ["tasks", "rm", "-f"], ["containers", "rm"]):
                with suppress(ClusterError):  # one without a task has nothing to kill
                    self._containerd(*command, container)

    @property
    def _lock(self) -> Path:
        return self.place.state / "lock"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One `up` or `down` at a time."""
        self.place.state.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ClusterError("another `up` or `down` is at work on this cluster; wait for it") from error
            yield


def wait(what: str, check: Callable[[], bool], seconds: float, death: Callable[[], str | None] = lambda: None) -> None:
    """Return when `check` holds; ClusterError after `seconds`, or at once when `death` has a reason."""
    deadline = time.monotonic() + seconds
    while not check():
        if reason := death():
            raise ClusterError(f"waited for {what}: {reason}")
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s for {what}, in vain; look into {ROOT}/.slipway/cluster/logs")
        time.sleep(0.2)


def _holds(found: dict[str, Any], condition: str) -> bool:
    """Whether an object's status says so."""
    conditions = found.get("status", {}).get("conditions") or []
    return any(one["type"] == condition and one["status"] == "True" for one in conditions)


def images_in_registry(place: Place) -> dict[str, str]:
    """Name in the manifests -> reference by digest: of the code as it stands, else the last one that was pushed."""
    found: dict[str, str] = {}
    for image in (images.IMAGES["serving"], images.IMAGES["components"]):
        for tag in (images.sources_digest(image)[:16], images.version() + image.flavour):
            if digest := images.pushed(place.registry, image, tag):
                found[image.repository] = f"{place.registry}/{image.repository}@{digest}"
                break
    return found


def _listens(path: Path) -> bool:
    """Whether somebody does behind a socket: its file may be a dead process's."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _newer(file: Path, mark: Path) -> bool:
    return not mark.exists() or mark.stat().st_mtime < file.stat().st_mtime
