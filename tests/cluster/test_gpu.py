"""The GPU runtime as KServe makes pods of it: vLLM's container with the GPUs, our server before it.

There is no GPU: the node advertises some, and golden_vllm.py stands in vLLM's place. Containers, mounts, probes, ports
and the end of a pod are the manifest's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.rollout.kserve import objects
from components.rollout.target import RolloutFailed
from serving.release import ServingForm
from tests.cluster import images
from tests.cluster.harness import Cluster
from tests.cluster.place import ROOT
from tests.cluster.service import NAMESPACE, Service, digest_of
from tests.components.rollout.test_real_server import make_artifact

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

RUNTIME = ROOT / "manifests/components/gke-vllm/serving-runtime.yaml"
STAND_IN = Path(__file__).with_name("golden_vllm.py")
VLLM = ServingForm(engine="vllm", precision="f32")


def stand_in(name: str, image: str, program: str) -> dict[str, Any]:
    """The runtime on this machine: other images, less memory, and another program where vLLM would compute."""
    made = yaml.safe_load(RUNTIME.read_text())
    made["metadata"]["name"] = name
    for container in made["spec"]["containers"]:
        container["image"] = image
        container["resources"] = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}
        container["startupProbe"]["periodSeconds"] = 2
    vllm = next(one for one in made["spec"]["containers"] if one["name"] == objects.CONTAINER)
    assert vllm["command"][:2] == ["python3", "-m"]
    vllm["command"] = ["python3", "-c", program]
    return made


@pytest.fixture
def service(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    made = Service(cluster, tmp_path)
    cluster.apply([stand_in(made.name, images.build("serving", cluster.place), STAND_IN.read_text())])
    kserve = {"gpus": 1, "runtime": made.name, "memory": "1Gi"}
    made.config = made.config.model_copy(
        update={"serving": VLLM, "kserve": made.config.kserve.model_copy(update=kserve)}
    )
    yield made
    made.remove()
    cluster.kubectl("delete", "servingruntime", "-n", NAMESPACE, made.name)


def test_a_release_for_vllm_goes_live_behind_our_server(service: Service, tmp_path: Path) -> None:
    first, second = (make_artifact(tmp_path / name, "vllm", seed) for seed, name in enumerate(("first", "second")))
    service.roll(first)
    service.settled_on(digest_of(first))
    (pod,) = service.cluster.get("pod", "-n", NAMESPACE, "-l", f"slipway.dev/service={service.name}")["items"]
    containers = {one["name"]: one for one in pod["spec"]["containers"]}
    assert containers.keys() == {objects.CONTAINER, objects.FRONT}
    gpus = {name: one["resources"]["limits"].get("nvidia.com/gpu") for name, one in containers.items()}
    assert gpus == {objects.CONTAINER: "1", objects.FRONT: None}
    for one in containers.values():  # KServe gives both the release
        assert "/mnt/models" in {mount["mountPath"] for mount in one["volumeMounts"]}, one["name"]
    assert {"name": "SLIPWAY_DRAIN_SECONDS", "value": "5"} in containers[objects.FRONT]["env"]
    rolled = service.roll(second, strategy="replace")  # the node has one GPU
    assert rolled["previous"] == digest_of(first) and 0 < rolled["outage_seconds"] < 120, rolled
    service.settled_on(digest_of(second))


def test_on_one_gpu_the_old_release_comes_back(service: Service, tmp_path: Path) -> None:
    """Its place is taken by a release that gives other tokens than the golden ones."""
    old, new = (make_artifact(tmp_path / name, "vllm", seed) for seed, name in enumerate(("old", "new")))
    (golden,) = json.loads((new / "release/golden.json").read_text())
    known = 'answer["token_ids"]'
    program = STAND_IN.read_text()
    assert known in program
    wrong = f"[*{known}[:-1], {known}[-1] ^ ({known} == {golden['token_ids']})]"
    image = images.build("serving", service.cluster.place)
    service.cluster.apply([stand_in(service.name, image, program.replace(known, wrong))])
    service.roll(old)
    with pytest.raises(RolloutFailed, match=r"golden answer 1 .*: token 11 is \d+, .*, where the gap is 1\.000 nats"):
        service.roll(new, strategy="replace")
    service.settled_on(digest_of(old))
