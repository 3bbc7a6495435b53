"""What the doctor says of a cluster: nothing when all is there, and each thing that is not, with what mends it."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.rollout.target import TargetError
from components.step_config import InputError
from pipelines import cli, cluster_doctor, platform_parts
from pipelines.cluster_doctor import Finding, Reader, examine
from pipelines.platform_parts import ENVIRONMENTS, Environment, Part, Platform

Object = dict[str, Any]
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"
_HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/"


class Api:
    """An API server that has exactly these objects, by their path; `statuses` are refusals."""

    def __init__(self, objects: dict[str, Object]):
        self.objects, self.statuses, self.accepted = objects, dict[str, int](), dict[str, str]()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.accepted[self.path] = self.headers.get("Accept", "")
                status = api.statuses.get(self.path, 200 if self.path in api.objects else 404)
                refusal = {"kind": "Status", "message": f"{self.path} is forbidden: User cannot get"}
                content = json.dumps(api.objects[self.path] if status == 200 else refusal).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def conditions(**states: str) -> Object:
    return {"conditions": [{"type": kind, "status": state, "message": f"{kind}?"} for kind, state in states.items()]}


def whole_cluster(environment: Environment) -> dict[str, Object]:
    """Everything that upstream.yaml names, in order."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "slipway.dev/environment": environment}
    found: dict[str, Object] = {"/version": {"gitVersion": "v1.34.4"}}
    for name in ("slipway-system", "slipway-serving", "slipway-pipelines"):
        found[f"/api/v1/namespaces/{name}"] = {"metadata": {"labels": labels}}
    for part in platform_parts.read().of(environment):
        found |= _shown(part)
    return copy.deepcopy(found)


def _shown(part: Part) -> dict[str, Object]:
    found: dict[str, Object] = {}
    for one in part.shows.crds:
        name, _, version = one.partition("/")
        spec = {"versions": [{"name": version, "served": True}]}
        found[_CRDS + name] = {"metadata": {}, "spec": spec, "status": conditions(Established="True")}
    for name in part.shows.deployments:
        containers = [{"image": f"quay.io/x/proxy:v9@sha256:{'1' * 64}"}, {"image": f"ghcr.io/x/{name}:{part.version}"}]
        found[f"/apis/apps/v1/namespaces/{part.namespace}/deployments/{name}"] = {
            "metadata": {"generation": 3},
            "spec": {"replicas": 2, "template": {"spec": {"containers": containers}}},
            "status": {"observedGeneration": 3, "availableReplicas": 2},
        }
    for name in part.shows.webhooks:
        found[_HOOKS + name] = {"webhooks": [{"name": "first", "clientConfig": {"caBundle": "LS0t", "service": {}}}]}
    for name in part.shows.api_services:
        found[f"/apis/apiregistration.k8s.io/v1/apiservices/{name}"] = {"status": conditions(Available="True")}
    for setting in part.shows.settings:
        path = f"/api/v1/namespaces/{part.namespace}/configmaps/{setting.config_map}"
        value = True if setting.value == "true" else setting.value
        found.setdefault(path, {"data": {}})["data"][setting.key] = json.dumps({setting.field: value})
    for thing in part.shows.objects:
        annotations = {"iam.gke.io/gcp-service-account": "x@y.iam.gserviceaccount.com"} if thing.google else {}
        status = conditions(**{thing.condition: "True"}) if thing.condition else {}
        found[cluster_doctor._path(thing)] = {"metadata": {"annotations": annotations}, "spec": {}, "status": status}
    return found


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api(whole_cluster("dev"))
    yield made
    made.close()


@pytest.fixture
def reader(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    write_kubeconfig(tmp_path / "kubeconfig", api.url)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return Reader.connect()


def write_kubeconfig(file: Path, url: str) -> None:
    config = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": url}}],
        "users": [{"name": "x", "user": {"token": "x"}}],
    }
    file.write_text(yaml.safe_dump(config))


def ill(platform: Platform, reader: Reader, environment: Environment | None = None) -> list[Finding]:
    return [one for one in examine(platform, reader, environment) if not one.ok]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_whole_cluster_lacks_nothing(platform: Platform, api: Api, reader: Reader, environment: Environment) -> None:
    api.objects = whole_cluster(environment)

    assert ill(platform, reader) == []


def test_every_part_is_looked_for_and_its_version_said(platform: Platform, reader: Reader) -> None:
    found = {one.part: one.found for one in examine(platform, reader)}

    assert list(found) == ["kubernetes", *(part.name for part in platform.of("dev"))]
    assert found["kubernetes"] == "v1.34.4"
    assert found["kserve"] == "v0.20.0" and found["keda"] == "2.19.0", "not the tag of the proxy beside it"


