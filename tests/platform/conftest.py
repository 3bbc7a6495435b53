"""upstream.yaml, and its parts as they are rendered, once for all tests.

What a part is made of may not be on this machine: upstream's files, helm, kubectl. Its tests are then skipped with that
reason; SLIPWAY_PLATFORM=required makes it a failure, =off skips all of them.

    python -m manifests.installer helm             # builds helm, where there is none
    python -m manifests.installer fetch            # from GitHub; or fetch --modules, from Go's module proxy
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from manifests.installer import rendering
from manifests.installer.errors import PlatformError
from manifests.installer.rendering import MANIFESTS, Given
from pipelines import platform_parts
from pipelines.platform_parts import Environment, Platform

Object = dict[str, Any]
Rendered = Callable[[str, Environment], list[Object]]

BROUGHT: list[tuple[str, Environment]] = [
    (part.name, environment)
    for part in platform_parts.read().parts
    for environment in ({folder: where for where, folder in part.kustomization.items()}.values() or ("prod",))
    if not part.by
]
"""All that is applied from here, once for each folder; charts take nothing from the environment."""


@pytest.fixture(scope="session")
def platform() -> Platform:
    return platform_parts.read()


def example(environment: Environment) -> Given:
    """What Terraform and a push would say: the examples of the repository."""
    said = rendering.read_variables(MANIFESTS / "platform.env.example") | {"PLATFORM_ENVIRONMENT": environment}
    said.setdefault("PLATFORM_ACCOUNT_DASHBOARD", "slipway-dev-dashboard@my-project.iam.gserviceaccount.com")
    images = (MANIFESTS / "images.env.example").read_text().replace("DIGEST", "a" * 64)
    return Given(environment, said, images)


@functools.cache
def _render(name: str, environment: Environment) -> bytes:
    """Pickled: the quickest copy of KServe's two megabytes."""
    platform = platform_parts.read()
    (part,) = [one for one in platform.parts if one.name == name]
    return pickle.dumps(rendering.render(platform, part, example(environment)))


@pytest.fixture(scope="session")
def rendered() -> Rendered:
    """(part, environment) -> its objects, as copies that a test may change."""

    def render(name: str, environment: Environment) -> list[Object]:
        with skipped_where_missing():
            return pickle.loads(_render(name, environment))

    return render


@contextmanager
def skipped_where_missing() -> Iterator[None]:
    """Skips the test where this machine lacks something; what is wrong with the manifests stays a failure."""
    setting = os.environ.get("SLIPWAY_PLATFORM", "")
    if setting == "off":
        pytest.skip("SLIPWAY_PLATFORM=off")
    try:
        yield
    except PlatformError as error:
        missing = ("is not on this machine", "there is no helm", "there is no kubectl")
        if setting == "required" or not any(words in str(error) for words in missing):
            raise
        pytest.skip(str(error))


def pick(objects: list[Object], kind: str, name: str, namespace: str = "") -> Object:
    """The one object of this kind and name."""
    (found,) = [
        one
        for one in objects
        if (one["kind"], one["metadata"]["name"]) == (kind, name)
        and namespace in ("", one["metadata"].get("namespace", ""))
    ]
    return found
