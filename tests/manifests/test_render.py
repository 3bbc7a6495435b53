"""What the rendered manifests hold, whatever cluster they are for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from components.rollout.config import PRESTOP_SECONDS, KServeConfig, RolloutConfig
from components.rollout.kserve import objects
from manifests.rules import containers
from tests.cluster import manifests
from tests.manifests.conftest import GKE, IMAGES, NODE_IP, Object, kustomizations, pick

NAMESPACES = {"slipway-system", "slipway-serving", "slipway-pipelines"}
PLACEHOLDER = "203.0.113.1"


def test_the_harness_renders_every_overlay_that_there_is() -> None:
    """`rendered` names them; a new overlay must be added there."""
    assert set(kustomizations()) == {"base", "overlays/test-cluster", *GKE}


def test_every_object_is_in_one_of_our_namespaces_or_in_none(rendered: list[Object]) -> None:
    of_the_cluster = {"Namespace", "GatewayClass", "ClusterStorageContainer", "PriorityClass"}
    of_the_cluster |= {"StorageClass", "ResourceFlavor", "ClusterQueue", "ClusterRules"}

    for one in rendered:
        if one["kind"] not in of_the_cluster:
            # whoever submits comes to Kubeflow, in whose own namespace that is allowed
            theirs = {"kubeflow"} if one["metadata"]["name"] == "submitter" else set()
            assert one["metadata"]["namespace"] in NAMESPACES | theirs, one["metadata"]["name"]


def test_the_harness_sets_every_image_by_digest_and_every_address(renderings: dict[str, list[Object]]) -> None:
    images = {one["kind"]: container["image"] for _, one, _, container in containers(renderings["machine"])}
    text = yaml.safe_dump_all(renderings["machine"])

    assert images == {
        "ServingRuntime": IMAGES["slipway-serving"],
        "ClusterStorageContainer": IMAGES["slipway-serving"],
        "CronJob": IMAGES["slipway-python"],
    }
    assert PLACEHOLDER not in text
    assert text.count(f"http://{NODE_IP}:4443") == 2
    assert text.count(f"{NODE_IP}/32") == 3
    assert PLACEHOLDER in yaml.safe_dump_all(renderings["overlays/test-cluster"])


def test_what_the_harness_writes_for_itself_never_reaches_the_cluster(renderings: dict[str, list[Object]]) -> None:
    assert [one for one in renderings["machine"] if one["kind"] == "ConfigMap"] == []
    assert len(renderings["machine"]) == len(renderings["overlays/test-cluster"])


@pytest.mark.parametrize("image", ["10.1.2.3:5000/slipway-serving:latest", "slipway-serving", "a@sha256:12"])
def test_an_image_without_a_digest_is_refused(image: str, tmp_path: Path) -> None:
    with pytest.raises(manifests.ManifestsError, match="is not REPOSITORY@sha256:DIGEST"):
        manifests.render(NODE_IP, {"slipway-serving": image}, tmp_path)


def test_the_base_names_images_that_an_overlay_replaces(renderings: dict[str, list[Object]]) -> None:
    images = {container["image"] for _, _, _, container in containers(renderings["base"])}

    assert images == {"slipway-serving", "slipway-python"}


def test_the_rollouts_defaults_are_what_is_there(rendered: list[Object]) -> None:
    config = KServeConfig()
    namespace, gateway = config.gateway.split("/")

    assert (
        config.namespace
        == pick(rendered, "ServingRuntime", runtime_of(RolloutConfig(target="kserve")))["metadata"]["namespace"]
    )
    assert namespace == pick(rendered, "Gateway", gateway)["metadata"]["namespace"]


def runtime_of(config: RolloutConfig) -> str:
    """The runtime that a rollout names for a release."""
    isvc = objects.inference_service(config, config.kserve.namespace, f"sha256:{'1' * 64}", {})
    return isvc["spec"]["predictor"]["model"]["runtime"]


def test_the_gateway_takes_services_routes_from_the_serving_namespace_alone(rendered: list[Object]) -> None:
    """At its first listener, where a rollout asks; a second one, for plain HTTP, has the redirect alone."""
    service, *others = pick(rendered, "Gateway", "slipway")["spec"]["listeners"]
    wanted = service["allowedRoutes"]["namespaces"]["selector"]["matchLabels"].items()
    namespaces = [one["metadata"] for one in rendered if one["kind"] == "Namespace"]

    assert [one["name"] for one in namespaces if wanted <= one["labels"].items()] == ["slipway-serving"]
    assert [kind["kind"] for kind in service["allowedRoutes"]["kinds"]] == ["HTTPRoute"]
    assert all(one["allowedRoutes"]["namespaces"] == {"from": "Same"} for one in others)


def test_the_server_is_probed_where_it_listens(rendered: list[Object]) -> None:
    for runtime in ("slipway-cpu", "slipway-gpu"):
        spec = next((one["spec"] for one in rendered if one["metadata"]["name"] == runtime), None)
        if spec is None:  # there are GPUs on GKE alone
            continue
        container = next(one for one in spec["containers"] if "ports" in one)
        port = container["ports"][0]["containerPort"]

        assert container["args"][container["args"].index("--port") + 1] == str(port)
        for probe in ("startupProbe", "readinessProbe"):
            assert container[probe]["httpGet"] == {"path": "/health", "port": port}
        assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == PRESTOP_SECONDS
        tmp = {one["name"] for one in container["volumeMounts"] if one["mountPath"] == "/tmp"}
        assert tmp <= {one["name"] for one in spec["volumes"]} and tmp


def test_the_storage_container_takes_releases_and_nothing_else(rendered: list[Object]) -> None:
    spec = pick(rendered, "ClusterStorageContainer", "slipway")["spec"]
    (form,) = spec["supportedUriFormats"]

    def taken(uri: str) -> bool:
        return re.search(form["regex"], uri) is not None

    digest = "0123456789abcdef" * 4
    assert taken(f"{KServeConfig().releases}/{digest}")
    assert taken(f"s3://bucket/{digest}") and taken(f"https://host/releases/{digest}/")
    assert not taken("gs://bucket/model")
    assert not taken(f"gs://bucket/{digest[:-1]}")
    assert not taken(f"gs://bucket/{digest.upper()}")
    assert not taken(f"file:///{digest}")
    assert spec["workloadType"] == "initContainer", "the schema takes any word, and KServe then passes over it"
    assert "args" not in spec["container"], "KServe gives the URI and the folder"


def test_no_pod_mounts_a_token_unless_it_must(rendered: list[Object]) -> None:
    for one in rendered:
        if one["kind"] == "ServiceAccount":
            assert one["automountServiceAccountToken"] is False, one["metadata"]["name"]
    accounts = {one["metadata"]["namespace"] for one in rendered if one["metadata"]["name"] == "default"}
    assert accounts == NAMESPACES, "pods that name no account use this one"


def test_the_janitor_runs_one_at_a_time_and_ends(rendered: list[Object]) -> None:
    spec = pick(rendered, "CronJob", "rollout-janitor")["spec"]
    job = spec["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]

    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] and job["activeDeadlineSeconds"] and job["ttlSecondsAfterFinished"]
    assert job["template"]["spec"]["serviceAccountName"] == "rollout-janitor"
    assert container["command"][:3] == ["slipway", "rollout", "janitor"]
    options = dict(zip(container["command"][3::2], container["command"][4::2], strict=True))
    assert options["--namespace"] == KServeConfig().namespace
    assert any(options["--store"].startswith(f"{one['mountPath']}/") for one in container["volumeMounts"])


# ------------------------------------------------------------------------------------------- network policies


def policies(objects: list[Object], namespace: str) -> list[Object]:
    return [
        one["spec"] for one in objects if one["kind"] == "NetworkPolicy" and one["metadata"]["namespace"] == namespace
    ]


def selects(selector: Object, labels: dict[str, str]) -> bool:
    equal = selector.get("matchLabels", {}).items() <= labels.items()
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return equal and all(labels.get(one["key"]) in one["values"] for one in expressions)


def rules(objects: list[Object], namespace: str, direction: str, labels: dict[str, str]) -> list[Object]:
    """What a pod with these labels may receive (ingress) or reach (egress)."""
    binding = [one for one in policies(objects, namespace) if selects(one["podSelector"], labels)]
    assert any(direction.capitalize() in one["policyTypes"] for one in binding), "no policy binds: all is allowed"
    return [rule for one in binding for rule in one.get(direction, [])]


@pytest.mark.parametrize("namespace", sorted(NAMESPACES))
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_pod_that_no_policy_names_speaks_to_nobody(rendered: list[Object], namespace: str, direction: str) -> None:
    assert rules(rendered, namespace, direction, {"app": "stranger"}) == []


@pytest.mark.parametrize("labels", [{}, {"slipway.dev/egress": "none"}], ids=["unlabelled", "none"])
def test_a_step_without_network_gets_none(rendered: list[Object], labels: dict[str, str]) -> None:
    assert rules(rendered, "slipway-pipelines", "egress", labels) == []


@pytest.mark.parametrize("egress", ["https", "cluster"])
def test_a_step_with_network_reaches_names_and_https_and_is_reached_by_nobody(
    rendered: list[Object], egress: str
) -> None:
    labels = {"slipway.dev/egress": egress}
    reached = {
        port["port"] for rule in rules(rendered, "slipway-pipelines", "egress", labels) for port in rule["ports"]
    }

    assert {53, 443} <= reached
    assert rules(rendered, "slipway-pipelines", "ingress", labels) == []


def test_predictors_are_reached_by_the_gateway_and_the_api_servers_proxy(rendered: list[Object]) -> None:
    found = rules(rendered, "slipway-serving", "ingress", {"component": "predictor"})
    senders = {
        sender["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for rule in found
        for sender in rule["from"]
        if "namespaceSelector" in sender
    }

    assert {port["port"] for rule in found for port in rule["ports"]} == {8080}
    assert senders - {"gmp-system"} == {"slipway-system", "kube-system"}, "and by who reads their metrics"


def test_only_what_speaks_to_the_cluster_may_reach_a_private_address(renderings: dict[str, list[Object]]) -> None:
    private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"}
    for one in renderings["base"]:
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] != "step-cluster":
            for rule in one["spec"].get("egress", []):
                for receiver in rule["to"]:
                    assert "ipBlock" not in receiver or set(receiver["ipBlock"]["except"]) == private
    (cluster,) = [one for one in renderings["base"] if one["metadata"]["name"] == "step-cluster"]
    assert "169.254.0.0/16" in cluster["spec"]["egress"][1]["to"][0]["ipBlock"]["except"], "the metadata server"
