"""What each account can and cannot do, on a real API server: docs/rights.md holds, and nothing beyond it."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import pytest

from manifests.rights import Grant, accounts, grants, read_base
from tests.cluster import manifests
from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster

Object = dict[str, Any]
Caller = Callable[[str], httpx.Client]

OBJECTS = read_base()
GRANTS = grants(OBJECTS)
ACCOUNTS = accounts(OBJECTS)
POWERLESS = sorted(set(ACCOUNTS) - {one.account for one in GRANTS})
READER = "slipway-pipelines/reader"
ROLLOUT, JANITOR, STEP = (
    "slipway-pipelines/rollout",
    "slipway-pipelines/rollout-janitor",
    "slipway-pipelines/pipeline-step",
)
NAMESPACES = ("slipway-serving", "slipway-system", "slipway-pipelines", "default", "kube-system")

# Every authenticated user may ask about himself; these are the API server's own.
ABOUT_ONESELF = {"authorization.k8s.io", "authentication.k8s.io"}

SERVING = "/api/v1/namespaces/slipway-serving"
ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/slipway-serving/httproutes"
RELEASES = "/apis/serving.kserve.io/v1beta1/namespaces/slipway-serving/inferenceservices"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/slipway-serving/leases"
PROBE = "rights-probe"

# What would undo the separation, and is refused to everybody here: verb, resource, namespace ("" is the whole cluster).
DENIED = [
    ("get", "secrets", "slipway-pipelines"),
    ("list", "secrets", "slipway-serving"),
    ("get", "configmaps", "slipway-serving"),
    ("create", "pods", "slipway-serving"),
    ("create", "pods", "slipway-pipelines"),
    ("delete", "pods", "slipway-serving"),
    ("create", "pods/exec", "slipway-serving"),
    ("create", "pods/portforward", "slipway-serving"),
    ("patch", "deployments.apps", "slipway-serving"),
    ("create", "jobs.batch", "slipway-pipelines"),
    ("create", "serviceaccounts/token", "slipway-pipelines"),
    ("impersonate", "serviceaccounts", "slipway-pipelines"),
    ("patch", "roles.rbac.authorization.k8s.io", "slipway-serving"),
    ("create", "rolebindings.rbac.authorization.k8s.io", "slipway-serving"),
    ("patch", "servingruntimes.serving.kserve.io", "slipway-serving"),
    ("patch", "clusterstoragecontainers.serving.kserve.io", ""),
    ("patch", "gateways.gateway.networking.k8s.io", "slipway-system"),
    ("delete", "httproutes.gateway.networking.k8s.io", "slipway-serving"),
    ("patch", "httproutes.gateway.networking.k8s.io", "slipway-system"),
    ("create", "inferenceservices.serving.kserve.io", "slipway-pipelines"),
    ("delete", "namespaces", ""),
    ("list", "nodes", ""),
    ("get", "pods", "kube-system"),
]


@pytest.fixture(scope="module")
def kubeconfig(cluster: Cluster) -> Path:
    return cluster.place.kubeconfig


@pytest.fixture(scope="module")
def admin(kubeconfig: Path) -> Iterator[kubernetes.client.ApiClient]:
    client = kubernetes.config.new_client_from_config(str(kubeconfig))
    yield client
    client.close()


@pytest.fixture(scope="module")
def as_account(admin: kubernetes.client.ApiClient) -> Iterator[Caller]:
    """namespace/name -> a client with that account's own token, of ten minutes."""
    opened: dict[str, httpx.Client] = {}

    def client(account: str) -> httpx.Client:
        if account not in opened:
            namespace, name = account.split("/")
            request = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 600},
            }
            core = kubernetes.client.CoreV1Api(admin)
            token = core.create_namespaced_service_account_token(name, namespace, request).status.token
            opened[account] = client_with(admin, token)
        return opened[account]

    yield client
    for one in opened.values():
        one.close()


def client_with(admin: kubernetes.client.ApiClient, token: str) -> httpx.Client:
    """The same API server, with this token and none of the administrator's credentials."""
    settings = admin.configuration
    context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if not settings.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=settings.host, verify=context, headers=headers, trust_env=False, timeout=30)


