"""Every object that is applied has the form that its API takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from components.rollout.config import KServeConfig, RolloutConfig
from components.rollout.kserve import objects
from components.rollout.kserve.objects import Record
from tests.manifests.conftest import Object, pick
from tests.manifests.schemas import SchemaMissing, faults

CUSTOM = ("serving.kserve.io/", "gateway.networking.k8s.io/")


def test_kubernetes_own_kinds(rendered: list[Object]) -> None:
    own = [one for one in rendered if not one["apiVersion"].startswith(CUSTOM)]

    assert len(own) >= 20
    assert {f"{one['kind']}/{one['metadata']['name']}": faults(one) for one in own if faults(one)} == {}


def test_custom_kinds(rendered: list[Object]) -> None:
    custom = [one for one in rendered if one["apiVersion"].startswith(CUSTOM)]

    assert {one["kind"] for one in custom} >= {"Gateway", "ServingRuntime", "ClusterStorageContainer"}
    try:
        wrong = {f"{one['kind']}/{one['metadata']['name']}": faults(one) for one in custom if faults(one)}
    except SchemaMissing as reason:
        pytest.skip(str(reason))
    assert wrong == {}


def test_a_misspelt_field_of_kubernetes_is_found(renderings: dict[str, list[Object]]) -> None:
    job = pick(renderings["base"], "CronJob", "rollout-janitor")
    misspelt = {**job, "spec": {**job["spec"], "concurencyPolicy": "Forbid"}}

    assert len(faults(misspelt)) == 1 and "concurencyPolicy" in faults(misspelt)[0]


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "words"),
    [
        ("ServingRuntime", "slipway-cpu", ("spec", "protocolVersion"), ["v1"], "protocolVersion"),
        ("ServingRuntime", "slipway-cpu", ("spec", "containers", 0, "readinesProbe"), {}, "readinesProbe"),
        ("ServingRuntime", "slipway-cpu", ("spec", "containers", 0, "ports", 0, "containerPort"), "8080", "8080"),
        ("ClusterStorageContainer", "slipway", ("spec", "container", "comand"), ["python"], "comand"),
        ("Gateway", "slipway", ("spec", "listeners", 0, "port"), 0, "minimum"),
        ("Gateway", "slipway", ("apiVersion",), "gateway.networking.k8s.io/v1alpha2", "v1alpha2"),
    ],
)
def test_a_mistake_in_a_custom_kind_is_found(
    renderings: dict[str, list[Object]], kind: str, name: str, path: tuple[str | int, ...], value: object, words: str
) -> None:
    wrong = copy.deepcopy(pick(renderings["base"], kind, name))
    parent: Any = wrong
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value

    try:
        found = faults(wrong)
    except SchemaMissing as reason:
        pytest.skip(str(reason))

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
        pytest.skip(str(reason))

    assert wrong == {}
