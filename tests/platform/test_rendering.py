"""The parts as they would be applied: what they hold, and that each rule notices what breaks it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifests.installer import pins, rendering
from manifests.installer.errors import PlatformError
from manifests.installer.rendering import MANIFESTS
from pipelines import platform_parts
from pipelines.platform_parts import ON_GKE, Environment, Platform
from tests.monitoring import rules as monitoring_rules
from tests.platform import rules
from tests.platform.conftest import BROUGHT, Object, Rendered, example, pick

UPSTREAM = [(name, environment) for name, environment in BROUGHT if name not in ("namespaces", "slipway")]
"""Ours have their own tests (tests/manifests)."""

TERRAFORM = MANIFESTS.parent / "terraform"


def part_of(platform: Platform, name: str) -> platform_parts.Part:
    (found,) = [part for part in platform.parts if part.name == name]
    return found


# ------------------------------------------------------------------------------------------- every part


@pytest.mark.parametrize(("name", "environment"), BROUGHT)
def test_each_object_says_whose_it_is(rendered: Rendered, name: str, environment: Environment) -> None:
    for one in rendered(name, environment):
        labels = one["metadata"]["labels"]
        if one["kind"] == "Namespace":
            assert labels["slipway.dev/environment"] == environment
        else:
            assert labels["slipway.dev/part"] == name


@pytest.mark.parametrize(("name", "environment"), BROUGHT)
def test_each_object_stands_in_its_namespace(rendered: Rendered, name: str, environment: Environment) -> None:
    """kubectl would put it into the kubeconfig's."""
    in_one = {"Deployment", "Service", "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Secret", "NetworkPolicy"}

    for one in rendered(name, environment):
        assert one["kind"] not in in_one or one["metadata"].get("namespace"), rules.name(one)


@pytest.mark.parametrize(("name", "environment"), UPSTREAM)
def test_what_shows_is_what_is_brought(
    platform: Platform, rendered: Rendered, name: str, environment: Environment
) -> None:
    assert list(rules.not_shown(part_of(platform, name), rendered(name, environment))) == []


def test_what_does_not_show_is_found(platform: Platform, rendered: Rendered) -> None:
    part = part_of(platform, "keda")
    objects = [one for one in rendered("keda", "prod") if one["metadata"]["name"] != "keda-operator"]
    more = [{"kind": "Deployment", "metadata": {"name": "new"}}]
    old = [
        one
        for one in objects
        if one["kind"] == "CustomResourceDefinition" and one["metadata"]["name"] == "scaledobjects.keda.sh"
    ]
    for version in old[0]["spec"]["versions"]:
        version["served"] = False

    assert sorted(rules.not_shown(part, objects + more)) == [
        "Deployment keda-operator is not there",
        "Deployment new is not in `shows`",
        "the kind scaledobjects.keda.sh/v1alpha1 is not there",
    ]


@pytest.mark.parametrize(("name", "environment"), UPSTREAM)
def test_every_pod_is_restricted(platform: Platform, rendered: Rendered, name: str, environment: Environment) -> None:
    assert part_of(platform, name).pod_security == "restricted"
    assert list(rules.unrestricted(rendered(name, environment))) == []


