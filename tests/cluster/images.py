"""The project's images, built by buildah without a Docker daemon and pushed to the cluster's registry.

    python -m tests.cluster.images serving|components|components-cuda ...

prints each image's reference by digest. An image carries the digest of what it was made of as its tag, so an image
that the registry has is not built again; after a change of code alone only the last layers are made and pushed.

Environment: BASE_IMAGE takes the place of the base that is made here from Debian's packages; SLIPWAY_REGISTRY that of
the cluster's registry (HOST:PORT, plain HTTP). What this machine's pip is told about where packages come from, and
which certificates it trusts, is given to the build as secrets, so nothing of it stays in an image.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.cluster.place import ROOT, ClusterError, Place

DEBIAN = "bookworm"
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
"""Debian's Python 3.11, as in the public base; with `venv`, which brings pip into a build."""

FREE_GB = 25
"""What building the packages' layer of the steps takes at its peak, and what the registry and containerd take after."""

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PIP_SETTINGS = {"index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries"}
_CA_BUNDLE = "/run/secrets/ca-bundle"
"""Where a build finds the secret `ca-bundle`."""


class ImageError(ClusterError):
    """An image cannot be built or pushed; says what buildah said and where the rest of it is."""


@dataclass(frozen=True)
class Image:
    """One target of one Dockerfile."""

    name: str
    repository: str
    dockerfile: str
    target: str
    folders: tuple[str, ...]
    """What the Dockerfile copies beside `FILES`; a change in it makes another image."""

    flavour: str = ""
    """Ends the tag that names the project's version."""

    free_gb: int = 5


FILES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE")
_STEPS = ("components", "pipelines", "serving")
IMAGES = {
    image.name: image
    for image in (
        Image("serving", "slipway-serving", "serving/Dockerfile", "serving", ("serving",)),
        Image("components", "slipway-python", "components/Dockerfile", "cpu", _STEPS, "-cpu", FREE_GB),
        Image("components-cuda", "slipway-python", "components/Dockerfile", "cuda", _STEPS, "-cuda", FREE_GB),
    )
}


def build(name: str, place: Place | None = None) -> str:
    """Reference by digest of an image that the registry has, REGISTRY/NAME@sha256:…; built and pushed where it is new.

    Raises ImageError.
    """
    image = IMAGES[name]
    place = place or Place()
    registry = os.environ.get("SLIPWAY_REGISTRY") or place.registry
    tag = sources_digest(image)[:16]
    if digest := pushed(registry, image, tag):
        return f"{registry}/{image.repository}@{digest}"
    with _locked(place):
        builder = Builder(place)
        base = base_image(builder)
        builder.dependencies(image, base)
        local = builder.build(image, base, image.target, f"localhost/{image.repository}:{tag}")
        digest = builder.push(local, f"{registry}/{image.repository}", (tag, version() + image.flavour))
        if image.free_gb == FREE_GB:
            same = [one for one in IMAGES.values() if one.repository == image.repository]
            used = {pushed(registry, one, version() + one.flavour) for one in same}
            forget_unpacked(place, f"{registry}/{image.repository}", used)
    return f"{registry}/{image.repository}@{digest}"


def base_image(builder: Builder) -> str:
    """BASE_IMAGE, else Debian's smallest system with Python, made once by debootstrap."""
    if chosen := os.environ.get("BASE_IMAGE"):
        return chosen
    reference = f"localhost/slipway-base:{DEBIAN}-{_sha256(BASE_PACKAGES)[:8]}"
    if builder.has(reference):
        return reference
    with tempfile.TemporaryDirectory(prefix="slipway-base-") as folder:
        system = Path(folder, "system")
        wanted = ["--variant=minbase", f"--include={','.join(BASE_PACKAGES)}"]
        builder.run("base", ["debootstrap", *wanted, DEBIAN, str(system)])
        (system / "usr/bin/python").symlink_to("python3")
        for cache in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(system / cache)
        # as an archive: what a build copies from a folder loses its owners
        builder.run("base", ["tar", "-C", str(system), "--numeric-owner", "-cf", f"{folder}/system.tar", "."])
        shutil.rmtree(system)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        Path(folder, "Dockerfile").write_text(f'FROM scratch\nADD system.tar /\nENV PATH={path}\nCMD ["python3"]\n')
        builder.run("base", ["buildah", "bud", "--isolation", "chroot", "--tag", reference, folder])
    return reference


