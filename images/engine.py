"""buildah or docker, behind the few things that are asked of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from images.errors import ImageError
from images.secrets import build_secrets

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Order:
    """One stage to build."""

    subject: str
    """Names the log."""

    dockerfile: str
    target: str
    reference: str
    """What the result is called."""

    arguments: dict[str, str]
    context: Path = ROOT


class Engine(ABC):
    """What it prints goes to a file per subject."""

    name: str

    def __init__(self, logs: Path):
        self._logs = logs
        self._logs.mkdir(parents=True, exist_ok=True)

    def build(self, order: Order) -> None:
        """Build one stage and name it; layers that nothing changed are taken from the last build."""
        with build_secrets() as secrets:
            flags = [f"--build-arg={name}={value}" for name, value in order.arguments.items()]
            flags += [f"--secret=id={name},src={path}" for name, path in secrets.items()]
            flags += [f"--target={order.target}"] if order.target else []
            flags += [f"--tag={order.reference}", f"--file={ROOT / order.dockerfile}", str(order.context)]
            self.run(order.subject, [*self._build_command(), *flags])

    @abstractmethod
    def _build_command(self) -> list[str]: ...

    @abstractmethod
    def has(self, reference: str) -> bool:
        """Whether an image of that name is kept."""

    @abstractmethod
    def config(self, reference: str) -> dict[str, Any]:
        """User, Env, Labels, Entrypoint … of an image."""

    @abstractmethod
    def identity(self, reference: str) -> str:
        """Its own digest, sha256:…, whatever it is called."""

    @abstractmethod
    def root(self, reference: str) -> Any:
        """Context manager: a folder that holds the image's file system, not to be changed."""

    @abstractmethod
    def push(self, reference: str, repository: str, tags: Sequence[str], *, plain_http: bool = False) -> str:
        """Push under each tag; returns the digest, which is the same for all."""

    @abstractmethod
    def forget(self, repository: str, keep: str) -> None:
        """Remove older images of that name: of the steps' packages each takes 6 GB."""

    @abstractmethod
    def storage(self) -> str:
        """The folder where images are kept."""

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


class Buildah(Engine):
    """Needs no daemon; as root, or inside `buildah unshare`."""

    name = "buildah"

    def _build_command(self) -> list[str]:
        return ["buildah", "bud", "--isolation=chroot", "--layers", "--force-rm"]

    def has(self, reference: str) -> bool:
        return subprocess.run(["buildah", "inspect", "--type=image", reference], capture_output=True).returncode == 0

    def config(self, reference: str) -> dict[str, Any]:
        return self._inspect(reference)["OCIv1"]["config"]

    def identity(self, reference: str) -> str:
        return "sha256:" + self._inspect(reference)["FromImageID"]

    @contextmanager
    def root(self, reference: str) -> Iterator[Path]:
        container = _told(["buildah", "from", "--pull-never", reference])
        try:
            yield Path(_told(["buildah", "mount", container]))
        finally:
            _told(["buildah", "rm", container])

    def push(self, reference: str, repository: str, tags: Sequence[str], *, plain_http: bool = False) -> str:
        # zstd at its fastest: gzip of 5 GB takes minutes longer
        flags = ["--format=oci", "--compression-format=zstd", "--compression-level=1"]
        flags += ["--tls-verify=false"] if plain_http else []
        with tempfile.NamedTemporaryFile("r") as digest:
            for tag in tags:
                target = f"docker://{repository}:{tag}"
                self.run("push", ["buildah", "push", *flags, f"--digestfile={digest.name}", reference, target])
            return digest.read().strip()

    def forget(self, repository: str, keep: str) -> None:
        for name in {
            name for image in json.loads(_told(["buildah", "images", "--json"])) for name in image["names"] or []
        }:
            if name.startswith(f"{repository}:") and name != keep:
                subprocess.run(["buildah", "rmi", name], capture_output=True)

    def storage(self) -> str:
        return json.loads(_told(["buildah", "info"]))["store"]["GraphRoot"]

    def _inspect(self, reference: str) -> dict[str, Any]:
        return json.loads(_told(["buildah", "inspect", "--type=image", reference]))


class Docker(Engine):
    """With BuildKit, which knows secrets."""

    name = "docker"

    def _build_command(self) -> list[str]:
        return ["docker", "buildx", "build", "--load", "--provenance=false"]

    def has(self, reference: str) -> bool:
        return subprocess.run(["docker", "image", "inspect", reference], capture_output=True).returncode == 0

    def config(self, reference: str) -> dict[str, Any]:
        return self._inspect(reference)["Config"]

    def identity(self, reference: str) -> str:
        return self._inspect(reference)["Id"]

    @contextmanager
    def root(self, reference: str) -> Iterator[Path]:
        container = _told(["docker", "create", reference])
        try:
            with tempfile.TemporaryDirectory(prefix="slipway-root-") as folder:
                with (
                    subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export,
                    tarfile.open(fileobj=export.stdout, mode="r|") as archive,
                ):
                    # what comes in is chosen by _readable; a filter of tarfile's own is not there before 3.11.4
                    archive.extraction_filter = lambda member, _: member
                    archive.extractall(folder, members=_readable(archive))
                if export.returncode:
                    raise ImageError(f"`docker export` failed for {reference}")
                yield Path(folder)
        finally:
            _told(["docker", "rm", container])

    def push(self, reference: str, repository: str, tags: Sequence[str], *, plain_http: bool = False) -> str:
        for tag in tags:
            _told(["docker", "tag", reference, f"{repository}:{tag}"])
            self.run("push", ["docker", "push", f"{repository}:{tag}"])
        known = json.loads(_told(["docker", "image", "inspect", "--format={{json .RepoDigests}}", reference]))
        return next(one.partition("@")[2] for one in known if one.startswith(f"{repository}@"))

    def forget(self, repository: str, keep: str) -> None:
        for name in _told(["docker", "image", "ls", "--format={{.Repository}}:{{.Tag}}", repository]).splitlines():
            if name != keep:
                subprocess.run(["docker", "image", "rm", name], capture_output=True)

    def storage(self) -> str:
        return _told(["docker", "info", "--format={{.DockerRootDir}}"])

    def _inspect(self, reference: str) -> dict[str, Any]:
        return json.loads(_told(["docker", "image", "inspect", reference]))[0]


def _readable(members: Iterable[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    """Files and folders with their modes, as ours. Links and paths could lead out, and owners and devices need root."""
    for member in members:
        paths = [PurePosixPath(member.name), PurePosixPath(member.linkname)]
        inside = not any(path.is_absolute() or ".." in path.parts for path in paths)
        if inside and (member.isfile() or member.isdir() or member.islnk()):
            member.mode |= 0o400
            member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
            yield member


def choose(name: str, logs: Path) -> Engine:
    """By name; without one buildah, else docker. Raises ImageError."""
    known: dict[str, type[Engine]] = {"buildah": Buildah, "docker": Docker}
    here = [one for one in known if shutil.which(one)]
    name = name or os.environ.get("ENGINE", "") or next(iter(here), "buildah")
    if name not in known:
        raise ImageError(f"ENGINE={name}: buildah or docker")
    if name not in here:
        raise ImageError(f"{name} is not installed; images are built by buildah (apt install buildah) or docker")
    return known[name](logs)


def _told(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ImageError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()
