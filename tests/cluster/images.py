"""The project's images, built by buildah without a Docker daemon and pushed to the cluster's registry.

    python -m tests.cluster.images serving|components|components-cuda ...

prints each image's reference by digest. An image carries the digest of what it was made of as its tag, so an image
that the registry has is not built again; after a change of code alone only the last layers are made and pushed.

Environment: BASE_IMAGE takes the place of the base that is made here from Debian's packages; SLIPWAY_REGISTRY that of
the cluster's registry (HOST:PORT, plain HTTP). How images are built is `images/`'s matter.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from images import base as bases
from images import build as making
from images import catalogue
from images.catalogue import FREE_GB, IMAGES, Image, version
from images.engine import Buildah
from images.errors import ImageError as BuildError
from tests.cluster.place import ClusterError, Place

__all__ = ["IMAGES", "Builder", "Image", "ImageError", "base_image", "build", "pushed", "sources_digest", "version"]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class ImageError(ClusterError):
    """An image cannot be built or pushed; says what buildah said and where the rest of it is."""


class Builder(Buildah):
    """buildah, with its logs in the cluster's cache; the registry of the cluster speaks plain HTTP."""

    def __init__(self, place: Place):
        super().__init__(place.cache / "images")

    def push(self, reference: str, repository: str, tags: tuple[str, ...], *, plain_http: bool = True) -> str:
        return super().push(reference, repository, tags, plain_http=plain_http)


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
        local = f"{image.local}:{tag}"
        try:
            base = base_image(builder)
            making.dependencies(image, builder, base)
            making.target(image, builder, base, local)
            digest = builder.push(local, f"{registry}/{image.repository}", (tag, version() + image.flavour))
        except BuildError as error:
            raise ImageError(str(error)) from error
        if image.free_gb == FREE_GB:
            same = [one for one in IMAGES.values() if one.repository == image.repository]
            used = {pushed(registry, one, version() + one.flavour) for one in same}
            forget_unpacked(place, f"{registry}/{image.repository}", used)
    return f"{registry}/{image.repository}@{digest}"


def base_image(builder: Builder) -> str:
    """BASE_IMAGE, else Debian's smallest system with Python: a cluster for tests asks no registry elsewhere."""
    return os.environ.get("BASE_IMAGE") or bases.debian(builder)


def sources_digest(image: Image) -> str:
    """Digest of everything that decides what is in an image, the base's name included."""
    return catalogue.sources_digest(image, base_image=os.environ.get("BASE_IMAGE", ""))


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