class Builder:
    """buildah, with this machine's way to packages; what it prints goes to a file per image."""

    def __init__(self, place: Place):
        self._logs = place.cache / "images"
        self._logs.mkdir(parents=True, exist_ok=True)

    def dependencies(self, image: Image, base: str) -> None:
        """Make the packages' layer, under a name of its own, which keeps it from being taken for a left-over."""
        repository = f"localhost/{image.repository}-dependencies"
        reference = f"{repository}:{requirements_digest(image, base)[:16]}"
        if self.has(reference):
            return
        for outdated in (f"localhost/{image.repository}", repository):
            self._forget(outdated, keep="")
        free = shutil.disk_usage(self._storage()).free / 1e9
        if free < image.free_gb:
            raise ImageError(
                f"{free:.0f} GB are free where buildah keeps images ({self._storage()}), and the packages of "
                f"{image.name} take up to {image.free_gb} GB until they are pushed; make room and try again"
            )
        self.build(image, base, "dependencies", reference)

    def build(self, image: Image, base: str, target: str, reference: str) -> str:
        """Build one stage and name it; layers that nothing changed are taken from the last build."""
        labels = {"VERSION": version(), "REVISION": _revision()}
        arguments = {"BASE_IMAGE": base} | (labels if target == image.target else {})
        with build_secrets() as secrets:
            flags = [f"--build-arg={name}={value}" for name, value in arguments.items()]
            flags += [f"--secret=id={name},src={path}" for name, path in secrets.items()]
            flags += ["--isolation=chroot", "--layers", "--force-rm", f"--target={target}", f"--tag={reference}"]
            self.run(image.name, ["buildah", "bud", *flags, f"--file={image.dockerfile}", "."])
        self._forget(reference.rpartition(":")[0], keep=reference)
        return reference

    def push(self, reference: str, repository: str, tags: tuple[str, ...]) -> str:
        """Push under each tag; returns the digest, which is the same for all."""
        # zstd at its fastest: gzip of 5 GB takes minutes longer
        flags = ["--tls-verify=false", "--format=oci", "--compression-format=zstd", "--compression-level=1"]
        with tempfile.NamedTemporaryFile("r") as digest:
            for tag in tags:
                target = f"docker://{repository}:{tag}"
                self.run("push", ["buildah", "push", *flags, f"--digestfile={digest.name}", reference, target])
            return digest.read().strip()

    def has(self, reference: str) -> bool:
        """Whether buildah keeps an image of that name."""
        return subprocess.run(["buildah", "inspect", "--type=image", reference], capture_output=True).returncode == 0

    def run(self, subject: str, command: list[str]) -> None:
        """Run a command at the project's root, what it prints going to the subject's log."""
        log = self._logs / f"{subject}.log"
        began = time.monotonic()
        print(f"{subject}: {' '.join(command[:2])} … ({log})", file=sys.stderr, flush=True)
        with log.open("w") as file:
            done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        if done.returncode:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise ImageError(f"`{' '.join(command[:2])}` failed for {subject}; all of it is in {log}, the end:\n{last}")
        print(f"{subject}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    def _forget(self, repository: str, keep: str) -> None:
        """Remove older images of that name: of the steps' packages each takes 6 GB."""
        told = subprocess.run(["buildah", "images", "--json"], capture_output=True, text=True, check=True)
        for name in {name for image in json.loads(told.stdout) for name in image["names"] or []}:
            if name.startswith(f"{repository}:") and name != keep:
                subprocess.run(["buildah", "rmi", name], capture_output=True)

    def _storage(self) -> str:
        told = subprocess.run(["buildah", "info"], capture_output=True, text=True, check=True)
        return json.loads(told.stdout)["store"]["GraphRoot"]


def forget_unpacked(place: Place, repository: str, used: set[str]) -> None:
    """Remove older images of that name from the node, where each takes 6 GB; a pod that wants one pulls it again."""
    if not place.containerd_socket.exists():
        return
    containerd = ["ctr", f"--address={place.containerd_socket}", "--namespace=k8s.io", "images"]
    told = subprocess.run([*containerd, "list"], capture_output=True, text=True)
    images = [line.split()[:3:2] for line in told.stdout.splitlines()[1:]]  # name, digest; an image has several names
    old = {digest for name, digest in images if re.match(f"{re.escape(repository)}[@:]", name)} - used
    if names := [name for name, digest in images if digest in old]:
        subprocess.run([*containerd, "remove", *names], capture_output=True)


def sources_digest(image: Image) -> str:
    """Digest of everything that decides what is in an image, the base's name included."""
    paths = [ROOT / name for name in (*FILES, ".dockerignore", image.dockerfile)]
    for folder in image.folders:
        found = (ROOT / folder).rglob("*")
        paths += [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    files = {str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return _sha256([sorted(files.items()), image.target, os.environ.get("BASE_IMAGE", [DEBIAN, *BASE_PACKAGES])])


def requirements_digest(image: Image, base: str) -> str:
    """Digest of what decides the packages' layer."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [project["dependencies"], project["optional-dependencies"]]
    files = [(ROOT / name).read_text() for name in ("constraints.txt", image.dockerfile)]
    return _sha256([requirements, files, base])


def pushed(registry: str, image: Image, tag: str) -> str:
    """Digest of what the registry has under a tag; empty when it has nothing.

    Raises ImageError when no registry answers.
    """
    try:
        answer = httpx.head(
            f"http://{registry}/v2/{image.repository}/manifests/{tag}", headers={"Accept": MANIFEST}, timeout=10
        )
    except httpx.HTTPError as error:
        raise ImageError(f"no registry answers at {registry} ({error}); `make cluster` starts one") from error
    if answer.status_code not in (200, 404):
        raise ImageError(f"the registry at {registry} answers {answer.status_code} when asked for {image.repository}")
    return answer.headers["Docker-Content-Digest"] if answer.status_code == 200 else ""


def version() -> str:
    """The project's, as pyproject.toml has it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@contextmanager
def build_secrets() -> Iterator[dict[str, Path]]:
    """`pip.conf` and, where pip is told of one, `ca-bundle`: files that live as long as the build."""
    settings, bundle = pip_settings()
    with tempfile.TemporaryDirectory(prefix="slipway-secrets-") as folder:
        secrets = {"pip.conf": Path(folder, "pip.conf")}
        if bundle:
            secrets["ca-bundle"] = Path(folder, "ca-bundle")
            shutil.copyfile(bundle, secrets["ca-bundle"])
            settings["cert"] = _CA_BUNDLE
        lines = [f"{name} = {value}" for name, value in sorted(settings.items())]
        secrets["pip.conf"].write_text("\n".join(["[global]", *lines, ""]))
        yield secrets


def pip_settings() -> tuple[dict[str, str], str]:
    """What this machine's pip is told about the way to packages, and the file of certificates that it trusts, or ""."""
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings: dict[str, str] = {}
    for line in told.stdout.splitlines():  # global.index-url='…', then :env:.index-url='…', which wins
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = str(ast.literal_eval(value)).replace("\n", " ")
    trusted = settings.get("cert") or os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or ""
    return {name: value for name, value in settings.items() if name in _PIP_SETTINGS}, trusted


def _revision() -> str:
    """The commit, marked when there are changes beside it; empty outside of a repository."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return told.stdout.strip() if told.returncode == 0 else ""


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@contextmanager
def _locked(place: Place) -> Iterator[None]:
    """One build at a time: two would make the same layers twice."""
    place.cache.mkdir(parents=True, exist_ok=True)
    with (place.cache / "images.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(names: list[str]) -> int:
    if not names or not set(names) <= IMAGES.keys():
        print(f"usage: python -m tests.cluster.images {'|'.join(IMAGES)} ...", file=sys.stderr)
        return 2
    try:
        for name in names:
            print(build(name), flush=True)
    except ImageError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
