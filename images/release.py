"""An image with one release in it, for Cloud Run: `make images IMAGES=release RELEASE=DIRECTORY`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from images import build, catalogue
from images.build import Built
from images.engine import Engine, Order
from images.errors import ImageError
from serving.release import ReleaseError, verify_release

NAME = "release"
REPOSITORY = "slipway-release"
DOCKERFILE = "images/release.Dockerfile"
PLACE = "/mnt/models"
"""Where the release lies inside: `release = {baked = "/mnt/models"}` in terraform/environments/cloudrun."""


def build_release(directory: Path, engine: Engine) -> Built:
    """Bake a release into the serving image that was built last.

    It is verified here, so that a mistake is told at once, and again inside, so that what is in the image is what its
    digest says. Raises ImageError.
    """
    serving = Built.read("serving")
    if not engine.has(serving.reference):
        raise ImageError(f"{serving.reference} is not here any more: make images IMAGES=serving")
    try:
        digest = verify_release(directory).digest
    except ReleaseError as error:
        raise ImageError(f"RELEASE={directory}: {error}") from error
    reference = f"localhost/{REPOSITORY}:{digest.removeprefix('sha256:')[:16]}"
    arguments = {
        "SERVING_IMAGE": serving.reference,
        "RELEASE_DIGEST": digest,
        "VERSION": catalogue.version(),
        "REVISION": catalogue.revision(),
        "SOURCE": catalogue.source(),
    }
    with tempfile.TemporaryDirectory(prefix="slipway-release-") as folder:
        context = Path(folder, "context")
        _copy(directory, context)
        engine.build(Order(NAME, DOCKERFILE, "", reference, arguments, context))
    built, findings = build.describe(NAME, REPOSITORY, "", engine, serving.base, reference)
    if findings:
        raise ImageError("\n".join(findings))
    return built


def _copy(directory: Path, context: Path) -> None:
    """With modes that the server's user can read, whatever the one who made the release has set."""
    shutil.copytree(directory, context / "release")
    for path in (context, *context.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
