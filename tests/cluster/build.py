"""Builds the cluster's programs from the Go module in `modules/`, once, into the cache folder.

<cache>/bin/<program>     static binaries, and built.json: from which sources each one came
<cache>/assets/           custom resource definitions, KServe's own manifests, two container images
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import host
from tests.cluster.configurations import DNS_IMAGE, PAUSE_IMAGE
from tests.cluster.place import SOURCES, ClusterError, Place

MODULES = SOURCES / "modules"
KUBERNETES, KSERVE, KWOK, REGISTRY = "v1.34.4", "v0.20.0", "v0.7.0", "v3.0.0"

_VERSION_FLAGS = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in {"gitVersion": KUBERNETES, "gitMajor": "1", "gitMinor": "34"}.items()
)


@dataclass(frozen=True)
class Program:
    """One Go program: its name in the cache and the package it is built from."""

    name: str
    package: str
    version: str = ""
    """Built by `go install` with its own modules when given; else with those of `modules/go.mod`."""


PROGRAMS = (
    Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Program("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    Program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    Program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    Program("etcd", "go.etcd.io/etcd/server/v3"),
    Program("coredns", "./coredns"),
    Program("manager", "github.com/kserve/kserve/cmd/manager"),
    Program("traefik", "github.com/traefik/traefik/v3/cmd/traefik"),
    Program("fake-gcs-server", "github.com/fsouza/fake-gcs-server"),
    # It does not compile against the Kubernetes modules of 1.34.
    Program("kwok", "sigs.k8s.io/kwok/cmd/kwok", version=KWOK),
    # Traefik replaces the router that both use by its own, which sends /v2/ elsewhere.
    Program("registry", "github.com/distribution/distribution/v3/cmd/registry", version=REGISTRY),
)


def digest_of(program: Program) -> str:
    """Of everything that the program is made from: a binary with another digest is built again."""
    parts = [program.name, program.package, program.version, _VERSION_FLAGS]
    if not program.version:
        parts += [(MODULES / name).read_text() for name in ("go.mod", "go.sum")]
    if program.package.startswith("./"):
        parts += [file.read_text() for file in sorted((MODULES / program.package).glob("*.go"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def outdated(place: Place) -> list[Program]:
    """Programs that are not in the cache, or came from other sources."""
    built = _built(place)
    return [
        program
        for program in PROGRAMS
        if built.get(program.name) != digest_of(program) or not (place.binaries / program.name).exists()
    ]


def outdated_assets(place: Place) -> list[str]:
    """Assets that are not in the cache, or came from other sources."""
    built = _built(place)
    return [name for name in _ASSETS if built.get(name) != _digest_of_asset(name) or not (place.assets / name).exists()]


def build(place: Place, say: Callable[[str], None] = print) -> None:
    """Build what is outdated; every finished part is remembered, so that an interrupted build goes on."""
    place.binaries.mkdir(parents=True, exist_ok=True)
    place.assets.mkdir(parents=True, exist_ok=True)
    programs = outdated(place)
    if programs:
        say(f"building {len(programs)} programs; all of them for the first time take about 20 minutes on two cores")
    for number, program in enumerate(programs, start=1):
        began = time.monotonic()
        _compile(place, program)
        _remember(place, program.name, digest_of(program))
        say(f"{number:2} of {len(programs)}: {program.name} in {time.monotonic() - began:.0f} s")
    for name in outdated_assets(place):
        _ASSETS[name](place, place.assets / name)
        _remember(place, name, _digest_of_asset(name))


def _compile(place: Place, program: Program) -> None:
    flags = ["-buildvcs=false", "-trimpath", "-ldflags", f"-s -w {_VERSION_FLAGS}"]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off", "GOBIN": str(place.binaries)}
    if program.version:
        command = ["go", "install", *flags, f"{program.package}@{program.version}"]
    else:
        command = ["go", "build", "-mod=readonly", *flags, "-o", str(place.binaries / program.name), program.package]
    _run(command, environment)


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=MODULES, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"`{' '.join(command)}` failed in {MODULES}:\n{done.stderr.strip()[-3000:]}")
    return done.stdout


def _module_folder(module: str) -> Path:
    """Where Go keeps the module's files, `replace` considered."""
    environment = {**os.environ, "GOFLAGS": "", "GOWORK": "off"}
    _run(["go", "mod", "download", module], environment)
    return Path(_run(["go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module], environment).strip())


def _gateway_definitions(place: Place, target: Path) -> None:
    files = sorted((_module_folder("sigs.k8s.io/gateway-api") / "config/crd/standard").glob("*.yaml"))
    if not files:
        raise ClusterError("sigs.k8s.io/gateway-api has no config/crd/standard; look at its version in go.mod")
    target.write_text("\n---\n".join(file.read_text() for file in files))


def _kserve_definitions(place: Place, target: Path) -> None:
    target.write_text((_module_folder("github.com/kserve/kserve") / f"install/{KSERVE}/kserve-crds.yaml").read_text())


def _kserve_manifests(place: Place, target: Path) -> None:
    """Of KServe's installation: accounts, rights, webhooks and settings; what runs and stores models is ours."""
    everything = (_module_folder("github.com/kserve/kserve") / f"install/{KSERVE}/kserve.yaml").read_text()
    target.write_text("---\n".join(_chosen(everything.split("---\n"))))


def _chosen(documents: Iterable[str]) -> Iterable[str]:
    """Documents that belong to the controller of InferenceServices, by kind and name; 7 MB stay unparsed."""
    kinds = {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ConfigMap"}
    webhooks = {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
    for document in documents:
        kind = re.search(r"^kind: (\w+)$", document, re.MULTILINE)
        name = re.search(r"^  name: (\S+)$", document, re.MULTILINE)
        if not kind or not name or re.search("llmisvc|localmodel", name[1]):
            continue
        if kind[1] in kinds or (kind[1] in webhooks and "kserve-webhook-server-service" in document):
            yield document


def _pause_image(place: Place, target: Path) -> None:
    program = place.assets / "pause"
    _run(["gcc", "-static", "-Os", "-s", "-o", str(program), str(MODULES / "pause/pause.c")])
    write_image(target, PAUSE_IMAGE, program)


def _dns_image(place: Place, target: Path) -> None:
    write_image(target, DNS_IMAGE, place.binaries / "coredns")


_ASSETS: dict[str, Callable[[Place, Path], None]] = {
    "gateway-definitions.yaml": _gateway_definitions,
    "kserve-definitions.yaml": _kserve_definitions,
    "kserve.yaml": _kserve_manifests,
    "pause.tar": _pause_image,
    "coredns.tar": _dns_image,
}


def _digest_of_asset(name: str) -> str:
    sources = [MODULES / "go.mod", MODULES / "coredns/main.go", MODULES / "pause/pause.c", Path(__file__)]
    return hashlib.sha256(b"\0".join([name.encode(), *(source.read_bytes() for source in sources)])).hexdigest()


def write_image(target: Path, reference: str, program: Path) -> None:
    """A container image with one static program and nothing else, as `ctr images import` takes it."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        entry = tarfile.TarInfo(program.name)
        entry.size, entry.mode = program.stat().st_size, 0o755
        with program.open("rb") as content:
            archive.addfile(entry, content)
    layer_digest = hashlib.sha256(layer.getvalue()).hexdigest()
    settings = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    with tarfile.open(target, mode="w") as archive:
        for name, content in {
            "config.json": json.dumps(settings).encode(),
            "layer.tar": layer.getvalue(),
            "manifest.json": json.dumps(manifest).encode(),
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _built(place: Place) -> dict[str, str]:
    try:
        return json.loads((place.binaries / "built.json").read_text())
    except FileNotFoundError:
        return {}


def _remember(place: Place, name: str, digest: str) -> None:
    written = place.binaries / "built.json.new"
    written.write_text(json.dumps({**_built(place), name: digest}, indent=2) + "\n")
    written.replace(place.binaries / "built.json")


def check_machine(place: Place) -> None:
    """Raise ClusterError with everything that is missing, before minutes are spent."""
    needs_go = bool(outdated(place) or outdated_assets(place))
    if lacks := host.missing(needs_go=needs_go, needs_compiler=_needs_compiler(place)):
        raise ClusterError("this machine cannot hold the cluster; it lacks\n  " + "\n  ".join(lacks))


def prepare_machine(place: Place) -> None:
    """`check_machine`, then install what can be installed."""
    check_machine(place)
    host.install_packages(needs_compiler=_needs_compiler(place))


def _needs_compiler(place: Place) -> bool:
    return "pause.tar" in outdated_assets(place)