def can_i(
    admin: kubernetes.client.ApiClient, account: str, verb: str, resource: str, namespace: str, name: str = ""
) -> bool:
    """What the API server's authorizer says of this account; it needs no such kind to exist, as GKE's do not here."""
    resource, _, subresource = resource.partition("/")
    plural, _, group = resource.partition(".")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, "name": name}
    user = f"system:serviceaccount:{account.replace('/', ':')}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{account.partition('/')[0]}", "system:authenticated"]
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "groups": groups,
            "resourceAttributes": {**attributes, "namespace": namespace, "version": "*"},
        },
    }
    return kubernetes.client.AuthorizationV1Api(admin).create_subject_access_review(review).status.allowed


def full_name(grant: Grant) -> str:
    """As kubectl takes it: "deployments.apps", "services/proxy"."""
    resource, _, subresource = grant.resource.partition("/")
    named = f"{resource}.{grant.group}" if grant.group else resource
    return f"{named}/{subresource}" if subresource else named


# ------------------------------------------------------------------------------------------- what is allowed


@pytest.mark.parametrize("account", [ROLLOUT, JANITOR, READER])
def test_what_the_page_allows_is_allowed(admin: kubernetes.client.ApiClient, account: str) -> None:
    asked = [(verb, one) for one in GRANTS if one.account == account for verb in one.verbs]

    refused = [
        f"{verb} {full_name(one)}"
        for verb, one in asked
        if not can_i(admin, account, verb, full_name(one), one.namespace, next(iter(one.names), ""))
    ]

    assert refused == []


