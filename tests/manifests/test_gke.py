"""The overlays for GKE: what they take from Terraform, and what they do with it."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci import submit
from components.rollout.config import KServeConfig, RolloutConfig
from components.rollout.kserve import objects
from components.rollout.kserve.client import GCP_BACKEND_POLICY, HEALTH_CHECK_POLICY
from manifests.rules import ACTS_AS, findings
from pipelines.placement import PROFILES, Placement
from serving.engine.vllm import SERVED_NAME
from serving.release import ServingForm
from serving.settings import read_settings
from tests.cluster import manifests
from tests.manifests.conftest import GKE, MANIFESTS, Object, each_of, fill, pick, unavailable
from tests.manifests.schemas import SchemaMissing, faults
from tests.manifests.test_render import rules as allowed
from tests.ports import free_port
from tests.terraform import hcl

TERRAFORM = manifests.ROOT / "terraform"
EXAMPLE = dict(
    line.split("=", 1)
    for line in (MANIFESTS / "platform.env.example").read_text().splitlines()
    if "=" in line and not line.startswith("#")
)
SERVING_POOLS = {"l4"}
"""Pools that serve: Kueue does not see what serves, so no queue has them."""


def overlay(name: str) -> str:
    """The environment's name."""
    return name.removeprefix("overlays/gke-")


def render(folder: Path, name: str, platform: dict[str, str]) -> list[Object]:
    """An overlay with another platform.env."""
    fill(folder)
    (folder / name / "platform.env").write_text("".join(f"{key}={value}\n" for key, value in platform.items()))
    return manifests.objects(manifests.build(folder / name))


# ------------------------------------------------------------------------------------------- Terraform's file


def terraforms_names() -> set[str]:
    """The lines of `terraform output -raw platform_env`."""
    text = (TERRAFORM / "environments/gke/outputs.tf").read_text()
    plain = set(re.findall(r"^ +([A-Z][A-Z_]+) += ", text, re.M))
    accounts = re.search(r"accounts = \{(.*?)\n  \}", (TERRAFORM / "environments/gke/identities.tf").read_text(), re.S)
    assert accounts
    keys = re.findall(r"^    (\w+) +=", accounts[1], re.M)
    edge = re.search(r"for key in \[(.*?)\]", text)
    assert edge and keys
    of_edge = {f"PLATFORM_EDGE_{key.upper()}" for key in re.findall(r'"(\w+)"', edge[1])}
    return plain | {f"PLATFORM_ACCOUNT_{key.upper()}" for key in keys} | of_edge | {"PLATFORM_EDGE_IAP"}


def test_the_example_has_the_lines_that_terraform_writes() -> None:
    assert set(EXAMPLE) == terraforms_names()


def test_the_accounts_that_act_as_googles_are_terraforms() -> None:
    """Those of ours; Kubeflow's and MLflow's come with manifests/upstream."""
    text = (TERRAFORM / "environments/gke/identities.tf").read_text()
    named = re.findall(r'namespace += "(slipway-[\w-]+)"[,\n] *name += "([\w-]+)"', text)

    assert {f"{namespace}/{name}" for namespace, name in named} - {"slipway-system/mlflow"} == ACTS_AS


def test_nothing_else_is_read_from_it() -> None:
    """Every place of a replacement is a line of the example, and an unknown one is Kustomize's error."""
    used = {
        name
        for path in MANIFESTS.glob("components/*/kustomization.yaml")
        for name in re.findall(r"data\.(\w+) \}", path.read_text())
    }

    assert {one for one in used if one.startswith("PLATFORM_")} <= set(EXAMPLE)
    images = (MANIFESTS / "images.env.example").read_text()
    assert {one for one in used if one.startswith("SLIPWAY_")} == set(re.findall(r"^(\w+)=", images, re.M))


