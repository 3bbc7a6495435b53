"""What the tests of images share.

SLIPWAY_IMAGES=off skips what needs a program or a built image; =required fails where it would be skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from images import catalogue, tools
from images.build import Built
from images.engine import Buildah, Engine, choose
from images.errors import ImageError

ROOT = Path(__file__).parents[2]


def unavailable(reason: str) -> None:
    """Skip, or fail where images are required."""
    if os.environ.get("SLIPWAY_IMAGES") == "required":
        pytest.fail(f"SLIPWAY_IMAGES=required, but {reason}")
    pytest.skip(reason)


def program(name: str, tool: str = "") -> str:
    """A program of .ci/tools.txt; else the test ends."""
    if os.environ.get("SLIPWAY_IMAGES") == "off":
        pytest.skip("SLIPWAY_IMAGES=off")
    try:
        return tools.program(name, tool)
    except ImageError as error:
        unavailable(str(error))
        raise AssertionError from error


def built(name: str, logs: Path) -> tuple[Built, Engine]:
    """An image that `make images` has made, and who keeps it; else the test ends."""
    if os.environ.get("SLIPWAY_IMAGES") == "off":
        pytest.skip("SLIPWAY_IMAGES=off")
    try:
        found = Built.read(name)
        engine = choose(found.engine, logs)
        if not engine.has(found.reference):
            raise ImageError(f"{found.reference} is not here any more: make images IMAGES={name}")
        if isinstance(engine, Buildah) and os.geteuid() != 0:
            raise ImageError("buildah shows an image's files to root alone: buildah unshare make images-test")
    except ImageError as error:
        unavailable(str(error))
        raise AssertionError from error
    return found, engine


@pytest.fixture(params=sorted(catalogue.IMAGES))
def image(request: pytest.FixtureRequest) -> catalogue.Image:
    return catalogue.IMAGES[request.param]