def test_each_thing_that_is_missing_is_said_by_its_part(platform: Platform, api: Api, reader: Reader) -> None:
    """Take away one after the other: a check that looks at nothing would not notice."""
    for part in platform.of("dev"):
        for path in _shown(part):
            kept = api.objects.pop(path)
            found = ill(platform, reader, "dev")
            assert [one.part for one in found] == [part.name], path
            assert "missing" in found[0].problems[0], path
            api.objects[path] = kept


def test_an_empty_cluster_lacks_everything(platform: Platform, api: Api, reader: Reader) -> None:
    api.objects = {"/version": {}}

    assert [one.part for one in ill(platform, reader, "prod")] == [part.name for part in platform.of("prod")]


def test_what_mends_it_is_a_command(platform: Platform, api: Api, reader: Reader) -> None:
    del api.objects["/apis/apps/v1/namespaces/keda/deployments/keda-operator"]
    del api.objects[_CRDS + "httproutes.gateway.networking.k8s.io"]
    gateway, keda = ill(platform, reader)

    assert keda.remedy == "make platform ENV=dev PART=keda"
    assert "GKE" in gateway.remedy
    api.objects = {"/version": {}}
    assert {one.remedy for one in ill(platform, reader, "test-cluster")} == {"make cluster", gateway.remedy} - {
        gateway.remedy
    }


@pytest.mark.parametrize(
    ("path", "change", "part", "words"),
    [
        (
            "/apis/apps/v1/namespaces/kserve/deployments/kserve-controller-manager",
            {"status": {"observedGeneration": 3, "availableReplicas": 1} | conditions(Progressing="False")},
            "kserve",
            "has 1 of 2 replicas: Progressing?",
        ),
        (
            "/apis/apps/v1/namespaces/kserve/deployments/kserve-controller-manager",
            {"status": {"observedGeneration": 2, "availableReplicas": 2}},
            "kserve",
            "has not been looked at since it was changed",
        ),
        (
            "/apis/apps/v1/namespaces/kueue-system/deployments/kueue-controller-manager",
            {"spec": {"replicas": 2, "template": {"spec": {"containers": [{"image": "kueue:v0.15.0"}]}}}},
            "kueue",
            "is version v0.15.0, and v0.19.2 is wanted",
        ),
        (
            _CRDS + "localqueues.kueue.x-k8s.io",
            {"spec": {"versions": [{"name": "v1beta1", "served": True}, {"name": "v1beta2", "served": False}]}},
            "kueue",
            "is served as v1beta1, not as v1beta2",
        ),
        (
            _CRDS + "scaledobjects.keda.sh",
            {"status": conditions(Established="False")},
            "keda",
            "is not established: Established?",
        ),
        (
            _HOOKS + "inferenceservice.serving.kserve.io",
            {"webhooks": [{"name": "a", "clientConfig": {"caBundle": "x"}}, {"name": "b", "clientConfig": {}}]},
            "kserve",
            "has no certificate to trust (b)",
        ),
        (
            "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io",
            {"status": conditions(Available="False")},
            "keda",
            "is not available: Available?",
        ),
        (
            "/api/v1/namespaces/kserve/configmaps/inferenceservice-config",
            {"data": {"deploy": '{"defaultDeploymentMode": "Knative"}', "ingress": '{"enableGatewayApi": true}'}},
            "kserve",
            "deploy.defaultDeploymentMode is Knative, and Standard is wanted",
        ),
        (
            "/api/v1/namespaces/kserve/configmaps/inferenceservice-config",
            {"data": {"deploy": "no JSON", "ingress": '{"enableGatewayApi": true}'}},
            "kserve",
            "deploy.defaultDeploymentMode is not there",
        ),
        (
            "/apis/gateway.networking.k8s.io/v1/namespaces/slipway-system/gateways/slipway",
            {"status": conditions(Accepted="True", Programmed="False")},
            "slipway",
            "is not Programmed: Programmed?",
        ),
        (
            "/apis/batch/v1/namespaces/slipway-pipelines/cronjobs/rollout-janitor",
            {"spec": {"suspend": True}},
            "slipway",
            "is suspended",
        ),
        (
            "/api/v1/namespaces/slipway-pipelines/serviceaccounts/pipeline-step",
            {"metadata": {"annotations": {}}},
            "slipway",
            "so that Google knows it as nobody",
        ),
        (
            "/api/v1/namespaces/slipway-serving",
            {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}},
            "namespaces",
            "does not enforce Pod Security restricted",
        ),
    ],
)
def test_what_is_there_and_not_right(
    platform: Platform, api: Api, reader: Reader, path: str, change: Object, part: str, words: str
) -> None:
    api.objects[path] |= change

    (found,) = ill(platform, reader, "dev")

    assert found.part == part
    assert words in found.problems[0] and len(found.problems) == 1


