"""Every step runs from its image as a pod, and comes to what it comes to on a laptop."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import images as step_images
from pipelines import placement
from pipelines.compile import compile_pipeline
from pipelines.placement import Placement, Resources
from pipelines.run_config import load
from tests.cluster import images, jobs
from tests.cluster.harness import Cluster
from tests.cluster.place import ROOT
from tests.cluster.steps import PipelineRun, Shared, with_images
from tests.ports import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SERVICE = "steps-smoke"
ONLINE = frozenset({"resolve-champion", "rollout"})
"""The tasks that look at what is live, and change it. With a model from scratch and data on the volume, no other
needs a network."""

PROFILE = Placement(small=Resources(cpu="1", memory="4Gi"), steps={"rollout": Resources(cpu="250m", memory="1Gi")})
"""Of the size of a small node: steps run one at a time, the rollout beside the server that it brings."""

# a host name of its own, so that it shares the gateway with whatever else is live there
ROLLOUT = {
    "service": SERVICE,
    "target": "kserve",
    "kserve": {"cpu": "250m", "memory": "1Gi", "hostname": f"{SERVICE}.test"},
}

ORDER = ["resolve-champion", "fetch-base", "prepare-data", "package-base", "finetune", "package-release", "evaluate"]


@dataclass(frozen=True)
class Both:
    """The same run file, run twice."""

    laptop: Path
    """The laptop run's store."""

    cluster: Path
    """The store of the cluster's run."""

    run: PipelineRun


def run_file(folder: Path, store: str, rollout: dict[str, Any]) -> Path:
    """The smoke run with another store and rollout; all that decides the outputs' content stays the same."""
    content = yaml.safe_load((ROOT / "pipelines/runs/smoke.yaml").read_text())
    content["run"]["store"] = store
    # Both have two cores here; said, because the number of threads decides the order of additions.
    content["training"]["threads"] = 2
    del content["rollout"]["port"]  # the laptop's run has its own, and a cluster's gateway too
    content["rollout"] |= rollout
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "smoke.yaml").write_text(yaml.safe_dump(content))
    return folder / "smoke.yaml"


def run_on_laptop(folder: Path) -> Path:
    """The store of a local run with a port of its own."""
    config = run_file(folder, str(folder / "store"), {"service": SERVICE, "port": free_port()})
    slipway = [sys.executable, "-m", "pipelines.cli"]
    done = subprocess.run([*slipway, "run", str(config)], cwd=ROOT, capture_output=True, text=True)
    subprocess.run([*slipway, "down", str(config)], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "store"


def run_in_cluster(cluster: Cluster, folder: Path, shared: Shared) -> PipelineRun:
    """The compiled pipeline's steps as Jobs."""
    shutil.copytree(ROOT / "data", shared.launcher / "data", dirs_exist_ok=True)
    config = load(str(run_file(folder, "/mnt/slipway", ROLLOUT)))
    compile_pipeline(config, "test-cluster", folder / "pipeline.yaml")
    names = {step_images.CPU: "components", step_images.GPU: "components-cuda"}
    references = {compiled: images.build(name, cluster.place) for compiled, name in names.items()}
    documents = with_images(list(yaml.safe_load_all((folder / "pipeline.yaml").read_text())), references)
    run = PipelineRun(cluster, documents, shared, f"steps-{secrets.token_hex(3)}", ONLINE)
    run.execute({}, seconds=600)
    return run


@pytest.fixture(scope="module")
def both(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("steps")
    laptop = run_on_laptop(folder / "laptop")
    shared = Shared(cluster, folder / "shared")
    shared.claim()
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "slipway-settings", "namespace": jobs.NAMESPACE},
        "data": {"storage-emulator-host": cluster.bucket_server},
    }
    cluster.apply([settings])
    remove = ("-n", "slipway-serving", "delete", "httproute,inferenceservice", "-l", f"slipway.dev/service={SERVICE}")
    cluster.kubectl(*remove, "--ignore-not-found")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(placement.PROFILES, "test-cluster", PROFILE)
        try:
            yield Both(laptop, shared.store, run_in_cluster(cluster, folder / "cluster", shared))
        finally:
            cluster.kubectl(*remove, "--ignore-not-found", "--wait=false")
            cluster.kubectl("-n", jobs.NAMESPACE, "delete", "configmap", "slipway-settings", "--ignore-not-found")
            shared.release()


