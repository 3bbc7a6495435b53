"""Every rule holds for every rendering, and notices a mistake that is planted for it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from manifests import rules
from manifests.rules import RULES, findings
from tests.manifests.conftest import GKE, Object, pick

Change = Callable[[list[Object]], Any]


def container(objects: list[Object], name: str) -> Object:
    """The container of this name in the first object that has one; ServingRuntimes come before the others."""
    kinds = ("ServingRuntime", "CronJob", "Job", "ClusterStorageContainer")
    ordered = sorted((one for one in objects if one["kind"] in kinds), key=lambda one: kinds.index(one["kind"]))
    return next(one for _, _, _, one in rules.containers(ordered) if one["name"] == name)


def policy(objects: list[Object], name: str, namespace: str = "") -> Object:
    return pick(objects, "NetworkPolicy", name, namespace)["spec"]


def backends(objects: list[Object], **changes: object) -> None:
    """Change what the load balancer is told about releases; None takes a field away."""
    data = pick(objects, "ConfigMap", "backend-policies")["data"]
    spec = yaml.safe_load(data["GCPBackendPolicy"])
    spec["default"] |= changes
    spec["default"] = {key: value for key, value in spec["default"].items() if value is not None}
    data["GCPBackendPolicy"] = yaml.safe_dump(spec)


PRIVATE_ADDRESSES = {
    f"NetworkPolicy slipway-pipelines/step-cluster: 0.0.0.0/0 holds {block}, "
    "the cluster's own network or the metadata server"
    for block in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")
}
"""Where the API server's address is not known, what speaks to it may speak to every private one. On GKE it is known."""