@pytest.mark.parametrize(
    ("context", "found"),
    [
        ({"runAsUser": 0}, "runAsUser"),
        ({"runAsNonRoot": False}, "runAsNonRoot"),
        ({"allowPrivilegeEscalation": True}, "allowPrivilegeEscalation"),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "capabilities"),
        ({"seccompProfile": {"type": "Unconfined"}}, "seccompProfile"),
        ({"privileged": True}, "privileged"),
    ],
)
def test_a_pod_that_is_not_restricted_is_found(rendered: Rendered, context: Object, found: str) -> None:
    objects = rendered("mlflow", "prod")
    (container,) = pick(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    container["securityContext"] |= context

    assert list(rules.unrestricted(objects)) == [f"Deployment slipway-system/mlflow, mlflow: {found}"]


def test_a_nodes_own_files_are_found(rendered: Rendered) -> None:
    objects = rendered("mlflow", "prod")
    pod = pick(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]
    pod["volumes"].append({"name": "node", "hostPath": {"path": "/"}})

    assert list(rules.unrestricted(objects)) == ["Deployment slipway-system/mlflow: volume node is the node's own"]


WITHOUT_A_CLASS = {"jobset", "kserve"}
"""Charts that give their pods no PriorityClass (manifests/README.md)."""


@pytest.mark.parametrize(("name", "environment"), UPSTREAM)
def test_no_server_of_models_drives_the_platform_out(rendered: Rendered, name: str, environment: Environment) -> None:
    classes = {one["metadata"]["name"]: one for one in rendered("namespaces", environment) if "value" in one}
    given = {
        pod.get("priorityClassName")
        for one in rendered(name, environment)
        if one["kind"] == "Deployment"
        for pod, _ in rendering.pods(one)
    }

    assert classes["slipway-platform"]["value"] > classes["slipway-serving"]["value"]
    assert given <= ({None} if name in WITHOUT_A_CLASS else {"slipway-platform"})


def test_a_class_belongs_to_one_part(rendered: Rendered) -> None:
    """It is there before the first pod that names it, and no other part takes it over."""
    assert [one for one in rendered("slipway", "prod") if one["kind"] == "PriorityClass"] == []


@pytest.mark.parametrize(("name", "environment"), UPSTREAM)
def test_every_container_says_what_it_takes(rendered: Rendered, name: str, environment: Environment) -> None:
    assert list(rules.unbounded(rendered(name, environment))) == []


def test_a_container_without_limits_is_found(rendered: Rendered) -> None:
    objects = rendered("trainer", "prod")
    pod = pick(objects, "Deployment", "kubeflow-trainer-controller-manager")["spec"]["template"]["spec"]
    pod["containers"][0]["resources"] = {"requests": {"cpu": "1"}}

    assert [words.partition(": ")[2] for words in rules.unbounded(objects)] == ["no requests", "no limit of memory"]


@pytest.mark.parametrize("name", ["cert-manager", "kueue", "jobset", "trainer", "keda", "kserve"])
def test_the_control_plane_reaches_what_it_calls(rendered: Rendered, name: str) -> None:
    """Through Terraform's firewall, which opens its nodes to the webhooks' ports alone."""
    text = (TERRAFORM / "modules/network/variables.tf").read_text()
    opened = re.search(r'variable "webhook_ports".*?default\s*=\s*\[([^\]]*)\]', text, re.S)
    assert opened
    ports = {int(one) for one in opened[1].split(",")}
    called = list(rules.webhook_ports(rendered(name, "prod")))

    assert called and [one for one in called if one[1] not in ports] == []


def test_a_webhook_at_another_port_is_seen(rendered: Rendered) -> None:
    objects = rendered("jobset", "prod")
    service = pick(objects, "Service", "jobset-webhook-service")
    before = set(rules.webhook_ports(objects))
    service["spec"]["ports"][0]["targetPort"] = 12345

    assert {port for _, port in before} == {9443}
    assert {port for _, port in rules.webhook_ports(objects)} == {12345}


@pytest.mark.parametrize("name", sorted({name for name, _ in UPSTREAM}))
def test_prod_lets_the_images_in(rendered: Rendered, name: str) -> None:
    text = (TERRAFORM / "environments/gke/prod.tfvars").read_text()
    listed = re.search(r"allowed\s*=\s*\[(.*?)\]", text, re.S)
    assert listed
    allowed = re.findall(r'"([^"]+)"', listed[1])
    objects = rendered(name, "prod")
    locked = {pins.whole(one): f"sha256:{'1' * 64}" for one in pins.references(objects)}
    pinned = pins.pin(objects, locked)

    assert rules.not_allowed(objects, allowed) == [], "add them to `allowed` in prod.tfvars"
    # as the pods name them, which is what Binary Authorization compares: Docker Hub is not left out
    assert [one for one in rendering.images(pinned) if not rules.allows(allowed, one.partition("@")[0])] == []


def test_an_image_from_elsewhere_is_found() -> None:
    pod = {"spec": {"containers": [{"name": "x", "image": "evil.example/kserve/agent:v1"}]}}
    one = {"kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": pod}}

    assert rules.not_allowed([one], ["docker.io/kserve/**"]) == ["evil.example/kserve/agent:v1"]
    pod["spec"]["containers"][0]["image"] = "kserve/agent:v1"
    assert rules.not_allowed([one], ["docker.io/kserve/**"]) == []


