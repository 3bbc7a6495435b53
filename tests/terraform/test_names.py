"""Terraform, manifests, placement, server and command line mean the same things by the same names."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from components.rollout.config import KServeConfig
from pipelines.placement import PROFILES, Resources
from serving.settings import environment_names
from terraform import costs
from tests.terraform import hcl
from tests.terraform.workspace import ROOT, TERRAFORM

GKE = TERRAFORM / "environments" / "gke"
MACHINES: dict[str, dict[str, Any]] = costs.read_prices()["machines"]

SERVED = {"dev": ("cpu", "l4"), "prod": ("cpu", "l4", "a100", "h100x8")}
"""Environment -> profiles of pipelines/placement.py whose steps all find a node there."""


IN_PODS = {"docker.io/library/mysql:8.4"}
"""Images of the environment whose databases are in pods, which is not prod."""


def read(path: str) -> str:
    return (ROOT / path).read_text()


def allocatable(machine: dict[str, Any]) -> tuple[float, float]:
    """CPUs and GiB that GKE leaves to pods (https://cloud.google.com/kubernetes-engine/docs/concepts/plan-node-sizes)."""
    memory = machine["memory_gib"] * 0.98  # of a node's capacity the kernel and the firmware keep a 64th, or more
    left, reserved = memory, 0.1
    for width, share in ((4, 0.25), (4, 0.20), (8, 0.10), (112, 0.06), (float("inf"), 0.02)):
        reserved += min(left, width) * share
        left = max(left - width, 0)
    cpus = machine["vcpus"]
    taken = 0.06 + 0.01 + 0.005 * 2 + 0.0025 * max(cpus - 4, 0)
    return cpus - taken, memory - reserved


def fits(resources: Resources, pool: dict[str, Any]) -> bool:
    """Whether a pod with these resources may run, and has room, on the pool's nodes."""
    if [resources.pool] * bool(resources.pool) != [one["value"] for one in pool.get("taints", [])]:
        return False
    machine = MACHINES[pool["machine_type"]]
    spot = pool.get("provisioning") == "spot"
    cpus, memory = allocatable(machine)
    if resources.gpus:
        right = machine.get("gpu") == resources.accelerator and machine["gpus"] >= resources.gpus
        right = right and spot == resources.spot
    else:
        right = "gpu" not in machine and not spot
    return right and float(resources.cpu) <= cpus and float(resources.memory.removesuffix("Gi")) <= memory


def homeless(profile: str, environment: str) -> list[str]:
    """Steps of a profile that no pool of an environment can hold."""
    pools = costs.read_tfvars(GKE / f"{environment}.tfvars")["pools"].values()
    placement = PROFILES[profile]
    steps = {"any other": placement.small, **placement.steps}
    return [step for step, resources in steps.items() if not any(fits(resources, pool) for pool in pools)]


@pytest.mark.parametrize(("profile", "environment"), [(one, name) for name, many in SERVED.items() for one in many])
def test_every_step_finds_a_node(profile: str, environment: str):
    assert homeless(profile, environment) == []


def test_nothing_else_starts_a_node_of_the_dear_pool():
    pool = costs.read_tfvars(GKE / "prod.tfvars")["pools"]["memory"]
    assert not fits(Resources("2", "8Gi"), pool) and fits(PROFILES["h100x8"].of("fetch_base"), pool)
    assert pool["taints"] == [{"key": "slipway.dev/pool", "value": "memory", "effect": "NO_SCHEDULE"}]


def test_a_step_without_a_node_is_noticed():
    assert homeless("h100x8", "ephemeral") != []


def test_gpu_machines_are_those_of_the_module():
    known = re.findall(
        r'"([\w-]+)" += \{ type = "([\w-]+)", count = (\d+)', (TERRAFORM / "modules/node_pools/gpu.tf").read_text()
    )
    module = {name: (type_, int(count)) for name, type_, count in known}
    priced = {name: (one["gpu"], one["gpus"]) for name, one in MACHINES.items() if "gpu" in one}
    assert priced == {name: module[name] for name in priced}


def test_google_accounts_are_bound_to_accounts_of_the_manifests():
    bound = set(
        re.findall(r'namespace += "(slipway-[\w-]+)"[,\s]+name += "([\w-]+)"', (GKE / "identities.tf").read_text())
    )
    objects = list(yaml.safe_load_all(read("manifests/base/accounts.yaml")))
    made = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in objects}
    upstream = {("slipway-system", "mlflow")}  # comes with MLflow's own manifests
    assert bound - made <= upstream
    assert {("slipway-pipelines", "pipeline-step"), ("slipway-serving", "predictor")} <= bound


def test_serving_namespace():
    namespace = KServeConfig().namespace
    assert f'namespace = "{namespace}"' in (GKE / "identities.tf").read_text()


