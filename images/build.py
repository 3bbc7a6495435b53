"""`make images`: builds the images, looks into each, and says what each one is in build/images/NAME.json."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from images import base, catalogue, look, sizes
from images.catalogue import Image
from images.engine import Engine, Order
from images.errors import ImageError

OUTPUT = catalogue.ROOT / "build/images"


@dataclass(frozen=True)
class Built:
    """What is told of an image that was built."""

    name: str
    reference: str
    """Under which the engine keeps it."""

    identity: str
    """Digest of its configuration, whatever it is called."""

    repository: str
    flavour: str
    """Ends every tag under which it is pushed."""

    base: str
    pinned: bool
    """Whether the base is named by digest."""

    megabytes: int
    engine: str

    @property
    def file(self) -> Path:
        return OUTPUT / f"{self.name}.json"

    def write(self) -> None:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, name: str) -> Built:
        """Raises ImageError where it was not built."""
        file = OUTPUT / f"{name}.json"
        if not file.exists():
            raise ImageError(f"{name} was not built here: make images IMAGES={name}")
        return cls(**json.loads(file.read_text()))


def build(names: Sequence[str], engine: Engine, *, pinned_only: bool = False) -> list[Built]:
    """Build, look into and describe images; raises ImageError, for what was found inside as well."""
    stands_on = base.choose(engine, pinned_only=pinned_only)
    if not base.pinned(stands_on):
        print(
            f"images: the base {stands_on} is not named by digest: for this machine, not for a release", file=sys.stderr
        )
    done, findings = [], []
    for image in catalogue.chosen(names):
        reference = f"{image.local}:{catalogue.sources_digest(image, base_image=stands_on)[:16]}"
        dependencies(image, engine, stands_on)
        target(image, engine, stands_on, reference)
        built, found = describe(image.name, image.repository, image.flavour, engine, stands_on, reference)
        done.append(built)
        findings += found
    if findings:
        raise ImageError("\n".join(["what was built is not as it should be:", *findings]))
    return done


def dependencies(image: Image, engine: Engine, stands_on: str) -> None:
    """Make the packages' layer, under a name of its own, which keeps it from being taken for a left-over."""
    repository = f"localhost/{image.repository}-dependencies"
    reference = f"{repository}:{catalogue.dependencies_digest(image, stands_on)[:16]}"
    if engine.has(reference):
        return
    same = [one.local for one in catalogue.IMAGES.values() if one.repository == image.repository]
    for outdated in (*same, repository):
        engine.forget(outdated, keep="")
    check_room(image, engine)
    engine.build(Order(image.name, image.dockerfile, "dependencies", reference, {"BASE_IMAGE": stands_on}))


def check_room(image: Image, engine: Engine) -> None:
    """Raises ImageError before gigabytes are fetched."""
    storage = engine.storage()
    if not Path(storage).exists():  # a Docker daemon may be on another machine, or inside one
        return
    free = shutil.disk_usage(storage).free / 1e9
    if free < image.free_gb:
        raise ImageError(
            f"{free:.0f} GB are free where {engine.name} keeps images ({storage}), and the packages of "
            f"{image.name} take up to {image.free_gb} GB until they are pushed; make room and try again"
        )


def target(image: Image, engine: Engine, stands_on: str, reference: str) -> None:
    """Build the image itself; earlier ones of its name go."""
    says = {"VERSION": catalogue.version(), "REVISION": catalogue.revision(), "SOURCE": catalogue.source()}
    engine.build(Order(image.name, image.dockerfile, image.target, reference, {"BASE_IMAGE": stands_on, **says}))
    engine.forget(image.local, keep=reference)


def describe(
    name: str, repository: str, flavour: str, engine: Engine, stands_on: str, reference: str
) -> tuple[Built, list[str]]:
    """(what was built, which is written down where nothing is wrong with it; what is wrong with it)."""
    with engine.root(reference) as root:
        megabytes = sizes.measure(root)
        findings = look.findings(root, engine.config(reference))
    if name in catalogue.IMAGES:  # a release's own size is its matter
        findings += sizes.problems(name, megabytes)
    identity = engine.identity(reference)
    built = Built(
        name, reference, identity, repository, flavour, stands_on, base.pinned(stands_on), megabytes, engine.name
    )
    built.file.unlink(missing_ok=True)
    if not findings:  # else others would take it for one that may be released
        built.write()
    print(f"{name}: {reference}, {megabytes} MB", file=sys.stderr)
    return built, [f"{name}: {finding}" for finding in findings]