@pytest.mark.parametrize(("name", "environment"), UPSTREAM)
def test_no_image_is_of_a_moving_tag_or_a_staging_registry(
    rendered: Rendered, name: str, environment: Environment
) -> None:
    for image in pins.references(rendered(name, environment)):
        assert re.search(r":v?\d+\.\d+", image), image
        assert "staging" not in image, image


@pytest.mark.parametrize("environment", ON_GKE)
def test_all_that_is_collected_is_applied(platform: Platform, rendered: Rendered, environment: Environment) -> None:
    """An alert whose metrics nobody collects is silent for ever."""

    def known(one: Object) -> tuple[str, str, str]:
        return one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]

    written = {known(one) for one in monitoring_rules.objects() if not one["apiVersion"].startswith("kustomize")}
    parts = [part.name for part in platform.of(environment) if part.kustomization]
    applied = {known(one) for name in parts for one in rendered(name, environment)}

    assert {kind for kind, _, _ in written} == {"PodMonitoring", "NetworkPolicy", "Rules", "ClusterRules"}
    assert written - applied == set()


@pytest.mark.parametrize(("name", "part"), [("ml-pipeline", "kubeflow-pipelines"), ("cert-manager", "cert-manager")])
def test_what_is_collected_of_others_is_there(rendered: Rendered, name: str, part: str) -> None:
    monitored = pick(rendered("monitoring", "prod"), "PodMonitoring", name)
    (endpoint,) = monitored["spec"]["endpoints"]
    pods = [one for one in rendered(part, "prod") if one["kind"] == "Deployment"]
    labels = monitored["spec"]["selector"]["matchLabels"].items()
    (found,) = [one for one in pods if labels <= one["spec"]["template"]["metadata"]["labels"].items()]
    (container,) = found["spec"]["template"]["spec"]["containers"]

    assert found["metadata"]["namespace"] == monitored["metadata"]["namespace"]
    assert endpoint["port"] in {value for port in container["ports"] for value in (port["name"], port["containerPort"])}


# ------------------------------------------------------------------------------------------- digests


def test_the_lock_names_every_image_and_no_other(platform: Platform, rendered: Rendered) -> None:
    found = {pins.whole(name) for one in UPSTREAM for name in pins.references(rendered(*one))}

    assert set(pins.read()) == found, "python -m manifests.installer pin"


def test_a_known_digest_stands_wherever_the_image_is_named(rendered: Rendered) -> None:
    objects = rendered("kserve", "prod")
    lock = {"docker.io/kserve/agent:v0.20.0": f"sha256:{'1' * 64}"}
    config = pick(pins.pin(objects, lock), "ConfigMap", "inferenceservice-config")["data"]

    for key in ("agent", "batcher", "logger"):
        assert json.loads(config[key])["image"] == f"docker.io/kserve/agent:v0.20.0@sha256:{'1' * 64}"
    assert "@" not in config["router"]
    assert "kserve/agent:v0.20.0" not in pins.unpinned(pins.pin(objects, lock), lock)


