"""What is collected: the objects have their CRDs' form, and select pods and ports that there are."""

from __future__ import annotations

import copy
import json
import os
import re
from typing import Any

import pytest
import yaml

from components.rollout.config import KServeConfig, RolloutConfig
from components.rollout.kserve import objects as made_by_rollout
from components.rollout.kserve.client import MANAGER
from tests.manifests.schemas import SchemaMissing, faults
from tests.monitoring import inventory, rules
from tests.monitoring.rules import Object

OBJECTS = rules.objects()
BASE = rules.ROOT / "manifests/base"


def monitoring(name: str) -> Object:
    (found,) = [one for one in OBJECTS if one["kind"] == "PodMonitoring" and one["metadata"]["name"] == name]
    return copy.deepcopy(found)


def named(one: Object) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def form(one: Object) -> list[str]:
    """What its schema says against an object; the test ends where that is not on this machine."""
    try:
        return faults(one)
    except SchemaMissing as reason:
        if os.environ.get("SLIPWAY_MONITORING") == "required":
            pytest.fail(f"SLIPWAY_MONITORING=required, but {reason}")
        pytest.skip(str(reason))


@pytest.mark.parametrize("one", [one for one in OBJECTS if not one["apiVersion"].startswith("kustomize")], ids=named)
def test_form(one: Object) -> None:
    assert form(one) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "endpoints", 0, "intervall"), "30s"),
        (("spec", "endpoints", 0, "port"), ["http"]),
        (("spec", "targetLabels", "fromPods"), []),
        (("spec", "selectors"), {}),
    ],
)
def test_a_misspelt_field_is_noticed(path: tuple[str | int, ...], value: object) -> None:
    wrong = monitoring("predictor")
    parent: Any = wrong
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value

    assert form(wrong) != []


def test_servers_are_selected_as_the_gateway_does() -> None:
    policies = list(yaml.safe_load_all((BASE / "network-policies.yaml").read_text()))
    (requests,) = [one for one in policies if one["metadata"]["name"] == "predictor-requests"]

    assert monitoring("predictor")["spec"]["selector"] == requests["spec"]["podSelector"]
    assert monitoring("predictor")["metadata"]["namespace"] == requests["metadata"]["namespace"]


def test_the_port_is_one_of_every_runtime() -> None:
    port = monitoring("predictor")["spec"]["endpoints"][0]["port"]
    files = [*BASE.glob("*.yaml"), *(rules.ROOT / "manifests/components").rglob("*.yaml")]
    documents = [one for path in files for one in yaml.safe_load_all(path.read_text()) if one]
    runtimes = [one for one in documents if one.get("kind") == "ServingRuntime" and "containers" in one["spec"]]

    assert runtimes
    for runtime in runtimes:
        ports = [each for container in runtime["spec"]["containers"] for each in container.get("ports", [])]
        asked = [each["containerPort"] for each in ports if each["name"] == port]
        assert asked == [8080], f"{runtime['metadata']['name']}: {asked}"


def test_labels_come_from_labels_that_a_rollout_sets() -> None:
    wanted = {one["from"] for one in monitoring("predictor")["spec"]["targetLabels"]["fromPod"]}

    assert wanted == {made_by_rollout.SERVICE, made_by_rollout.RELEASE}
    assert made_by_rollout.labels("chat") == {made_by_rollout.MANAGED_BY: MANAGER, made_by_rollout.SERVICE: "chat"}


@pytest.mark.parametrize(
    ("namespace", "name", "port"), [("slipway-serving", "predictor", 8080), ("kubeflow", "ml-pipeline", 8888)]
)
def test_what_denies_everything_lets_the_collectors_in(namespace: str, name: str, port: int) -> None:
    policies = [one for one in OBJECTS if one["kind"] == "NetworkPolicy" and one["metadata"]["namespace"] == namespace]
    (policy,) = policies
    (rule,) = policy["spec"]["ingress"]

    assert policy["spec"]["podSelector"] == monitoring(name)["spec"]["selector"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert rule["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "gmp-system"}
    assert [each["port"] for each in rule["ports"]] == [port]


def test_what_keda_asks_for_is_collected() -> None:
    kserve = KServeConfig(max_replicas=3, prometheus="http://frontend.slipway-system:9090")
    service = made_by_rollout.inference_service(
        RolloutConfig(target="kserve", kserve=kserve), "slipway-serving", f"sha256:{'1' * 64}", {}
    )
    queries = re.findall(r'"query": ("(?:\\.|[^"\\])*")', json.dumps(service))

    assert len(queries) == 1
    assert inventory.faults(json.loads(queries[0])) == []


@pytest.mark.parametrize("name", ["ml-pipeline", "cert-manager"])
def test_of_others_only_what_is_read_is_paid_for(name: str) -> None:
    (endpoint,) = monitoring(name)["spec"]["endpoints"]
    (kept,) = endpoint["metricRelabeling"]
    foreign = yaml.safe_load((rules.ROOT / "tests/monitoring/foreign.yaml").read_text())
    (group,) = [one for one in foreign.values() if one.get("scraped") == name]

    assert kept["action"] == "keep" and kept["sourceLabels"] == ["__name__"]
    assert all(re.fullmatch(kept["regex"], metric) for metric in group["metrics"])


def test_packages_of_gke_are_switched_on() -> None:
    """What foreign.yaml expects of GKE is what the cluster's monitoring_config asks for."""
    text = (rules.ROOT / "terraform/modules/cluster/main.tf").read_text()
    found = re.search(r"monitoring_config \{\s+enable_components = (\[.*\])", text)
    assert found
    foreign = yaml.safe_load((rules.ROOT / "tests/monitoring/foreign.yaml").read_text())
    needed = {name for group in foreign.values() for name in group.get("package", [])} | {"SYSTEM_COMPONENTS"}

    assert needed - set(yaml.safe_load(found[1])) == set()
    assert all(group["source"].startswith("https://") for group in foreign.values())


def test_components_are_such() -> None:
    """Those of an overlay; what is collected of others is a part of its own (manifests/upstream.yaml)."""
    kinds = {"monitoring": "Component", "monitoring/upstream": "Kustomization", "dashboards": "Component"}
    for folder, kind in kinds.items():
        component = yaml.safe_load((rules.ROOT / "manifests" / folder / "kustomization.yaml").read_text())
        files = component.get("resources", []) + [
            file for one in component.get("configMapGenerator", []) for file in one["files"]
        ]
        there = {
            path.name for path in (rules.ROOT / "manifests" / folder).iterdir() if path.suffix in (".yaml", ".json")
        }
        assert component["kind"] == kind
        kept = {"kustomization.yaml"} | {name for name in there if folder == "dashboards" and name.endswith(".yaml")}
        assert set(files) == there - kept