def test_what_may_not_be_seen_is_not_taken_for_there(platform: Platform, api: Api, reader: Reader) -> None:
    path = _CRDS + "trainjobs.trainer.kubeflow.org"
    api.statuses[path] = 403

    (found,) = ill(platform, reader)

    assert found.part == "trainer"
    assert "cannot be seen" in found.problems[0] and "forbidden" in found.problems[0] and "403" in found.problems[0]


def test_a_secrets_content_is_never_asked_for(platform: Platform, api: Api, reader: Reader) -> None:
    examine(platform, reader)

    asked = {path: accept for path, accept in api.accepted.items() if "/secrets/" in path}
    assert len(asked) == 2
    assert all(accept.startswith("application/json;as=PartialObjectMetadata") for accept in asked.values())


def test_a_controller_beside_the_test_cluster(platform: Platform, api: Api, reader: Reader) -> None:
    """There KServe runs as a process, and its webhooks are called by address."""
    api.objects = whole_cluster("test-cluster")
    deployment = "/apis/apps/v1/namespaces/kserve/deployments/kserve-controller-manager"
    del api.objects[deployment]
    hook = api.objects[_HOOKS + "inferenceservice.serving.kserve.io"]["webhooks"][0]
    hook["clientConfig"] = {"url": "https://127.0.0.1:9443", "caBundle": "x"}

    assert ill(platform, reader, "test-cluster") == []
    found = {one.part: one for one in examine(platform, reader, "dev")}
    assert found["kserve"].problems == ["Deployment kserve/kserve-controller-manager is missing"], (
        "elsewhere it must be"
    )


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ("v1.2.3", "1.2.3", True),
        ("1.2.3", "v1.2.3", True),
        ("v3.17.2-full", "v3.17.2", True),
        ("v1.2.30", "v1.2.3", False),
        ("unknown", "v1.2.3", True),
    ],
)
def test_what_one_version_is(found: str, wanted: str, same: bool) -> None:
    assert cluster_doctor._same(found, wanted) == same


# ------------------------------------------------------------------------------------------- which environment


def test_the_cluster_says_which_environment_it_is(platform: Platform, api: Api, reader: Reader) -> None:
    api.objects = whole_cluster("test-cluster")

    assert [one.part for one in examine(platform, reader)] == [
        "kubernetes",
        "gateway-api",
        "kserve-crds",
        "kserve",
        "slipway",
    ]


def test_a_cluster_that_does_not_say_is_asked_for(platform: Platform, api: Api, reader: Reader) -> None:
    del api.objects["/api/v1/namespaces/slipway-system"]["metadata"]["labels"]["slipway.dev/environment"]

    with pytest.raises(InputError, match="name it with --environment"):
        examine(platform, reader)
    assert ill(platform, reader, "dev") == []


def test_no_answer_is_no_finding(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

    with pytest.raises(TargetError, match="does not answer"):
        examine(platform, Reader.connect(), "dev")


# ------------------------------------------------------------------------------------------- the command


def test_the_command_ends_with_0_when_all_is_there(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--cluster"]) == 0
    assert "✓ kserve v0.20.0: makes servers out of InferenceServices" in capsys.readouterr().out


def test_the_command_ends_with_1_and_says_what_mends_it(
    api: Api, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    del api.objects["/apis/apps/v1/namespaces/slipway-system/deployments/mlflow"]

    assert cli.main(["doctor", "--cluster"]) == 1

    said = capsys.readouterr().out
    assert "✗ mlflow v3.17.2: the record of runs" in said
    assert "Deployment slipway-system/mlflow is missing" in said
    assert "mend it: make platform ENV=dev PART=mlflow" in said


def test_the_command_in_json(api: Api, reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    del api.objects[_CRDS + "jobsets.jobset.x-k8s.io"]

    assert cli.main(["doctor", "--cluster", "--json"]) == 1

    found = {one["part"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["jobset"]["ok"] is False and found["keda"]["ok"] is True
    assert found["jobset"]["problems"] == ["the kind jobsets.jobset.x-k8s.io is missing"]
    assert set(found["jobset"]) == {"part", "why", "wanted", "found", "problems", "remedy", "ok"}


def test_the_environment_may_be_named(api: Api, reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    api.objects = whole_cluster("test-cluster")

    assert cli.main(["doctor", "--cluster", "--environment", "dev"]) == 1
    assert "✗ keda" in capsys.readouterr().out
    assert cli.main(["doctor", "--cluster", "--environment", "test-cluster"]) == 0


def test_without_a_kubeconfig(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")

    assert cli.main(["doctor", "--cluster", "--environment", "dev"]) == 1
    assert "set KUBECONFIG" in capsys.readouterr().err