def test_what_is_pinned_is_pinned_once() -> None:
    lock = {"docker.io/library/mysql:8.4": f"sha256:{'1' * 64}"}
    pod = {"spec": {"containers": [{"name": "x", "image": "mysql:8.4"}]}}
    once = pins.pin([{"kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": pod}}], lock)

    assert rendering.images(once) == [f"docker.io/library/mysql:8.4@sha256:{'1' * 64}"]
    assert pins.pin(once, lock) == once


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("mysql:8.4", "docker.io/library/mysql:8.4"),
        ("kserve/agent:v1", "docker.io/kserve/agent:v1"),
        ("ghcr.io/a/b:1.2", "ghcr.io/a/b:1.2"),
        ("localhost:5000/a:1", "localhost:5000/a:1"),
    ],
)
def test_a_short_name_is_docker_hubs(short: str, whole: str) -> None:
    assert pins.whole(short) == whole


def test_an_invented_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "FILE", tmp_path / "upstream.lock")
    (tmp_path / "upstream.lock").write_text("ghcr.io/a/b:1.2: sha256:TODO\n")

    with pytest.raises(PlatformError, match="64 hexadecimal digits"):
        pins.read()


def test_one_registry_that_does_not_answer_leaves_the_lock_as_it_is() -> None:
    from images.errors import ImageError

    def ask(name: str) -> str:
        if "quay.io" in name:
            raise ImageError("quay.io does not answer")
        return f"sha256:{'1' * 64}"

    with pytest.raises(PlatformError, match=r"nothing is written:\nquay.io does not answer"):
        pins.look_up(["ghcr.io/a/b:1.2", "quay.io/a/b:1.2"], ask)
    assert pins.look_up(["mysql:8.4"], ask) == {"docker.io/library/mysql:8.4": f"sha256:{'1' * 64}"}


def test_kueues_api_of_what_waits_is_off(rendered: Rendered) -> None:
    objects = rendered("kueue", "prod")
    (container,) = pick(objects, "Deployment", "kueue-controller-manager")["spec"]["template"]["spec"]["containers"]

    assert "--feature-gates=VisibilityOnDemand=false" in container["args"]
    assert [one for one in objects if one["kind"] == "APIService"] == []


def test_keda_has_rights_where_servers_are_and_nowhere_else(rendered: Rendered) -> None:
    objects = rendered("keda", "prod")
    scaling = [
        one["metadata"].get("namespace", "everywhere")
        for one in objects
        if one["kind"].endswith("RoleBinding") and one["roleRef"]["name"] == "keda-operator"
    ]
    text = yaml.safe_dump(pick(objects, "ClusterRole", "keda-operator")["rules"])

    assert sorted(scaling) == ["keda", "slipway-serving"]
    assert "'*'" not in text


# ------------------------------------------------------------------------------------------- KServe


def test_kserve_is_as_the_rollout_takes_it(platform: Platform, rendered: Rendered) -> None:
    objects = rendered("kserve", "prod")
    data = pick(objects, "ConfigMap", "inferenceservice-config")["data"]
    ingress = json.loads(data["ingress"])

    for setting in part_of(platform, "kserve").shows.settings:
        value = json.loads(data[setting.key])[setting.field]
        assert setting.value == (value if isinstance(value, str) else json.dumps(value))
    assert ingress["disableIngressCreation"] and ingress["kserveIngressGateway"] == "slipway-system/slipway"
    assert json.loads(data["security"]) == {"autoMountServiceAccountToken": False}
    assert [one for one in objects if one["kind"] == "ClusterStorageContainer"] == [], "ours is the one"
    assert "knative.dev/v1" not in {one["apiVersion"].partition("serving.")[2] for one in objects}


# ------------------------------------------------------------------------------------------- Kubeflow


def environment_of(deployment: Object) -> dict[str, Any]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