PLANTED: list[tuple[str, Change, str]] = [
    # pods
    ("unrestricted", lambda o: container(o, "janitor")["securityContext"].update(runAsUser=0), "runAsUser"),
    ("unrestricted", lambda o: container(o, "kserve-container")["securityContext"].pop("runAsNonRoot"), "runAsNonRoot"),
    ("unrestricted", lambda o: container(o, "owner")["securityContext"].pop("readOnlyRootFilesystem"), "readOnlyRoot"),
    (
        "unrestricted",
        lambda o: container(o, "janitor")["securityContext"].update(capabilities={"drop": ["ALL"], "add": ["NET_RAW"]}),
        "capabilities.add",
    ),
    (
        "unrestricted",
        lambda o: container(o, "storage-initializer")["securityContext"].update(seccompProfile={"type": "Unconfined"}),
        "seccompProfile",
    ),
    ("unrestricted", lambda o: pick(o, "ServingRuntime", "slipway-gpu")["spec"].update(hostIPC=True), "hostIPC"),
    (
        "unrestricted",
        lambda o: pick(o, "ServingRuntime", "slipway-cpu")["spec"]["volumes"].append(
            {"name": "node", "hostPath": {"path": "/"}}
        ),
        "a folder of the node",
    ),
    (
        "unpinned_images",
        lambda o: container(o, "janitor").update(image="a.dev/slipway-python:latest"),
        ":latest is not",
    ),
    ("unpinned_images", lambda o: container(o, "owner").update(image="slipway-python"), "slipway-python is not"),
    (
        "unpinned_images",
        lambda o: container(o, "owner").update(image=f"a.dev/slipway-python@sha256:{'0' * 64}"),
        "is not REGISTRY",
    ),
    ("unpinned_images", lambda o: container(o, "janitor").update(imagePullPolicy="Always"), "imagePullPolicy"),
    ("unlimited", lambda o: container(o, "janitor")["resources"].pop("limits"), "resources.limits.memory"),
    ("unlimited", lambda o: container(o, "owner")["resources"]["requests"].pop("cpu"), "resources.requests.cpu"),
    ("unlimited", lambda o: container(o, "owner")["resources"]["limits"].update(cpu="1"), "a limit of processor time"),
    ("unprobed", lambda o: container(o, "kserve-container").pop("livenessProbe"), "livenessProbe is not there"),
    ("unprobed", lambda o: container(o, "transformer-container").pop("startupProbe"), "startupProbe is not there"),
    (
        "unprobed",
        lambda o: container(o, "transformer-container")["readinessProbe"]["httpGet"].update(port=8081),
        "asks where nothing listens",
    ),
    ("unprobed", lambda o: container(o, "transformer-container").pop("lifecycle"), "no preStop"),
    (
        "with_a_token",
        lambda o: pick(o, "ServiceAccount", "predictor").pop("automountServiceAccountToken"),
        "mount its token",
    ),
    # rights
    (
        "wide_rights",
        lambda o: pick(o, "Role", "reader")["rules"].append(
            {"apiGroups": ["*"], "resources": ["pods"], "verbs": ["get"]}
        ),
        "'*' gives",
    ),
    ("wide_rights", lambda o: pick(o, "Role", "rollout")["rules"][0]["verbs"].append("*"), "'*' gives"),
    (
        "wide_rights",
        lambda o: pick(o, "Role", "reader")["rules"].append(
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
        ),
        "secrets would undo",
    ),
    (
        "wide_rights",
        lambda o: pick(o, "Role", "reader")["rules"].append(
            {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create"]}
        ),
        "pods/portforward would undo",
    ),
    (
        "wide_rights",
        lambda o: pick(o, "Role", "submitter", "kubeflow")["rules"].append(
            {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}
        ),
        "pods/exec would undo",
    ),
    (
        "wide_rights",
        lambda o: pick(o, "RoleBinding", "submitter", "kubeflow")["subjects"].append(
            {"kind": "User", "name": "me@example.com"}
        ),
        "no account of the cluster",
    ),
    ("wide_rights", lambda o: pick(o, "RoleBinding", "reader").update(kind="ClusterRoleBinding"), "end at a namespace"),
    (
        "wide_rights",
        lambda o: pick(o, "RoleBinding", "reader")["subjects"].append(
            {"kind": "Group", "name": "system:authenticated"}
        ),
        "no account of the cluster",
    ),
    (
        "google_accounts",
        lambda o: pick(o, "ServiceAccount", "pipeline-step")["metadata"].pop("annotations"),
        "is None, no Google account",
    ),
    (
        "google_accounts",
        lambda o: pick(o, "ServiceAccount", "predictor")["metadata"]["annotations"].update(
            {rules.GOOGLE_ACCOUNT: "somebody@gmail.com"}
        ),
        "no Google account",
    ),
    (
        "google_accounts",
        lambda o: pick(o, "ServiceAccount", "rollout")["metadata"].update(
            annotations={rules.GOOGLE_ACCOUNT: "a@b.iam.gserviceaccount.com"}
        ),
        "Terraform gives it none",
    ),
    # network
    ("open_policies", lambda o: policy(o, "predictor-requests")["ingress"].append({}), "lets everybody in"),
    (
        "open_policies",
        lambda o: policy(o, "step-https")["egress"].append({"ports": [{"port": 443}]}),
        "out to everywhere",
    ),
    ("open_policies", lambda o: policy(o, "step-https")["egress"][0].pop("ports"), "out to every port"),
    (
        "open_policies",
        lambda o: policy(o, "predictor-requests")["ingress"][0]["from"].append({"namespaceSelector": {}}),
        "names every namespace",
    ),
    (
        "open_policies",
        lambda o: policy(o, "predictor-requests")["ingress"][0]["from"].append({"podSelector": {}}),
        "names every pod",
    ),
    (
        "open_policies",
        lambda o: policy(o, "step-kubeflow")["egress"][-1]["to"][0]["ipBlock"]["except"].remove("169.254.0.0/16"),
        "169.254.0.0/16, the cluster's own network or the metadata server",
    ),
    (
        "open_policies",
        lambda o: policy(o, "predictor-fetch")["egress"][-1]["to"][0]["ipBlock"].pop("except"),
        "own network",
    ),
    ("undenied", lambda o: o.remove(pick(o, "NetworkPolicy", "default-deny", "slipway-serving")), "no policy denies"),
    (
        "undenied",
        lambda o: policy(o, "default-deny", "slipway-pipelines").update(policyTypes=["Ingress"]),
        "no policy denies",
    ),
    # namespaces
    (
        "lax_namespaces",
        lambda o: pick(o, "Namespace", "slipway-pipelines")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
        "enforce is baseline",
    ),
    (
        "lax_namespaces",
        lambda o: pick(o, "Namespace", "slipway-system")["metadata"]["labels"].pop(
            "pod-security.kubernetes.io/warn-version"
        ),
        "warn is restricted ",
    ),
    (
        "unbounded_namespaces",
        lambda o: o.remove(pick(o, "ResourceQuota", "most", "slipway-serving")),
        "0 ResourceQuotas",
    ),
    ("unbounded_namespaces", lambda o: o.remove(pick(o, "LimitRange", "defaults", "slipway-system")), "0 LimitRanges"),
    (
        "unbounded_namespaces",
        lambda o: pick(o, "ResourceQuota", "most", "slipway-serving")["spec"]["hard"].pop("services.loadbalancers"),
        "services.loadbalancers is not 0",
    ),
    # the door
    ("public_doors", lambda o: pick(o, "Gateway", "slipway")["metadata"].pop("annotations"), "no certificate map"),
    ("public_doors", lambda o: pick(o, "Gateway", "slipway")["spec"].pop("addresses"), "no address of its own"),
    (
        "public_doors",
        lambda o: pick(o, "Gateway", "slipway")["spec"]["listeners"][1]["allowedRoutes"].update(
            namespaces={"from": "All"}
        ),
        "without TLS",
    ),
    ("public_doors", lambda o: pick(o, "Gateway", "slipway")["spec"]["listeners"][0].pop("hostname"), "no host name"),
    ("public_doors", lambda o: o.remove(pick(o, "GCPGatewayPolicy", "slipway")), "versions of TLS"),
    ("public_doors", lambda o: backends(o, securityPolicy=None), "no Cloud Armor policy"),
    ("public_doors", lambda o: backends(o, iap=None), "nothing says whether Identity-Aware Proxy"),
    (
        "public_doors",
        lambda o: backends(o, iap={"enabled": True, "clientID": "", "oauth2ClientSecret": {"name": "slipway-iap"}}),
        "no OAuth client",
    ),
    (
        "public_doors",
        lambda o: backends(o, iap={"enabled": True, "clientID": "1.apps.googleusercontent.com"}),
        "no Secret of its OAuth client",
    ),
    ("public_doors", lambda o: o.remove(pick(o, "ConfigMap", "backend-policies")), "no ConfigMap backend-policies"),
    (
        "other_doors",
        lambda o: o.append(
            {
                "kind": "Service",
                "metadata": {"name": "side", "namespace": "slipway-serving"},
                "spec": {"type": "NodePort"},
            }
        ),
        "past the Gateway",
    ),
    (
        "other_doors",
        lambda o: o.append(
            {"kind": "Ingress", "metadata": {"name": "side", "namespace": "slipway-serving"}, "spec": {}}
        ),
        "a second door",
    ),
    # references and values
    ("left_open", lambda o: pick(o, "Gateway", "slipway")["spec"]["addresses"][0].update(value=""), "is empty"),
    (
        "left_open",
        lambda o: policy(o, "step-cluster")["egress"][2]["to"][0]["ipBlock"].update(cidr="192.0.2.0/24"),
        "192.0.2.0/24",
    ),
    (
        "left_open",
        lambda o: pick(o, "HTTPRoute", "to-https")["spec"].update(hostnames=["PLATFORM_EDGE_HOSTNAME"]),
        "still is",
    ),
    (
        "broken_references",
        lambda o: pick(o, "CronJob", "rollout-janitor")["spec"]["jobTemplate"]["spec"]["template"]["spec"].update(
            priorityClassName="slipway-first"
        ),
        "no PriorityClass slipway-first",
    ),
    ("broken_references", lambda o: o.remove(pick(o, "ServiceAccount", "rollout-janitor")), "no ServiceAccount"),
    (
        "broken_references",
        lambda o: o.remove(pick(o, "PersistentVolumeClaim", "slipway-store")),
        "no PersistentVolumeC",
    ),
    ("broken_references", lambda o: o.remove(pick(o, "StorageClass", "slipway-store")), "no StorageClass"),
    ("broken_references", lambda o: o.remove(pick(o, "ClusterQueue", "slipway-steps")), "no ClusterQueue"),
    ("broken_references", lambda o: o.remove(pick(o, "ResourceFlavor", "h100x8")), "no ResourceFlavor h100x8"),
    ("broken_references", lambda o: o.remove(pick(o, "Gateway", "slipway")), "no Gateway slipway"),
    (
        "unused_flavors",
        lambda o: pick(o, "ClusterQueue", "slipway-steps")["spec"]["resourceGroups"][0]["flavors"].pop(),
        "no queue may use it",
    ),
    ("twins", lambda o: o.append(copy.deepcopy(pick(o, "Role", "reader"))), "stands here twice"),
]


@pytest.mark.parametrize("name", [*GKE, "machine"])
def test_nothing_is_wrong_with_what_is_applied(renderings: dict[str, list[Object]], name: str) -> None:
    known = PRIVATE_ADDRESSES if name == "machine" else set()

    assert set(findings(renderings[name])) == known


@pytest.mark.parametrize("name", ["base", "overlays/test-cluster"])
def test_nothing_is_wrong_with_what_an_overlay_builds_on(renderings: dict[str, list[Object]], name: str) -> None:
    """It names no images yet."""
    assert set(findings(renderings[name], without=[rules.unpinned_images])) == PRIVATE_ADDRESSES


@pytest.mark.parametrize(("rule", "change", "words"), PLANTED, ids=[f"{one[0]}-{one[2]}" for one in PLANTED])
def test_a_planted_mistake_is_noticed(
    renderings: dict[str, list[Object]], rule: str, change: Change, words: str
) -> None:
    objects = copy.deepcopy(renderings["overlays/gke-prod"])
    change(objects)

    found = list(getattr(rules, rule)(objects))

    assert found and all(words in line for line in found), found
    assert set(found) <= set(findings(objects))


def test_every_rule_has_a_mistake_planted() -> None:
    assert {rule.__name__ for rule in RULES} == {rule for rule, _, _ in PLANTED}


def test_an_object_that_makes_pods_in_another_way_is_not_passed_over() -> None:
    """A kind of our overlays that has containers, and is none that the rules look into, would escape them all."""
    known = {"ClusterStorageContainer", "ServingRuntime", "ClusterServingRuntime", "Pod", "CronJob", *rules._POD_KINDS}

    for kind in sorted(known):
        spec = {"containers": [{"name": "x"}]}
        made = {
            "ClusterStorageContainer": {"container": {"name": "x"}},
            "CronJob": {"jobTemplate": {"spec": {"template": {"spec": spec}}}},
        }.get(kind, {"template": {"spec": spec}} if kind in rules._POD_KINDS else spec)
        assert [one["name"] for *_, one in rules.containers([{"kind": kind, "metadata": {"name": "n"}, "spec": made}])]


def test_nothing_that_is_rendered_has_containers_elsewhere(rendered: list[Object]) -> None:
    looked_at = {id(one) for _, one, _, _ in rules.containers(rendered)}

    for one in rendered:
        assert id(one) in looked_at or "'containers':" not in str(one), rules.name_of(one)


@pytest.mark.parametrize(("text", "code"), [("", 2), ("kind: Service\nmetadata: {name: a}\nspec: {type: NodePort}", 1)])
def test_the_command_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, code: int
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))

    assert rules.main() == code
    assert capsys.readouterr().out.strip() == ("" if code == 2 else "Service a: is reached past the Gateway")
