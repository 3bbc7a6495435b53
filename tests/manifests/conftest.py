"""The manifests as kubectl renders them, once for all tests."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import manifests
from tests.manifests import schemas

NODE_IP = "10.1.2.3"
IMAGES = {
    "slipway-serving": f"{NODE_IP}:5000/slipway-serving@sha256:{'a' * 64}",
    "slipway-python": f"{NODE_IP}:5000/slipway-python@sha256:{'b' * 64}",
}
MANIFESTS = manifests.ROOT / "manifests"
GKE = ["overlays/gke-ephemeral", "overlays/gke-dev", "overlays/gke-prod"]

Object = dict[str, Any]


def unavailable(reason: object) -> None:
    """Skip, or fail where nothing may be left out: SLIPWAY_MANIFESTS=required."""
    if os.environ.get("SLIPWAY_MANIFESTS") == "required":
        pytest.fail(f"SLIPWAY_MANIFESTS=required, but {reason}")
    pytest.skip(str(reason))


@pytest.fixture(scope="session")
def renderings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    """Name -> objects: each kustomization of the repository, and what the harness makes of the test cluster's."""
    try:
        manifests.kubectl()
    except manifests.ManifestsError as reason:
        unavailable(reason)
    filled = tmp_path_factory.mktemp("filled") / "manifests"
    fill(filled)
    found = {name: manifests.objects(manifests.build(filled / name)) for name in kustomizations()}
    folder = tmp_path_factory.mktemp("kustomization")
    return found | {"machine": manifests.objects(manifests.render(NODE_IP, IMAGES, folder))}


def kustomizations() -> list[str]:
    """Folders that stand by themselves: the base and the overlays."""
    overlays = (path.parent.relative_to(MANIFESTS) for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
    return ["base", *sorted(str(folder) for folder in overlays)]


def fill(folder: Path) -> None:
    """A copy of manifests/ whose overlays for GKE have the two files that are somebody's own, from the examples."""
    shutil.copytree(MANIFESTS, folder, ignore=shutil.ignore_patterns("*.env", "__pycache__"))
    platform = (MANIFESTS / "platform.env.example").read_text()
    images = (MANIFESTS / "images.env.example").read_text().replace("sha256:DIGEST", f"sha256:{'c' * 64}")
    for name in GKE:
        (folder / name / "platform.env").write_text(platform)
        (folder / name / "images.env").write_text(images)


def each_of(*names: str) -> Any:
    """A fixture: the objects of each of these renderings in turn, as a copy that a test may change."""

    @pytest.fixture(params=names)
    def objects(request: pytest.FixtureRequest, renderings: dict[str, list[Object]]) -> list[Object]:
        return copy.deepcopy(renderings[request.param])

    return objects


rendered = each_of("base", "overlays/test-cluster", *GKE, "machine")
on_gke = each_of(*GKE)


def pick(objects: list[Object], kind: str, name: str, namespace: str = "") -> Object:
    """The one object of this kind and name."""
    (found,) = [
        one
        for one in objects
        if (one["kind"], one["metadata"]["name"]) == (kind, name)
        and namespace in ("", one["metadata"].get("namespace"))
    ]
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the schemas leave unchecked."""
    if any("test_schemas.py" in str(report.nodeid) for report in terminalreporter.getreports("passed")):
        terminalreporter.write_sep("-", "manifests")
        for what, why in schemas.UNCHECKED.items():
            terminalreporter.write_line(f"unchecked: {what} ({why})")