@pytest.mark.parametrize("account", ACCOUNTS)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_the_api_server_knows_of_no_other_right(as_account: Caller, account: str, namespace: str) -> None:
    """Everything that the account may do in the namespace, as the API server itself lists it."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    reply = as_account(account).post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", json=review)
    status = reply.json()["status"]

    told = {
        (group, resource, verb, name)
        for rule in status["resourceRules"]
        for group in rule["apiGroups"]
        if group not in ABOUT_ONESELF
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or [""]
    }

    assert status["incomplete"] is False
    assert told == {
        (one.group, one.resource, verb, name)
        for one in GRANTS
        if (one.account, one.namespace) == (account, namespace)
        for verb in one.verbs
        for name in one.names or [""]
    }


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("account", [ROLLOUT, READER, STEP])
def test_what_would_undo_the_separation_is_refused(admin: kubernetes.client.ApiClient, account: str) -> None:
    allowed = [what for what in DENIED if can_i(admin, account, *what)]

    assert allowed == []


def test_the_administrator_may_all_that(kubeconfig: Path) -> None:
    """The questions above are about things that exist: a misspelt resource would be refused to everybody."""
    for verb, resource, namespace in DENIED:
        what, _, subresource = resource.partition("/")
        command = [manifests.kubectl(), "--kubeconfig", str(kubeconfig), "auth", "can-i", verb, what]
        command += ["--namespace", namespace] if namespace else ["--all-namespaces"]
        command += ["--subresource", subresource] if subresource else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == "yes" and "doesn't have a resource type" not in done.stderr, f"{verb} {resource}"


@pytest.mark.parametrize("account", POWERLESS)
def test_no_other_account_reads_or_changes_what_is_live(as_account: Caller, account: str) -> None:
    client = as_account(account)
    calls = [
        ("GET", RELEASES),
        ("GET", ROUTES),
        ("GET", f"{ROUTES}/energy-chat"),
        ("GET", f"{LEASES}/slipway-energy-chat"),
        ("GET", f"{SERVING}/pods"),
        ("GET", f"{SERVING}/services/energy-chat:80/proxy/metrics"),
        ("GET", "/api/v1/namespaces/slipway-pipelines/secrets/rollout-token"),
        ("GET", "/api/v1/namespaces/slipway-pipelines/pods"),
        ("DELETE", f"{RELEASES}/energy-chat-0123456789"),
        ("DELETE", f"{ROUTES}/energy-chat"),
        ("POST", "/api/v1/namespaces/slipway-pipelines/serviceaccounts/rollout/token"),
    ]

    assert {(method, path): client.request(method, path).status_code for method, path in calls} == {
        call: 403 for call in calls
    }
    for path, wanted in ((ROUTES, route()), (RELEASES, release())):
        assert apply(client, path, wanted).status_code == 403
        assert client.post(path, json=wanted).status_code == 403


def test_the_rollout_moves_traffic_for_real_and_cannot_delete_the_route(
    admin: kubernetes.client.ApiClient, as_account: Caller
) -> None:
    client = as_account(ROLLOUT)
    custom = kubernetes.client.CustomObjectsApi(admin)
    place = ("gateway.networking.k8s.io", "v1", "slipway-serving", "httproutes")
    try:
        made = apply(client, ROUTES, route("one"))
        changed = apply(client, ROUTES, route("two"))
        removed = client.delete(f"{ROUTES}/{PROBE}")
        standing = custom.get_namespaced_custom_object(*place, PROBE)
    finally:
        custom.delete_namespaced_custom_object(*place, PROBE)

    assert (made.status_code, changed.status_code, removed.status_code) == (201, 200, 403)
    assert standing["metadata"]["annotations"]["slipway.dev/state"] == "two"


def test_the_rollout_makes_what_it_needs_and_no_pod(as_account: Caller) -> None:
    """Dry runs: they are authorized, admitted and checked like any other, and leave nothing behind."""
    client = as_account(ROLLOUT)
    dry = {"dryRun": "All"}

    def post(path: str, wanted: Object) -> int:
        return client.post(path, json=wanted, params=dry).status_code

    assert apply(client, RELEASES, release(), **dry).status_code == 201
    assert post(LEASES, {"metadata": {"name": PROBE}, "spec": {"holderIdentity": "someone"}}) == 201
    assert post(f"{SERVING}/events", event()) == 201
    assert client.get(f"{SERVING}/services/{PROBE}:80/proxy/health").status_code in (404, 503), "asked, and not there"
    assert (
        client.get("/apis/gateway.networking.k8s.io/v1/namespaces/slipway-system/gateways/slipway").status_code == 200
    )

    assert post(f"{SERVING}/pods", pod()) == 403
    assert post("/api/v1/namespaces/slipway-pipelines/pods", pod()) == 403
    assert client.get("/api/v1/namespaces/slipway-pipelines/secrets/rollout-token").status_code == 403
    assert client.get(f"{SERVING}/secrets").status_code == 403
    assert client.delete("/api/v1/namespaces/slipway-serving", params=dry).status_code == 403
    assert apply(client, RELEASES.replace("slipway-serving", "slipway-pipelines"), release()).status_code == 403


def test_the_reader_sees_the_route_and_changes_nothing(as_account: Caller) -> None:
    client = as_account(READER)

    assert client.get(f"{ROUTES}/{PROBE}").status_code == 404, "allowed, and there is none"
    assert apply(client, ROUTES, route()).status_code == 403
    assert client.delete(f"{ROUTES}/{PROBE}").status_code == 403
    assert client.get(RELEASES).status_code == 403


@pytest.mark.parametrize(("name", "account"), [("rollout-token", ROLLOUT), ("reader-token", READER)])
def test_the_secret_that_a_task_mounts_is_that_accounts_token(
    admin: kubernetes.client.ApiClient, name: str, account: str
) -> None:
    secret = kubernetes.client.CoreV1Api(admin).read_namespaced_secret(name, "slipway-pipelines")
    data = {key: base64.b64decode(value).decode() for key, value in (secret.data or {}).items()}

    assert set(data) == {"token", "ca.crt", "namespace", "kubeconfig"}
    with client_with(admin, data["token"]) as client:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        told = client.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", json=review).json()
    assert told["status"]["userInfo"]["username"] == f"system:serviceaccount:{account.replace('/', ':')}"


# ------------------------------------------------------------------------------------------- pods


@pytest.mark.parametrize("namespace", NAMESPACES[:3])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"privileged": True, "allowPrivilegeEscalation": True}, "privileged"),
        ({"runAsNonRoot": False}, "runAsNonRoot"),
        ({"runAsUser": 0}, "runAsUser"),
        ({"allowPrivilegeEscalation": True}, "allowPrivilegeEscalation"),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "unrestricted capabilities"),
        ({"seccompProfile": {"type": "Unconfined"}}, "seccompProfile"),
    ],
    ids=["privileged", "root-allowed", "root", "escalation", "capabilities", "seccomp"],
)
def test_a_pod_that_is_not_restricted_is_refused_even_to_the_administrator(
    admin: kubernetes.client.ApiClient, namespace: str, changed: Object, words: str
) -> None:
    wanted = pod(**changed)

    with pytest.raises(kubernetes.client.ApiException) as refusal:
        kubernetes.client.CoreV1Api(admin).create_namespaced_pod(namespace, wanted)

    assert refusal.value.status == 403
    said = json.loads(refusal.value.body)["message"]
    assert 'violates PodSecurity "restricted:v1.34"' in said and words in said


@pytest.mark.parametrize(
    "field", [{"hostNetwork": True}, {"hostPID": True}, {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}]
)
def test_the_machine_is_out_of_reach(admin: kubernetes.client.ApiClient, field: Object) -> None:
    wanted = pod()
    wanted["spec"] |= field

    with pytest.raises(kubernetes.client.ApiException) as refusal:
        kubernetes.client.CoreV1Api(admin).create_namespaced_pod("slipway-serving", wanted, dry_run="All")

    assert "violates PodSecurity" in json.loads(refusal.value.body)["message"]


def test_the_pod_that_kserve_makes_of_the_runtime_is_admitted(admin: kubernetes.client.ApiClient) -> None:
    """The runtime's container and volumes with the storage container before it, and nothing else that would help."""
    runtime = next(one for one in OBJECTS if one["kind"] == "ServingRuntime")["spec"]
    fetch = next(one for one in OBJECTS if one["kind"] == "ClusterStorageContainer")["spec"]["container"]
    wanted = pod() | {
        "spec": {"containers": runtime["containers"], "initContainers": [fetch], "volumes": runtime["volumes"]}
    }

    made = kubernetes.client.CoreV1Api(admin).create_namespaced_pod("slipway-serving", wanted, dry_run="All")

    assert [container.name for container in made.spec.containers] == ["kserve-container"]


