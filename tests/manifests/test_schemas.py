"""Every object that is applied has the form that its API takes."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from components.rollout.config import KServeConfig, RolloutConfig
from components.rollout.kserve import objects
from components.rollout.kserve.objects import Record
from tests.cluster import manifests
from tests.manifests.conftest import Object, pick, unavailable
from tests.manifests.schemas import BESIDE, SOURCES, SchemaMissing, custom_schemas, faults, group_of


def test_kubernetes_own_kinds(rendered: list[Object]) -> None:
    own = [one for one in rendered if group_of(one) not in SOURCES]

    assert len(own) >= 20
    assert {f"{one['kind']}/{one['metadata']['name']}": faults(one) for one in own if faults(one)} == {}


def test_custom_kinds(rendered: list[Object]) -> None:
    custom = [one for one in rendered if group_of(one) in SOURCES]

    assert {one["kind"] for one in custom} >= {"Gateway", "ServingRuntime", "ClusterStorageContainer"}
    try:
        wrong = {f"{one['kind']}/{one['metadata']['name']}": faults(one) for one in custom if faults(one)}
    except SchemaMissing as reason:
        unavailable(reason)
    assert wrong == {}


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("serving.kserve.io", "ServingRuntime"),
        ("gateway.networking.k8s.io", "Gateway"),
        ("networking.gke.io", "GCPGatewayPolicy"),
        ("monitoring.googleapis.com", "PodMonitoring"),
        ("cert-manager.io", "Certificate"),
        ("keda.sh", "ScaledObject"),
        ("kueue.x-k8s.io", "ClusterQueue"),
    ],
)
def test_every_source_describes_its_group(group: str, kind: str) -> None:
    """A pattern that finds other files, or a version that has moved them, would leave kinds unknown."""
    assert group in SOURCES
    try:
        assert custom_schemas(group, kind)
        assert custom_schemas(group, "Nonsense") == {}
    except SchemaMissing as reason:
        unavailable(reason)


def test_the_schemas_are_of_the_versions_that_are_installed() -> None:
    upstream = yaml.safe_load((manifests.ROOT / "manifests/upstream.yaml").read_text())
    installed = {one["module"]: one["ref"] for one in upstream["sources"].values() if "module" in one}
    (keda,) = re.findall(r"keda-(\d[\d.]*\d)\.tgz", upstream["sources"]["keda"]["archive"])
    installed["github.com/kedacore/keda/v2"] = f"v{keda}"
    # the others GKE brings itself, at versions of its own
    checked = {one.module: one.version for one in SOURCES.values() if one.module in installed}

    assert {one.rpartition("/")[2] for one in checked} == {"kserve", "cert-manager", "v2", "kueue"}
    assert checked == {module: installed[module] for module in checked}


def test_every_module_has_its_checksum() -> None:
    sums = (BESIDE / "go.sum").read_text()

    for one in SOURCES.values():
        if one.folder == BESIDE:
            assert re.search(rf"^{re.escape(one.module)} {re.escape(one.version)} h1:", sums, re.M), one.module


def test_a_misspelt_field_of_kubernetes_is_found(renderings: dict[str, list[Object]]) -> None:
    job = pick(renderings["base"], "CronJob", "rollout-janitor")
    misspelt = {**job, "spec": {**job["spec"], "concurencyPolicy": "Forbid"}}

    assert len(faults(misspelt)) == 1 and "concurencyPolicy" in faults(misspelt)[0]


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "words"),
    [
        ("StorageClass", "slipway-store", ("reclaimpolicy",), "Retain", "reclaimpolicy"),
        ("PersistentVolumeClaim", "slipway-store", ("spec", "accessModes"), "ReadWriteMany", "is not of type"),
        ("PriorityClass", "slipway-serving", ("value",), "high", "is not of type"),
        ("ResourceQuota", "most", ("spec", "hrad"), {}, "hrad"),
        ("LimitRange", "defaults", ("spec", "limits", 0, "defaultRequests"), {}, "defaultRequests"),
        ("Job", "store-owner", ("spec", "template", "spec", "securityContext", "fsgroup"), 65532, "fsgroup"),
        ("NetworkPolicy", "predictor-google", ("spec", "ingress", 0, "form"), [], "form"),
    ],
)
def test_a_mistake_in_one_of_kubernetes_own_kinds_is_found(
    renderings: dict[str, list[Object]], kind: str, name: str, path: tuple[str | int, ...], value: object, words: str
) -> None:
    space = "slipway-serving" if kind in ("ResourceQuota", "LimitRange") else ""
    wrong = copy.deepcopy(pick(renderings["overlays/gke-prod"], kind, name, space))
    parent: Any = wrong
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value

    found = faults(wrong)

    assert len(found) == 1 and words in found[0], found


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "words"),
    [
        ("ServingRuntime", "slipway-cpu", ("spec", "protocolVersion"), ["v1"], "protocolVersion"),
        ("ServingRuntime", "slipway-cpu", ("spec", "containers", 0, "readinesProbe"), {}, "readinesProbe"),
        ("ServingRuntime", "slipway-cpu", ("spec", "containers", 0, "ports", 0, "containerPort"), "8080", "8080"),
        ("ClusterStorageContainer", "slipway", ("spec", "container", "comand"), ["python"], "comand"),
        ("Gateway", "slipway", ("spec", "listeners", 0, "port"), 0, "minimum"),
        ("Gateway", "slipway", ("apiVersion",), "gateway.networking.k8s.io/v1alpha2", "v1alpha2"),
        ("Gateway", "slipway", ("spec", "addresses", 0, "adress"), "10.0.0.1", "adress"),
        ("HTTPRoute", "to-https", ("spec", "rules", 0, "filters", 0, "requestRedirect", "statusCode"), 300, "300"),
        ("GCPGatewayPolicy", "slipway", ("spec", "default", "sslpolicy"), "modern", "sslpolicy"),
        ("ResourceFlavor", "a100", ("spec", "nodeTaints", 0, "efect"), "NoSchedule", "efect"),
        ("ClusterQueue", "slipway-steps", ("spec", "queueingStrategy"), "FIFO", "FIFO"),
        ("ClusterQueue", "slipway-steps", ("spec", "cohort"), "all", "cohort"),
        ("ClusterQueue", "slipway-steps", ("apiVersion",), "kueue.x-k8s.io/v1alpha9", "v1alpha9"),
        ("LocalQueue", "gpu", ("spec", "queue"), "slipway-steps", "queue"),
        ("PodMonitoring", "predictor", ("spec", "endpoints", 0, "scrapeinterval"), "30s", "scrapeinterval"),
        ("Rules", "slipway-serving", ("spec", "groups", 0, "rules", 0, "exprr"), "up", "exprr"),
    ],
)
def test_a_mistake_in_a_custom_kind_is_found(
    renderings: dict[str, list[Object]], kind: str, name: str, path: tuple[str | int, ...], value: object, words: str
) -> None:
    wrong = copy.deepcopy(pick(renderings["overlays/gke-prod"], kind, name))
    parent: Any = wrong
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value

    try:
        found = faults(wrong)
    except SchemaMissing as reason:
        unavailable(reason)

    assert len(found) == 1 and words in found[0], found


def test_what_the_rollout_writes() -> None:
    config = RolloutConfig(
        target="kserve",
        drain_seconds=10,
        kserve=KServeConfig(
            image=f"10.1.2.3:5000/slipway-serving@sha256:{'a' * 64}",
            hostname="chat.example.org",
            gpus=1,
            node_selector={"cloud.google.com/gke-accelerator": "nvidia-l4"},
            tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            replicas=2,
            max_replicas=4,
            prometheus="http://prometheus:9090",
        ),
    )
    old, new = (f"sha256:{digit * 64}" for digit in "12")
    record = Record(stable=old, candidate=new, state="watching", config=config.model_dump(mode="json"))
    route = objects.route(config, "slipway-serving", record, {old: 90, new: 10}, "7")
    isvc = objects.inference_service(config, "slipway-serving", new, {"run": "weekly", "commit": "abc"})
    made = {**isvc, "metadata": {**isvc["metadata"], "uid": "1c6f"}}
    written = [
        isvc,
        objects.disruption_budget(made),
        route,
        objects.event(route, "Watching", "watching: 10 %", "2026-01-01T00:00:00Z", "1", warning=False),
    ]
    try:
        wrong = {one["kind"]: faults(one) for one in written if faults(one)}
    except SchemaMissing as reason:
        unavailable(reason)

    assert wrong == {}
