"""The overlays for GKE, asked of a real API server: defaults, strict fields, immutability and the CRDs' CEL rules.

The kinds that GKE and the platform's parts bring are made for the test and go again. Nothing else is changed: a dry run
is judged like a real one. Values that Google alone knows (classes, annotations) are not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.cluster import manifests
from tests.cluster.harness import Cluster
from tests.cluster.place import ClusterError
from tests.manifests import schemas
from tests.manifests.conftest import GKE, fill, pick

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

Object = dict[str, Any]


KUBEFLOW: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow"}}
"""Upstream's part makes it before an overlay is applied (manifests/upstream.yaml)."""


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    filled = tmp_path_factory.mktemp("filled") / "manifests"
    fill(filled)
    return {name: manifests.objects(manifests.build(filled / name)) for name in GKE}


@pytest.fixture(scope="module")
def kinds(cluster: Cluster, overlays: dict[str, list[Object]]) -> Iterator[None]:
    """The custom kinds that the overlays use and this cluster lacks, and the namespace."""
    known = {one["metadata"]["name"] for one in cluster.get("crd")["items"]}
    used = {(schemas.group_of(one), one["kind"]) for objects in overlays.values() for one in objects}
    try:
        found = [
            crd
            for group, kind in sorted(used)
            if group in schemas.SOURCES
            for crd in schemas._custom_resource_definitions(schemas.SOURCES[group], kind)
            if crd["metadata"]["name"] not in known
        ]
    except schemas.SchemaMissing as reason:
        pytest.skip(str(reason))
    for crd in found:
        crd["spec"].pop("conversion", None)  # by a webhook of a controller that does not run here
        crd["metadata"] = {key: crd["metadata"][key] for key in ("name", "annotations") if key in crd["metadata"]}
        crd["metadata"].get("annotations", {}).pop("cert-manager.io/inject-ca-from", None)
    names = [crd["metadata"]["name"] for crd in found]
    cluster.apply([*found, KUBEFLOW])
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{name}" for name in names))
    yield
    cluster.kubectl("delete", "crd", *names)
    cluster.kubectl("delete", "namespace", KUBEFLOW["metadata"]["name"])


def asked(cluster: Cluster, objects: list[Object]) -> str:
    """What a server-side dry run of all of them prints. Raises ClusterError with the API server's words."""
    given = yaml.safe_dump_all(objects)
    flags = ["--server-side", "--force-conflicts", "--field-manager", manifests.FIELD_MANAGER, "--validate=strict"]
    return cluster.kubectl("apply", "--dry-run=server", *flags, "-f", "-", given=given, seconds=120)


@pytest.mark.parametrize("name", GKE)
def test_the_api_server_takes_every_object(cluster: Cluster, kinds: None, overlays: dict[str, list[Object]], name: str):
    said = asked(cluster, overlays[name])
    assert len(said.splitlines()) == len(overlays[name]) > 50


@pytest.mark.parametrize(
    ("kind", "name", "change", "words"),
    [
        ("ClusterQueue", "slipway-steps", {"resourceGroup": []}, "resourceGroup"),  # a field that there is not
        ("Gateway", "slipway", {"listeners": []}, "listeners"),  # the schema wants one
        ("PodMonitoring", "predictor", {"endpoints": [{"port": "http", "interval": "soon"}]}, "interval"),
    ],
)
def test_a_mistake_is_refused(
    cluster: Cluster, kinds: None, overlays: dict[str, list[Object]], kind: str, name: str, change: Object, words: str
):
    wrong = json.loads(json.dumps(pick(overlays[GKE[1]], kind, name)))
    wrong["spec"] |= change
    with pytest.raises(ClusterError, match=words):
        asked(cluster, [wrong])