def digests(store: Path) -> dict[str, set[str]]:
    """Step -> content digests of its results in a store."""
    found: dict[str, set[str]] = {}
    for manifest in store.glob("steps/*/*/manifest.json"):
        step = manifest.parent.parent.name
        found.setdefault(step, set()).add(json.loads(manifest.read_bytes())["digest"])
    return found


def test_every_step_ran_and_the_branch_of_a_passed_gate(both: Both):
    ran = list(both.run.steps)
    assert set(ran) == {*ORDER, "quality-gate", "rollout"}
    assert [name for name in ran if name in ORDER[:2]] == ORDER[:2]
    assert ran.index("package-base") < ran.index("finetune") < ran.index("package-release") < ran.index("evaluate")
    assert ran[-2:] == ["quality-gate", "rollout"]


def test_the_results_are_those_of_the_laptop_byte_by_byte(both: Both):
    """Data, base, trained weights, both packages, scores: the digest of each result's content."""
    here, there = digests(both.laptop), digests(both.cluster)
    assert set(here) >= {"fetch_base", "prepare_data", "finetune", "package_release", "evaluate"}
    assert there == here


def test_the_release_has_the_same_digest(both: Both):
    releases = {path.name for path in (both.laptop / "releases").iterdir() if path.is_dir()}
    (artifact,) = both.run.steps["package-release"].outputs.artifacts["release"]
    assert {artifact["metadata"]["digest"].removeprefix("sha256:")} == releases


def test_each_pod_was_as_restricted_as_the_namespace_and_the_images_demand(both: Both):
    for name, step in both.run.steps.items():
        (container,) = step.pod["containers"]
        context = container["securityContext"]
        assert (context["runAsUser"], context["runAsNonRoot"], context["readOnlyRootFilesystem"]) == (65532, True, True)
        asked = PROFILE.of(name.replace("-", "_"))
        assert container["resources"]["requests"] == {"cpu": asked.cpu, "memory": asked.memory}, name
        assert "@sha256:" in container["image"]


def test_only_the_tasks_that_need_a_token_were_given_one(both: Both):
    """Each its own; a run's account itself has none mounted."""
    mounted = {
        name: [volume["secret"]["secretName"] for volume in step.pod["volumes"] if "secret" in volume]
        for name, step in both.run.steps.items()
    }
    assert {name: secrets for name, secrets in mounted.items() if secrets} == {
        "resolve-champion": ["reader-token"],
        "rollout": ["rollout-token"],
    }
    assert not any(step.pod["automountServiceAccountToken"] for step in both.run.steps.values())


def test_a_step_that_is_cut_off_reaches_nothing(cluster: Cluster):
    """What the steps above ran under: were the cut no cut, this would show it."""
    code = """
import socket, sys
for place in (sys.argv[1], 5000), (sys.argv[2], 53), ("198.51.100.1", 443):
    try:
        socket.create_connection(place, timeout=3)
        print("reached", place)
    except OSError as error:
        print("refused", type(error).__name__)
"""
    dns = cluster.get("-n", "kube-system", "service", "kube-dns")["spec"]["clusterIP"]
    spec = jobs.pod(images.build("serving", cluster.place), ["python", "-c", code, cluster.node_ip, dns])
    assert "reached" not in jobs.run(cluster, "cut-off", spec, 120, cut=True).log
    assert jobs.run(cluster, "not-cut-off", spec, 120).log.count("reached") >= 2