@pytest.mark.parametrize(
    ("namespace", "account"),
    [("slipway-pipelines", "pipeline-step"), ("slipway-pipelines", "rollout"), ("slipway-serving", "predictor")],
)
def test_no_pod_finds_a_token_by_itself(admin: kubernetes.client.ApiClient, namespace: str, account: str) -> None:
    wanted = pod()
    wanted["spec"]["serviceAccountName"] = account

    made = kubernetes.client.CoreV1Api(admin).create_namespaced_pod(namespace, wanted, dry_run="All")

    assert made.spec.volumes in (None, [])
    assert made.spec.containers[0].volume_mounts in (None, [])


# ------------------------------------------------------------------------------------------- objects


def apply(client: httpx.Client, path: str, wanted: Object, **query: str) -> httpx.Response:
    """Server-side apply, as the rollout does it."""
    return client.patch(
        f"{path}/{wanted['metadata']['name']}",
        content=json.dumps(wanted),
        headers={"Content-Type": "application/apply-patch+yaml"},
        params={"fieldManager": "slipway", "force": "true", **query},
    )


def route(state: str = "") -> Object:
    """An HTTPRoute that no gateway takes up."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": PROBE, "annotations": {"slipway.dev/state": state}},
        "spec": {"rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]},
    }


def release() -> Object:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": PROBE, "labels": {"networking.kserve.io/visibility": "cluster-local"}},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "slipway"},
                    "runtime": "slipway-cpu",
                    "storageUri": f"gs://slipway/releases/{'0' * 64}",
                }
            }
        },
    }


def event() -> Object:
    about = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "name": PROBE,
        "namespace": "slipway-serving",
    }
    return {
        "metadata": {"name": f"{PROBE}.1", "namespace": "slipway-serving"},
        "involvedObject": about,
        "reason": "Probed",
        "message": "a test asks whether this may be written",
        "type": "Normal",
    }


def pod(**context: Any) -> Object:
    """A pod that `restricted` admits, except for what is changed in its container's security context."""
    restricted = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "probe", "image": "slipway-serving", "securityContext": restricted | context}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": PROBE},
        "spec": {"containers": [container], "restartPolicy": "Never"},
    }
