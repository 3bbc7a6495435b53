"""The manifests as kubectl renders them, once for all tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import manifests

NODE_IP = "10.1.2.3"
IMAGES = {
    "slipway-serving": f"{NODE_IP}:5000/slipway-serving@sha256:{'a' * 64}",
    "slipway-python": f"{NODE_IP}:5000/slipway-python@sha256:{'b' * 64}",
}

Object = dict[str, Any]


@pytest.fixture(scope="session")
def renderings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    """Name -> objects: each kustomization of the repository, and what the harness makes of the test cluster's."""
    try:
        manifests.kubectl()
    except manifests.ManifestsError as reason:
        pytest.skip(str(reason))
    found = {
        str(folder.relative_to(manifests.ROOT / "manifests")): manifests.objects(manifests.build(folder))
        for folder in kustomizations()
    }
    folder = tmp_path_factory.mktemp("kustomization")
    return found | {"machine": manifests.objects(manifests.render(NODE_IP, IMAGES, folder))}


def kustomizations() -> list[Path]:
    """Folders that stand by themselves: the base and the overlays."""
    folder = manifests.ROOT / "manifests"
    return [folder / "base", *sorted(path.parent for path in folder.glob("overlays/*/kustomization.yaml"))]


@pytest.fixture(params=["base", "overlays/test-cluster", "machine"])
def rendered(request: pytest.FixtureRequest, renderings: dict[str, list[Object]]) -> list[Object]:
    """The objects of each rendering in turn, as a copy that a test may change."""
    return copy.deepcopy(renderings[request.param])


def pick(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    (found,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == name]
    return found