@pytest.mark.parametrize("environment", ["ephemeral", "prod"])
def test_runs_are_in_a_namespace_of_their_own(rendered: Rendered, environment: Environment) -> None:
    objects = rendered("kubeflow-pipelines", environment)
    server = environment_of(pick(objects, "Deployment", "ml-pipeline"))

    assert server["POD_NAMESPACE"] == "slipway-pipelines"
    assert server["DEFAULTPIPELINERUNNERSERVICEACCOUNT"] == "pipeline-step"
    assert json.loads(server["COMPILED_PIPELINE_SPEC_PATCH"]) == {"automountServiceAccountToken": True}
    for agent in ("ml-pipeline-persistenceagent", "ml-pipeline-scheduledworkflow"):
        assert environment_of(pick(objects, "Deployment", agent))["NAMESPACE"] == "slipway-pipelines"
    controller = pick(objects, "Deployment", "workflow-controller")["spec"]["template"]["spec"]["containers"][0]
    assert controller["args"][-2:] == ["--managed-namespace", "slipway-pipelines"]
    for service in ("ml-pipeline", "metadata-grpc-service"):
        alias = pick(objects, "Service", service, "slipway-pipelines")
        assert alias["spec"]["externalName"] == f"{service}.kubeflow.svc.cluster.local"


def test_the_account_is_the_one_that_terraform_knows() -> None:
    text = (TERRAFORM / "environments/gke/identities.tf").read_text()

    assert re.search(r'namespace\s*=\s*"slipway-pipelines",?\s*name\s*=\s*"pipeline-step"', text)