@pytest.mark.parametrize("name", GKE)
def test_who_submits_may_do_what_its_job_does_and_no_more(name: str, renderings: dict[str, list[Object]]) -> None:
    """The job forwards a port to Kubeflow and writes one ConfigMap; its Google account is named by Terraform."""
    found = renderings[name]
    held = {
        (where, resource, verb, *rule.get("resourceNames", []))
        for where in (submit.KUBEFLOW, submit.NAMESPACE)
        for rule in pick(found, "Role", "submitter", where)["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    kubeflow, pipelines = submit.KUBEFLOW, submit.NAMESPACE
    assert held == {
        (kubeflow, "services", "get", "ml-pipeline"),
        *((kubeflow, "pods", verb) for verb in ("get", "list")),
        *((kubeflow, "pods/portforward", verb) for verb in ("get", "create")),
        *((pipelines, "configmaps", verb, submit.RECORD) for verb in ("get", "create", "patch")),
    }
    for where in (kubeflow, pipelines):
        (subject,) = pick(found, "RoleBinding", "submitter", where)["subjects"]
        assert (subject["kind"], subject["name"]) == ("User", EXAMPLE["PLATFORM_ACCOUNT_SUBMIT"])


def test_the_network_that_filestore_is_told_is_the_clusters() -> None:
    """Terraform gives network and cluster the same name; the manifests rely on it."""
    blocks = hcl.named(hcl.read(TERRAFORM / "environments/gke", "main.tf"), "module")

    for name in ("network", "cluster"):
        assert re.search(r"^ +name += local\.name$", blocks[name].body, re.M)


@pytest.mark.parametrize("name", GKE)
def test_values_of_the_platform_file_arrive(name: str, tmp_path: Path, renderings: dict[str, list[Object]]) -> None:
    """Each name that is read is given another value, which must be seen, and nothing of the example's left."""
    changed = {
        key: value.replace("slipway-dev", "acme").replace("10.0.0.0/22", "10.9.0.0/22")
        for key, value in EXAMPLE.items()
    }
    before, after = (yaml.safe_dump_all(one) for one in (renderings[name], render(tmp_path / "m", name, changed)))

    assert "slipway-dev-steps@" in before and "slipway-dev-steps@" not in after
    for key in ("STEPS", "JANITOR", "PREDICTOR"):
        assert f"acme-{key.lower()}@my-project.iam.gserviceaccount.com" in after
    assert before.count("10.0.0.0/22") == after.count("10.9.0.0/22") == 3
    assert pick(renderings[name], "StorageClass", "slipway-store")["parameters"]["network"] == "slipway-dev"


@pytest.mark.parametrize("name", GKE)
def test_a_file_that_is_missing_stops_everything(
    name: str, tmp_path: Path, renderings: dict[str, list[Object]]
) -> None:
    fill(tmp_path / "m")
    (tmp_path / "m" / name / "platform.env").unlink()

    with pytest.raises(manifests.ManifestsError, match=r"platform\.env"):
        manifests.build(tmp_path / "m" / name)


def test_a_line_that_is_missing_stops_everything(tmp_path: Path, renderings: dict[str, list[Object]]) -> None:
    without = {key: value for key, value in EXAMPLE.items() if key != "PLATFORM_ACCOUNT_STEPS"}

    with pytest.raises(manifests.ManifestsError, match="PLATFORM_ACCOUNT_STEPS"):
        render(tmp_path / "m", GKE[1], without)


def test_the_public_door_without_an_edge_is_refused(tmp_path: Path, renderings: dict[str, list[Object]]) -> None:
    """Terraform leaves these empty where there is none; IAP is then said to be there."""
    without = {key: "" if key.startswith("PLATFORM_EDGE_") else value for key, value in EXAMPLE.items()}
    found = findings(render(tmp_path / "m", "overlays/gke-prod", without | {"PLATFORM_EDGE_IAP": "true"}))

    assert any("no certificate map" in line for line in found)
    assert any("no Cloud Armor policy" in line for line in found)
    assert any("no OAuth client" in line for line in found)


# ------------------------------------------------------------------------------------------- the door


def test_prod_has_the_public_door_and_the_others_an_internal_one(renderings: dict[str, list[Object]]) -> None:
    classes = {overlay(name): pick(renderings[name], "Gateway", "slipway")["spec"]["gatewayClassName"] for name in GKE}

    assert classes == {
        "ephemeral": "gke-l7-rilb",
        "dev": "gke-l7-rilb",
        "prod": "gke-l7-global-external-managed",
    }


def test_the_public_door_is_what_terraform_made(renderings: dict[str, list[Object]]) -> None:
    prod = renderings["overlays/gke-prod"]
    gateway, redirect = pick(prod, "Gateway", "slipway"), pick(prod, "HTTPRoute", "to-https")["spec"]
    listeners = {one["name"]: one for one in gateway["spec"]["listeners"]}

    assert gateway["metadata"]["annotations"]["networking.gke.io/certmap"] == EXAMPLE["PLATFORM_EDGE_CERTIFICATE_MAP"]
    assert gateway["spec"]["addresses"] == [{"type": "NamedAddress", "value": EXAMPLE["PLATFORM_EDGE_ADDRESS"]}]
    assert listeners["https"]["hostname"] == EXAMPLE["PLATFORM_EDGE_HOSTNAME"]
    assert redirect["hostnames"] == [EXAMPLE["PLATFORM_EDGE_HOSTNAME"]]
    assert redirect["parentRefs"][0]["sectionName"] == "http"
    assert redirect["rules"][0]["filters"][0]["requestRedirect"] == {"scheme": "https", "statusCode": 301}


@pytest.mark.parametrize("name", GKE)
@pytest.mark.parametrize("iap", ["true", "false"])
def test_the_policies_of_a_release_are_whole(
    name: str, iap: str, tmp_path: Path, renderings: dict[str, list[Object]]
) -> None:
    """As a rollout writes them: from the ConfigMap, with the target added."""
    rendered = render(tmp_path / "m", name, EXAMPLE | {"PLATFORM_EDGE_IAP": iap})
    specs = {
        kind: yaml.safe_load(text) for kind, text in pick(rendered, "ConfigMap", "backend-policies")["data"].items()
    }
    config = RolloutConfig(target="kserve")
    isvc = objects.inference_service(config, "slipway-serving", f"sha256:{'1' * 64}", {})
    isvc["metadata"]["uid"] = "1c6f"
    kinds = {kind.name: kind for kind in (HEALTH_CHECK_POLICY, GCP_BACKEND_POLICY)}
    assert set(specs) == set(kinds)

    try:
        wrong = [faults(objects.backend_policy(kinds[kind], isvc, spec)) for kind, spec in specs.items()]
    except SchemaMissing as reason:
        unavailable(reason)
    assert wrong == [[], []]
    backend = specs["GCPBackendPolicy"]["default"]
    if name == "overlays/gke-prod":
        assert backend["securityPolicy"] == EXAMPLE["PLATFORM_EDGE_SECURITY_POLICY"]
        client = {"clientID": EXAMPLE["PLATFORM_EDGE_IAP_CLIENT"], "oauth2ClientSecret": {"name": "slipway-iap"}}
        assert backend["iap"] == {"enabled": iap == "true", **client}
    else:
        assert "securityPolicy" not in backend and "iap" not in backend
    probe = specs["HealthCheckPolicy"]["default"]["config"]["httpHealthCheck"]
    assert probe == {"port": 8080, "requestPath": "/health"}
    assert backend["timeoutSec"] > config.answer_seconds
    assert backend["connectionDraining"]["drainingTimeoutSec"] >= config.drain_seconds


def test_both_doors_treat_releases_alike() -> None:
    """The file of the internal one is the public one's, without what only that has."""
    public, internal = (
        yaml.safe_load((MANIFESTS / f"components/gke-{door}/backend-policies.yaml").read_text())["data"]
        for door in ("edge", "internal")
    )
    lines = public["GCPBackendPolicy"].splitlines()

    assert public["HealthCheckPolicy"] == internal["HealthCheckPolicy"]
    assert [one for one in lines if "securityPolicy" not in one and "iap" not in one] == internal[
        "GCPBackendPolicy"
    ].splitlines()


# ------------------------------------------------------------------------------------------- network


def blocks(found: list[Object], side: str) -> set[tuple[str, int]]:
    """(address block, port) of what is allowed."""
    return {
        (peer["ipBlock"]["cidr"], port["port"])
        for rule in found
        for peer in rule[side]
        if "ipBlock" in peer
        for port in rule["ports"]
    }


READERS = [
    ("slipway-serving", {"component": "predictor"}),
    ("slipway-pipelines", {"slipway.dev/egress": "https"}),
    ("slipway-pipelines", {"slipway.dev/egress": "cluster"}),
    ("slipway-pipelines", {"slipway.dev/egress": "none", "pipelines.kubeflow.org/v2_component": "true"}),
]
"""Pods that read or write buckets."""


@pytest.mark.parametrize(("namespace", "labels"), READERS)
def test_what_reads_buckets_reaches_names_and_the_metadata_server(
    on_gke: list[Object], namespace: str, labels: dict[str, str]
) -> None:
    reached = blocks(allowed(on_gke, namespace, "egress", labels), "to")

    assert {("169.254.169.254/32", 80), ("169.254.169.254/32", 8080), ("169.254.169.252/32", 988)} <= reached
    assert ("169.254.20.10/32", 53) in reached
    assert ("0.0.0.0/0", 443) in reached


def test_a_run_reaches_kubeflow_and_the_record_and_no_other_pod(on_gke: list[Object]) -> None:
    """As manifests/upstream lets them in, on the other side."""
    labels = {"pipelines.kubeflow.org/v2_component": "true", "slipway.dev/egress": "none"}
    reached = {
        (
            peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
            *peer["podSelector"]["matchLabels"].values(),
            *(port["port"] for port in rule["ports"]),
        )
        for rule in allowed(on_gke, "slipway-pipelines", "egress", labels)
        for peer in rule["to"]
        if "matchLabels" in peer.get("podSelector", {})
    }

    assert reached == {
        ("kubeflow", "ml-pipeline", 8887),
        ("kubeflow", "metadata-grpc-server", 8080),
        ("slipway-system", "mlflow", 5000),
    }


@pytest.mark.parametrize("labels", [{}, {"slipway.dev/egress": "none"}], ids=["unlabelled", "none"])
def test_a_pod_outside_a_run_that_asks_for_nothing_gets_nothing(on_gke: list[Object], labels: dict[str, str]) -> None:
    assert allowed(on_gke, "slipway-pipelines", "egress", labels) == []


def test_load_balancers_reach_predictors_and_nothing_else(on_gke: list[Object]) -> None:
    reached = blocks(allowed(on_gke, "slipway-serving", "ingress", {"component": "predictor"}), "from")

    assert {("35.191.0.0/16", 8080), ("130.211.0.0/22", 8080), (EXAMPLE["PLATFORM_NODES_RANGE"], 8080)} <= reached
    assert {port for _, port in reached} == {8080}
    assert allowed(on_gke, "slipway-serving", "ingress", {"app": "other"}) == []


def test_googles_ranges_are_those_of_the_firewall() -> None:
    text = (TERRAFORM / "modules/network/firewall.tf").read_text()
    policy = (MANIFESTS / "components/gke/network-policies.yaml").read_text()

    for block in ("130.211.0.0/22", "35.191.0.0/16"):
        assert block in text and block in policy


def test_what_looks_at_the_cluster_reaches_no_other_private_address(on_gke: list[Object]) -> None:
    reached = blocks(allowed(on_gke, "slipway-pipelines", "egress", {"slipway.dev/egress": "cluster"}), "to")
    private = {block for block, _ in reached if ipaddress.ip_network(block).is_private and not block.startswith("0.")}

    assert private == {EXAMPLE["PLATFORM_NODES_RANGE"], "169.254.169.254/32", "169.254.169.252/32", "169.254.20.10/32"}


# ------------------------------------------------------------------------------------------- pools, queues, quotas


def pools(environment: str) -> dict[str, dict[str, Any]]:
    """The pools of an environment: name -> machine_type, max_nodes, provisioning."""
    text = (TERRAFORM / f"environments/gke/{environment}.tfvars").read_text()
    body = re.search(r"^pools = \{\n(.*?)^\}", text, re.S | re.M)
    assert body
    found = {}
    for name, fields in re.findall(r"^  ([\w-]+) += \{ (.*) \}", body[1], re.M):
        values = dict(re.findall(r'(\w+) = "?([^",}]+?)"?(?:,|$)', fields))
        found[name] = {"provisioning": "on-demand", **values, "max_nodes": int(values["max_nodes"])}
    return found


MACHINES = yaml.safe_load((TERRAFORM / "prices.yaml").read_text())["machines"]


def gpu_pools(environment: str) -> dict[str, dict[str, Any]]:
    """Pools with GPUs that steps may use, with what their nodes hold together."""
    found = {}
    for name, pool in pools(environment).items():
        machine = MACHINES[pool["machine_type"]]
        if "gpus" in machine and name not in SERVING_POOLS:
            nodes = pool["max_nodes"]
            found[name] = {
                "accelerator": machine["gpu"],
                "spot": pool["provisioning"] == "spot",
                "cpu": nodes * machine["vcpus"],
                "memory": f"{nodes * machine['memory_gib']}Gi",
                "nvidia.com/gpu": nodes * machine["gpus"],
            }
    return found


@pytest.mark.parametrize("name", GKE)
def test_the_queue_holds_exactly_the_pools_of_terraform(name: str, renderings: dict[str, list[Object]]) -> None:
    wanted = gpu_pools(overlay(name))
    (group,) = pick(renderings[name], "ClusterQueue", "slipway-steps")["spec"]["resourceGroups"]
    quotas = {
        flavor["name"]: {one["name"]: str(one["nominalQuota"]) for one in flavor["resources"]}
        for flavor in group["flavors"]
    }

    assert wanted, "no pool was found; look at pools()"
    assert quotas == {
        pool: {key: str(of[key]) for key in ("cpu", "memory", "nvidia.com/gpu")} for pool, of in wanted.items()
    }
    for pool, of in wanted.items():
        flavor = pick(renderings[name], "ResourceFlavor", pool)["spec"]
        spot = {"cloud.google.com/gke-spot": "true"} if of["spot"] else {}
        assert flavor["nodeLabels"] == {
            "cloud.google.com/gke-nodepool": pool,
            "cloud.google.com/gke-accelerator": of["accelerator"],
            **spot,
        }
        taints = {(one["key"], one["value"], one["effect"]) for one in flavor["nodeTaints"]}
        assert taints == {
            ("nvidia.com/gpu", "present", "NoSchedule"),
            *((key, value, "NoSchedule") for key, value in spot.items()),
        }


def test_flavors_with_one_gpu_a_node_come_before_those_with_more(renderings: dict[str, list[Object]]) -> None:
    """Kueue takes the first that fits, and one GPU should not begin a node of eight."""
    (group,) = pick(renderings["overlays/gke-prod"], "ClusterQueue", "slipway-steps")["spec"]["resourceGroups"]
    order = [flavor["name"] for flavor in group["flavors"]]
    machines = pools("prod")
    each = [MACHINES[machines[name]["machine_type"]]["gpus"] for name in order]

    assert each == sorted(each)


def flavors_for(resources: Any, environment: str) -> list[str]:
    """The pools that a step of a placement profile can wait for."""
    found = []
    for name, pool in gpu_pools(environment).items():
        labels = {"cloud.google.com/gke-accelerator": pool["accelerator"], "spot": pool["spot"]}
        fits = pool["nvidia.com/gpu"] >= resources.gpus and pool["cpu"] >= float(resources.cpu)
        if (
            fits
            and labels["cloud.google.com/gke-accelerator"] == resources.accelerator
            and pool["spot"] >= resources.spot
        ):
            found.append(name)
    return found


def test_every_profile_finds_its_pools_in_prod() -> None:
    for profile, placement in PROFILES.items():
        for step, resources in placement.steps.items():
            if resources.gpus:
                assert flavors_for(resources, "prod"), f"{profile}: {step} would wait for ever"


@pytest.mark.parametrize("name", GKE)
def test_quotas_leave_room_for_what_the_pools_hold(name: str, renderings: dict[str, list[Object]]) -> None:
    """The scheduler and Kueue make pods wait; a quota refuses them, and a step that is refused has failed."""
    found = pools(overlay(name))
    gpus = sum(pool["nvidia.com/gpu"] for pool in gpu_pools(overlay(name)).values())
    serving = [
        MACHINES[found[one]["machine_type"]]["gpus"] * found[one]["max_nodes"] for one in SERVING_POOLS & set(found)
    ]
    hard = {
        space: pick(renderings[name], "ResourceQuota", "most", space)["spec"]["hard"]
        for space in ("slipway-pipelines", "slipway-serving")
    }

    assert int(hard["slipway-pipelines"]["requests.nvidia.com/gpu"]) >= 4 * gpus
    assert int(hard["slipway-serving"]["requests.nvidia.com/gpu"]) >= 2 * sum(serving)


def test_a_pod_that_asks_for_nothing_fits_into_a_quota_of_memory(rendered: list[Object]) -> None:
    for one in rendered:
        if one["kind"] == "LimitRange":
            (limit,) = one["spec"]["limits"]
            assert set(limit["defaultRequest"]) == {"cpu", "memory"}
            assert set(limit["default"]) == {"memory"}, "a limit of processor time takes away what nobody else wants"


# ------------------------------------------------------------------------------------------- steps and servers


def test_what_the_placement_names_is_there(on_gke: list[Object]) -> None:
    placement = Placement()
    claim = pick(on_gke, "PersistentVolumeClaim", placement.store.claim)
    settings = pick(on_gke, "ConfigMap", "slipway-settings")

    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert set(settings["data"]) <= {key for one in placement.settings for key, _ in one.keys}
    for token in placement.tokens:
        assert pick(on_gke, "Secret", token.secret)
    job = pick(on_gke, "Job", "store-owner")["spec"]["template"]["spec"]
    assert job["securityContext"]["fsGroup"] == job["securityContext"]["runAsUser"] == 65532
    assert job["containers"][0]["volumeMounts"][0]["mountPath"] == placement.store.path


def test_only_an_ephemeral_environment_loses_its_store(renderings: dict[str, list[Object]]) -> None:
    kept = {overlay(name): pick(renderings[name], "StorageClass", "slipway-store")["reclaimPolicy"] for name in GKE}

    assert kept == {"ephemeral": "Delete", "dev": "Retain", "prod": "Retain"}


with_gpus = each_of("overlays/gke-dev", "overlays/gke-prod")
"""The overlays that serve on GPUs."""


def test_exactly_the_environments_with_a_pool_to_serve_on_have_the_runtime(
    renderings: dict[str, list[Object]],
) -> None:
    for name in GKE:
        has = any(one["metadata"]["name"] == "slipway-gpu" for one in renderings[name])
        assert has == bool(SERVING_POOLS & set(pools(overlay(name)))), name


def gpu_runtime(rendered: list[Object]) -> dict[str, Object]:
    """The containers of slipway-gpu, by name."""
    return {one["name"]: one for one in pick(rendered, "ServingRuntime", "slipway-gpu")["spec"]["containers"]}


def test_the_gpu_runtime_is_what_a_rollout_names(with_gpus: list[Object]) -> None:
    config = RolloutConfig(
        target="kserve", serving=ServingForm(engine="vllm", precision="bf16"), kserve=KServeConfig(gpus=2)
    )
    predictor = objects.inference_service(config, "slipway-serving", f"sha256:{'1' * 64}", {})["spec"]["predictor"]
    runtime = pick(with_gpus, "ServingRuntime", predictor["model"]["runtime"])

    assert runtime["metadata"]["namespace"] == config.kserve.namespace
    assert runtime["spec"]["supportedModelFormats"][0]["name"] == predictor["model"]["modelFormat"]["name"]
    assert {one["name"] for one in predictor["containers"]} <= set(gpu_runtime(with_gpus))
    named = {one["name"] for one in predictor["model"]["env"]}
    assert named <= {one["name"] for one in gpu_runtime(with_gpus)["kserve-container"]["env"]}


def test_the_server_before_vllm_finds_it(with_gpus: list[Object]) -> None:
    found = gpu_runtime(with_gpus)
    engine, server = found["kserve-container"], found[objects.FRONT]
    options = dict(one.removeprefix("--").split("=", 1) for one in engine["args"] if "=" in one)
    settings = read_settings({one["name"]: one["value"] for one in server["env"]})

    assert settings.engine_url == f"http://{options['host']}:{options['port']}"
    assert ipaddress.ip_address(options["host"]).is_loopback, "vLLM has no authentication"
    assert options["served-model-name"] == SERVED_NAME
    assert options["generation-config"] == "vllm"
    assert options["tensor-parallel-size"] == "$(SLIPWAY_GPUS)"
    assert "ports" not in engine, "the Service would send requests there"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert f"{options['host']}:{options['port']}/health" in engine[probe]["exec"]["command"][-1]


# --- what ends vLLM: a script in a manifest, so it is run here


@contextmanager
def listening(port: int, answers: list[str]) -> Iterator[list[str]]:
    """A server whose /metrics gives these answers in turn, the last one for ever; yields what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            text = answers[min(len(asked), len(answers)) - 1].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def metrics(running: int, waiting: int) -> str:
    return (
        "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
        f'vllm:num_requests_running{{engine="0",model_name="release"}} {running}.0\n'
        f'vllm:num_requests_waiting{{engine="0",model_name="release"}} {waiting}.0\n'
        'vllm:num_requests_running_total{engine="0"} 7.0\n'
    ).replace("vllm:num_requests_running_total", "vllm:other_total")


def waits(rendered: list[Object], server: int, engine: int) -> subprocess.Popen[bytes]:
    """What Kubernetes runs before it ends vLLM, at other ports and without its pauses."""
    _, _, script = gpu_runtime(rendered)["kserve-container"]["lifecycle"]["preStop"]["exec"]["command"]
    script = script.replace(":8080", f":{server}").replace(":8081", f":{engine}").replace("sleep(1)", "sleep(0.05)")
    return subprocess.Popen([sys.executable, "-c", script])


def test_vllm_ends_once_the_server_is_gone_and_nothing_is_computed(renderings: dict[str, list[Object]]) -> None:
    server, engine = free_port(), free_port()
    with listening(engine, [metrics(2, 0), metrics(0, 1), metrics(0, 0)]) as asked:
        with listening(server, ["slipway_requests_running 2.0"]) as seen:
            ending = waits(renderings["overlays/gke-prod"], server, engine)
            try:
                while len(seen) < 3:
                    assert ending.poll() is None, "it did not wait for the server"
                assert asked == []
            except BaseException:
                ending.kill()
                raise
        assert ending.wait(20) == 0
    assert len(asked) == 3


def test_vllm_that_has_died_holds_nothing_up(renderings: dict[str, list[Object]]) -> None:
    assert waits(renderings["overlays/gke-prod"], free_port(), free_port()).wait(20) == 0