def test_releases_address_is_one_that_a_run_file_takes():
    urls = re.findall(r'"(gs://[^"]+)"', read("terraform/modules/storage/outputs.tf"))
    (address,) = (re.sub(r"\$\{[^}]+\}", "my-project-dev-releases", url) for url in urls)
    assert KServeConfig(releases=address).releases == "gs://my-project-dev-releases"


def test_platform_file_sets_variables_that_the_command_line_reads():
    example = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", read(".env.example"), re.MULTILINE))
    known = example | set(re.findall(r'"((?:VERTEX|KFP)_[A-Z_]+)"', read("pipelines/vertex.py")))
    assert {name for name in platform_names() if not name.startswith("PLATFORM_")} <= known


def platform_names() -> set[str]:
    text = (GKE / "outputs.tf").read_text()
    identities = hcl.named(hcl.read(GKE), "module")["workload_identity"]
    accounts = re.findall(r"^    (\w+) += \{", identities.body, re.MULTILINE)
    edge = re.search(r"for key in (\[.*?\])", text)
    assert edge
    names = set(re.findall(r"^\s+\{? ?([A-Z][A-Z_]+) += ", text, re.MULTILINE))
    names |= {f"PLATFORM_ACCOUNT_{key.upper()}" for key in accounts}
    return names | {f"PLATFORM_EDGE_{key.upper()}" for key in yaml.safe_load(edge[1])}


def test_platform_file_is_documented():
    told = set(re.findall(r"^\| `([A-Z_]+)`", (GKE / "README.md").read_text(), re.MULTILINE))
    assert told == platform_names()


def test_manifests_read_what_the_platform_file_gives():
    texts = [path.read_text() for path in (ROOT / "manifests").rglob("*.yaml")]
    read_there = set(re.findall(r"\bdata\.(PLATFORM_[A-Z_]+)", "\n".join(texts)))
    example = set(re.findall(r"^([A-Z_]+)=", read("manifests/platform.env.example"), re.MULTILINE))
    assert read_there and read_there <= platform_names()
    assert example == platform_names()


def admitted(image: str, patterns: list[str]) -> bool:
    """Binary Authorization's rule: * stands for a part without a slash, ** for any
    (https://cloud.google.com/binary-authorization/docs/policy-yaml-reference#admissionwhitelistpatterns)."""
    name = re.split(r"[@:]", image.partition("/")[2])[0]
    whole = f"{image.partition('/')[0]}/{name}"
    forms = [re.escape(one).replace(r"\*\*", ".+").replace(r"\*", "[^/]+") for one in patterns]
    return any(re.fullmatch(form, whole) for form in forms)


def test_prod_admits_what_the_platform_is_made_of():
    patterns = costs.read_tfvars(GKE / "prod.tfvars")["images"]["allowed"]
    images = [one for one in yaml.safe_load(read("manifests/upstream.lock")) if one not in IN_PODS]
    assert len(images) > 20
    assert [one for one in images if not admitted(one, patterns)] == []
    # and nobody is admitted for a part that is no longer there
    assert [one for one in patterns if not any(admitted(image, [one]) for image in images)] == []


def test_an_image_of_somebody_else_is_not_admitted():
    patterns = ["docker.io/kserve/**", "registry.k8s.io/*"]
    assert admitted("docker.io/kserve/agent:v0.20.0", patterns) and admitted("registry.k8s.io/pause:3.10", patterns)
    assert not admitted("docker.io/kserver/agent:v1", patterns)
    assert not admitted("registry.k8s.io/kueue/kueue:v1", patterns)


def test_workflows_read_what_the_output_settings_gives():
    output = hcl.named(hcl.read(TERRAFORM / "environments/github"), "output")["settings"].body
    given = set(re.findall(r"^    (\w+) += ", output, re.MULTILINE))
    read_there = set()
    for path in (ROOT / "ci").rglob("*.py"):
        read_there |= set(re.findall(r'job\.setting\("(\w+)"\)|\bsetting\("(\w+)"\)', path.read_text()))
    names = {first or second for first, second in read_there}
    assert len(names) >= 4 and names <= given


def test_cloud_run_sets_variables_that_the_server_reads():
    text = (TERRAFORM / "environments/cloudrun/main.tf").read_text()
    own = {"RELEASE_URI"}  # read by the command itself
    assert set(re.findall(r"\b(HOST|SLIPWAY_\w+|RELEASE_URI) +=", text)) - own <= set(environment_names().values())


def test_cloud_run_calls_what_the_image_has():
    text = (TERRAFORM / "environments/cloudrun/main.tf").read_text()
    server, fetch = read("serving/__main__.py"), read("serving/fetch/__main__.py")
    assert all(flag in server for flag in ('"--release"', '"--model"'))
    assert '"uri"' in fetch and '"destination"' in fetch and "python -m serving.fetch" in text