@pytest.mark.parametrize("environment", ["ephemeral", "prod"])
def test_a_run_may_write_its_results_and_nothing_else(rendered: Rendered, environment: Environment) -> None:
    objects = rendered("kubeflow-pipelines", environment)
    rights = pick(objects, "Role", "pipeline-step")["rules"]

    assert rights == [
        {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["kfp-launcher"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    ]
    assert {one["metadata"]["name"] for one in objects if "pipeline-runner" in yaml.safe_dump(one)} == set()


@pytest.mark.parametrize("environment", ["ephemeral", "prod"])
def test_nobody_reads_secrets(rendered: Rendered, environment: Environment) -> None:
    objects = rendered("kubeflow-pipelines", environment)
    roles = [one for one in objects if one["kind"] == "Role"]

    assert list(rules.loose_rights(objects)) == []
    assert {one["metadata"]["name"] for one in roles if one["metadata"]["namespace"] == "kubeflow"} == {
        "workflow-controller"
    }
    assert [one for one in objects if one["kind"].startswith("ClusterRole")] == []


def test_a_right_that_is_too_wide_is_found(rendered: Rendered) -> None:
    objects = rendered("kubeflow-pipelines", "prod")
    role = pick(objects, "Role", "ml-pipeline")
    role["rules"] += [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["*"]},
    ]

    where = "Role slipway-pipelines/ml-pipeline"
    assert list(rules.loose_rights(objects)) == [f"{where}: reads Secrets", f"{where}: *"]


@pytest.mark.parametrize("environment", ["ephemeral", "prod"])
def test_artifacts_are_googles(rendered: Rendered, environment: Environment) -> None:
    objects = rendered("kubeflow-pipelines", environment)
    launcher = pick(objects, "ConfigMap", "kfp-launcher")

    assert launcher["metadata"]["namespace"] == "slipway-pipelines"
    assert launcher["data"] == {"defaultPipelineRoot": "gs://my-project-dev-pipelines/kubeflow"}
    text = yaml.safe_dump_all(objects)
    for store in ("minio:", "minio-service", "seaweedfs", "mlpipeline-minio-artifact"):
        assert store not in text
    accounts = {one["metadata"]["name"]: one["metadata"] for one in objects if one["kind"] == "ServiceAccount"}
    assert accounts["ml-pipeline"]["annotations"] == {
        "iam.gke.io/gcp-service-account": "slipway-dev-kfp@my-project.iam.gserviceaccount.com"
    }
    assert accounts["ml-pipeline-ui"]["annotations"] == {
        "iam.gke.io/gcp-service-account": "slipway-dev-dashboard@my-project.iam.gserviceaccount.com"
    }


def test_the_database_is_reached_by_the_proxy_alone(rendered: Rendered) -> None:
    objects = rendered("kubeflow-pipelines", "prod")
    pod = pick(objects, "Deployment", "mysql")["spec"]["template"]["spec"]

    assert pod["containers"][0]["args"][:3] == [
        "my-project:us-central1:slipway-dev-pipelines",
        "--auto-iam-authn",
        "--private-ip",
    ]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("ml-pipeline", False)
    assert pick(objects, "Secret", "mysql-secret")["stringData"] == {"username": "slipway-dev-kfp", "password": ""}
    (rule,) = pick(objects, "NetworkPolicy", "mysql")["spec"]["ingress"]
    labels = [one["podSelector"]["matchLabels"] for one in rule["from"]]
    assert labels == [{"app": "ml-pipeline"}, {"component": "metadata-grpc-server"}]


def test_an_environment_without_databases_has_them_in_pods(rendered: Rendered) -> None:
    for name in ("kubeflow-pipelines", "mlflow"):
        text = yaml.safe_dump_all(rendered(name, "ephemeral"))
        assert "cloud-sql-proxy" not in text and "PersistentVolumeClaim" not in text


def test_every_policy_of_kubeflow_names_who_may(rendered: Rendered) -> None:
    policies = [one for one in rendered("kubeflow-pipelines", "prod") if one["kind"] == "NetworkPolicy"]
    incoming = [one for one in policies if "Ingress" in one["spec"]["policyTypes"]]
    selected = {yaml.safe_dump(one["spec"]["podSelector"]) for one in incoming}

    assert len(selected) == len(incoming)
    denied = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert pick(policies, "NetworkPolicy", "default-deny")["spec"] == denied
    for one in policies:
        for rule in one["spec"].get("ingress", []):
            assert rule["from"] and rule["ports"], one["metadata"]["name"]


@pytest.mark.parametrize("environment", ["ephemeral", "prod"])
def test_kubeflow_reaches_what_it_needs_and_nothing_else(rendered: Rendered, environment: Environment) -> None:
    policies = [one for one in rendered("kubeflow-pipelines", environment) if one["kind"] == "NetworkPolicy"]
    outgoing = {one["metadata"]["name"]: one for one in policies if one["spec"].get("egress")}
    api_server = example(environment).variables["PLATFORM_NODES_RANGE"]
    metadata_server = {("169.254.169.254/32", 80), ("169.254.169.254/32", 8080)}
    metadata_server |= {("169.254.169.252/32", 987), ("169.254.169.252/32", 988)}

    assert set(outgoing) == {"out"} | ({"mysql-out"} if environment == "prod" else set())
    assert outgoing["out"]["spec"]["podSelector"] == {}
    names = {("169.254.20.10/32", 53)}
    assert reached(outgoing["out"]) == {(api_server, 443), ("0.0.0.0/0", 443)} | names | metadata_server
    rules_out = outgoing["out"]["spec"]["egress"]
    assert [rule for rule in rules_out if {"podSelector": {}} in rule["to"]] == [{"to": [{"podSelector": {}}]}]
    (public,) = [peer["ipBlock"] for rule in rules_out for peer in rule["to"] if "except" in peer.get("ipBlock", {})]
    assert {*PRIVATE, "169.254.0.0/16", "100.64.0.0/10"} == set(public["except"])
    if environment == "prod":
        assert reached(outgoing["mysql-out"]) == {(block, 3307) for block in PRIVATE}
        assert outgoing["mysql-out"]["spec"]["podSelector"] == {"matchLabels": {"app": "mysql"}}


# ------------------------------------------------------------------------------------------- MLflow


@pytest.mark.parametrize("environment", ["ephemeral", "prod"])
def test_mlflow_is_found_where_the_steps_look(rendered: Rendered, environment: Environment) -> None:
    service = pick(rendered("mlflow", environment), "Service", "mlflow")["spec"]["ports"][0]
    settings = pick(rendered("slipway", environment), "ConfigMap", "slipway-settings")["data"]

    assert service["port"] == 80
    assert settings["mlflow-tracking-uri"] == "http://mlflow.slipway-system.svc.cluster.local"
    (container,) = pick(rendered("mlflow", environment), "Deployment", "mlflow")["spec"]["template"]["spec"][
        "containers"
    ]
    (hosts,) = [one for one in container["args"] if one.startswith("--allowed-hosts=")]
    assert "mlflow.slipway-system.svc.cluster.local" in hosts.split("=")[1].split(",")


def test_mlflow_signs_in_as_its_google_account(rendered: Rendered) -> None:
    pod = pick(rendered("mlflow", "prod"), "Deployment", "mlflow")["spec"]["template"]["spec"]
    server, proxy = pod["containers"][0], pod["initContainers"][0]
    said = {one["name"]: one["value"] for one in server["env"]}

    assert said["PGUSER"] == "slipway-dev-mlflow@my-project.iam"
    assert said["MLFLOW_ARTIFACTS_DESTINATION"] == "gs://my-project-dev-pipelines/mlflow"
    assert said["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://127.0.0.1:5432/mlflow")
    assert proxy["args"][0] == "my-project:us-central1:slipway-dev-mlflow" and proxy["restartPolicy"] == "Always"


PRIVATE = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}
"""Where Terraform's ranges.private_services may lie, and with it Cloud SQL."""


def reached(policy: Object) -> set[tuple[str, int]]:
    """(address block, port) of what a policy lets out."""
    return {
        (peer["ipBlock"]["cidr"], port["port"])
        for rule in policy["spec"]["egress"]
        for peer in rule["to"]
        if "ipBlock" in peer
        for port in rule["ports"]
    }


def test_mlflow_reaches_its_database_wherever_terraform_puts_it(rendered: Rendered) -> None:
    found = reached(pick(rendered("mlflow", "prod"), "NetworkPolicy", "mlflow"))

    assert {block for block, port in found if port == 3307} == PRIVATE


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["PLATFORM_PIPELINES", "PLATFORM_DATABASE_MLFLOW", "PLATFORM_ACCOUNT_MLFLOW"])
def test_what_terraform_does_not_say_is_named(platform: Platform, name: str) -> None:
    given = example("dev")
    lacking = rendering.Given("dev", {**given.variables, name: ""}, given.images)

    with pytest.raises(PlatformError, match=f"mlflow: the platform file says nothing for {name}"):
        rendering.render(platform, part_of(platform, "mlflow"), lacking)


def test_our_overlay_needs_the_digests_of_a_push(platform: Platform) -> None:
    given = rendering.Given("dev", example("dev").variables, "")

    with pytest.raises(PlatformError, match=r"copy manifests/images\.env\.example there"):
        rendering.render(platform, part_of(platform, "slipway"), given)


def test_a_placeholder_that_nothing_replaced_is_found(platform: Platform) -> None:
    one = {"kind": "Secret", "metadata": {"name": "mysql-secret"}, "stringData": {"username": "PLATFORM_ACCOUNT_KFP"}}

    with pytest.raises(PlatformError, match=r"stringData.username: PLATFORM_ACCOUNT_KFP was not replaced"):
        rendering._refuse_placeholders(part_of(platform, "kubeflow-pipelines"), [one])


@pytest.mark.parametrize(("line", "words"), [("PLATFORM", "line 2"), ("plat form=x", "line 2"), ("=x", "line 2")])
def test_a_platform_file_that_is_none(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "platform.env").write_text(f"# made by Terraform\n{line}\n")

    with pytest.raises(PlatformError, match=words):
        rendering.read_variables(tmp_path / "platform.env")


def test_no_platform_file(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="output -raw platform_env"):
        rendering.read_variables(tmp_path / "platform.env")
