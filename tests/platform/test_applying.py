"""How parts are applied: in order, once and again, with words for what is waited for and what does not come."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from manifests.installer import __main__ as installer
from manifests.installer import applying, rendering, sources, tools
from manifests.installer.applying import Cluster
from manifests.installer.errors import PlatformError
from pipelines.platform_parts import Chart, Part, Shows, Thing
from tests.platform.conftest import Object

CONTEXT = "gke_my-project_us-central1_slipway-dev"

_FAKE = """\
#!{python}
import json, pathlib, sys, time
folder = pathlib.Path({folder!r})
given = sys.stdin.read() if "--filename=-" in sys.argv else ""
with (folder / "calls.jsonl").open("a") as log:
    log.write(json.dumps({{"arguments": sys.argv[1:], "given": given}}) + "\\n")
words = " ".join(sys.argv[1:])
answers = json.loads((folder / "answers.json").read_text())
for number, answer in enumerate(answers):
    if answer["when"] in words and answer["times"]:
        answer["times"] -= 1
        (folder / "answers.json").write_text(json.dumps(answers))
        sys.stderr.write(answer["says"])
        sys.exit(answer["code"])
if "get-contexts" in words:
    print({context!r})
"""


class Kubectl:
    """A program that notes how it was called, and answers as it is told."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "kubectl"
        self.path.write_text(_FAKE.format(python=sys.executable, folder=str(folder), context=CONTEXT))
        self.path.chmod(0o755)
        (folder / "answers.json").write_text("[]")

    def fail(self, when: str, says: str, times: int = 1, code: int = 1) -> None:
        answers = json.loads((self.folder / "answers.json").read_text())
        answers.append({"when": when, "says": says, "times": times, "code": code})
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def calls(self) -> list[dict]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def words(self) -> list[str]:
        return [" ".join(call["arguments"]) for call in self.calls()]

    def applied(self) -> list[list[str]]:
        """Kinds of each `apply`, in order."""
        return [
            [one["kind"] for one in yaml.safe_load_all(call["given"])]
            for call in self.calls()
            if "apply" in call["arguments"]
        ]


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubectl:
    made = Kubectl(tmp_path)
    monkeypatch.setattr(tools, "kubectl", lambda: str(made.path))
    monkeypatch.setattr(applying, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(applying, "WEBHOOK_SECONDS", 0.01)
    return made


def part(**changes: object) -> Part:
    shows = Shows(
        crds=("queues.example.org/v1",),
        deployments=("controller",),
        webhooks=("checks",),
        api_services=("v1.example.org",),
        objects=(Thing(version="example.org/v1", plural="queues", name="one", condition="Active", why="a queue"),),
    )
    said = {
        "name": "queue",
        "why": "for a test",
        "version": "v1",
        "namespace": "queue-system",
        "chart": Chart(source="queue", path="chart"),
        "shows": shows,
        "wait_seconds": 30,
    }
    return Part.model_validate(said | changes)


def objects() -> list[Object]:
    kinds = ["Deployment", "CustomResourceDefinition", "Namespace", "Job", "PriorityClass"]
    spec = {"template": {"spec": {"containers": []}}}
    return [{"apiVersion": "v1", "kind": kind, "metadata": {"name": kind.lower()}, "spec": spec} for kind in kinds]


def test_what_others_need_goes_first_and_is_known_before_they_come(kubectl: Kubectl) -> None:
    applying.apply(part(), objects(), Cluster(CONTEXT), lambda line: None)

    assert kubectl.applied() == [["CustomResourceDefinition", "Namespace", "PriorityClass"], ["Deployment", "Job"]]
    assert "wait --for=condition=Established crd/customresourcedefinition" in kubectl.words()[1]


def test_each_part_owns_its_fields_and_names_the_cluster(kubectl: Kubectl) -> None:
    applying.apply(part(), objects(), Cluster(CONTEXT), lambda line: None)

    for words in kubectl.words():
        assert words.startswith(f"--context={CONTEXT} ")
    (first, _) = [words for words in kubectl.words() if " apply " in words]
    assert "--server-side --force-conflicts --field-manager=slipway-queue" in first


def test_all_that_shows_is_waited_for_in_words(kubectl: Kubectl) -> None:
    said: list[str] = []
    applying.apply(part(), objects(), Cluster(), said.append)

    assert [line.partition(" (")[0].strip() for line in said] == [
        "waiting for the kind queues.example.org",
        "waiting for Deployment controller",
        "waiting for the certificate of the webhook checks",
        "waiting for the API v1.example.org",
        "waiting for one, a queue",
    ]
    waits = [words.rpartition(" --timeout")[0] for words in kubectl.words()[-5:]]
    assert waits == [
        "wait --for=condition=Established crd/queues.example.org",
        "rollout status deployment/controller --namespace=queue-system",
        "wait --for=jsonpath={.webhooks[0].clientConfig.caBundle} validatingwebhookconfiguration/checks",
        "wait --for=condition=Available apiservice/v1.example.org",
        "wait --for=condition=Active queues.example.org/one",
    ]


def test_every_wait_has_a_deadline(kubectl: Kubectl) -> None:
    applying.apply(part(), objects(), Cluster(), lambda line: None)

    waits = [words for words in kubectl.words() if words.startswith(("wait", "rollout"))]
    assert waits
    for words in waits:
        assert 1 <= int(words.rpartition("--timeout=")[2].removesuffix("s")) <= 30


def test_what_is_not_there_yet_is_waited_for_again(kubectl: Kubectl) -> None:
    """kubectl gives up at once on an object that does not exist, or that has no conditions."""
    kubectl.fail("deployment/controller", 'Error from server (NotFound): deployments.apps "controller" not found', 2)
    kubectl.fail("Established crd/queues", ".status.conditions accessor error: <nil> is of the type <nil>", 1)

    applying.apply(part(), objects(), Cluster(), lambda line: None)

    assert sum("deployment/controller" in words for words in kubectl.words()) == 3


def test_what_never_comes_is_said(kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl.fail("deployment/controller", "error: timed out waiting for the condition", 99)
    monkeypatch.setattr(applying, "PAUSE_SECONDS", 31.0)

    with pytest.raises(PlatformError) as caught:
        applying.apply(part(), objects(), Cluster(), lambda line: None)

    words = str(caught.value)
    assert "queue: Deployment controller did not come within 30 s" in words
    assert "kubectl get events,pods --namespace=queue-system" in words and "timed out waiting" in words


def test_a_webhook_that_does_not_answer_yet_is_asked_again(kubectl: Kubectl) -> None:
    kubectl.fail("apply", 'Internal error occurred: failed calling webhook "checks": connection refused', 2)
    said: list[str] = []

    applying.apply(part(), objects(), Cluster(), said.append)

    assert said[:2] == ["  queue: a webhook does not answer yet"] * 2


def test_what_the_server_refuses_is_not_asked_again(kubectl: Kubectl) -> None:
    kubectl.fail("apply", 'Error from server (Forbidden): deployments.apps is forbidden: User "x" cannot patch', 99)

    with pytest.raises(PlatformError, match="cannot patch"):
        applying.apply(part(), objects(), Cluster(), lambda line: None)
    assert len(kubectl.applied()) == 1


def test_a_job_that_has_changed_gives_way(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl.path.write_text(kubectl.path.read_text() + 'if "delete" in words: print("job.batch/job deleted")\n')
    first = [one for one in objects() if one["kind"] not in applying.FIRST]
    kubectl.fail("apply", 'The Job "job" is invalid: spec.template: Invalid value: field is immutable', 1)

    applying.apply(part(), first, Cluster(), lambda line: None)

    (deleted,) = [call for call in kubectl.calls() if "delete" in call["arguments"]]
    assert [one["kind"] for one in yaml.safe_load_all(deleted["given"])] == ["Job"]
    assert kubectl.applied() == [["Deployment", "Job"]] * 2


def test_anything_else_that_cannot_change_is_not_deleted(kubectl: Kubectl) -> None:
    kubectl.fail("apply", 'The Deployment "x" is invalid: spec.selector: field is immutable', 99)
    deployments = [one for one in objects() if one["kind"] == "Deployment"]

    with pytest.raises(PlatformError, match="field is immutable"):
        applying.apply(part(), deployments, Cluster(), lambda line: None)
    assert not any("delete" in words for words in kubectl.words())


def test_what_an_earlier_version_has_left(kubectl: Kubectl) -> None:
    rows = ["Deployment <none> deployment", "Deployment queue-system old", "Job queue-system older"]
    lines = "".join(f"print({row!r})\n" for row in rows)
    kubectl.path.write_text(kubectl.path.read_text() + f'if "get" in sys.argv:\n    {lines.replace(chr(10), "; ")}\n')

    found = applying.left_over(part(), objects(), Cluster())

    assert found == ["Deployment old in queue-system", "Job older in queue-system"]
    (asked,) = kubectl.words()
    assert "CustomResourceDefinition.v1.,Deployment.v1.,Job.v1.,PriorityClass.v1." in asked
    assert "--selector=slipway.dev/part=queue" in asked


# ------------------------------------------------------------------------------------------- the commands


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    said = (rendering.MANIFESTS / "platform.env.example").read_text() + "PLATFORM_ACCOUNT_DASHBOARD=d@p.example\n"
    (tmp_path / "platform.env").write_text(said)
    images = (rendering.MANIFESTS / "images.env.example").read_text().replace("DIGEST", "a" * 64)
    (tmp_path / "images.env").write_text(images)
    return ["--platform-file", str(tmp_path / "platform.env"), "--images-file", str(tmp_path / "images.env")]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Object]], None]:
    """Nothing is fetched, and each part renders as told."""
    monkeypatch.setattr(sources, "fetch", lambda name, source: Path())

    def renders(objects: list[Object]) -> None:
        monkeypatch.setattr(rendering, "render", lambda platform, part, given: [] if part.by else objects)

    renders([])
    return renders


def test_a_plan_changes_nothing(
    kubectl: Kubectl, files: list[str], offline: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    offline(objects())

    assert installer.main(["plan", "--environment", "dev", *files, "--part", "kserve"]) == 0

    assert {words.split()[1] for words in kubectl.words()} == {"diff", "get"}
    said = capsys.readouterr().out
    assert "1. kserve v0.20.0" in said and "1fb781055dd1567164358233e1125142ca6ef1fe" in said
    assert "apply --server-side" in said and "changes nothing" in said


def test_a_plan_without_a_cluster_is_a_plan(
    kubectl: Kubectl, files: list[str], offline: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    offline(objects())
    kubectl.fail("diff", f'error: context "{CONTEXT}" does not exist', code=2)

    assert installer.main(["plan", "--environment", "dev", *files, "--part", "keda"]) == 0
    assert "what would change cannot be said: error: context" in capsys.readouterr().out


def test_differences_are_no_failure(kubectl: Kubectl) -> None:
    kubectl.fail("diff", "", 1, code=1)
    assert applying.differences(part(), objects(), Cluster()) == ""

    kubectl.fail("diff", "error: no matches for kind", 1, code=2)
    with pytest.raises(PlatformError, match="no matches for kind"):
        applying.differences(part(), objects(), Cluster())


def test_no_other_cluster_is_met(
    kubectl: Kubectl, files: list[str], offline: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kubeconfig may be pointed elsewhere; what Terraform made is what is meant."""
    kubectl.path.write_text(kubectl.path.read_text().replace(CONTEXT, "kind-mine"))

    assert installer.main(["apply", "--environment", "dev", *files]) == 1

    assert kubectl.applied() == []
    said = capsys.readouterr().err
    assert f"no context {CONTEXT}" in said and "gcloud container clusters get-credentials slipway-dev" in said


def test_another_environments_file_is_refused(
    kubectl: Kubectl, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert installer.main(["apply", "--environment", "prod", *files]) == 1

    assert "is of the environment dev, not prod" in capsys.readouterr().err
    assert kubectl.calls() == []


def test_nothing_is_applied_when_one_part_cannot_be_rendered(
    kubectl: Kubectl, files: list[str], offline: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(platform: object, part: Part, given: object) -> list[Object]:
        if part.name == "slipway":
            raise PlatformError("no digest")
        return objects()

    monkeypatch.setattr(rendering, "render", render)

    assert installer.main(["apply", "--environment", "dev", *files]) == 1
    assert kubectl.applied() == []


def test_what_fails_ends_it_and_the_rest_waits(kubectl: Kubectl, files: list[str], offline: Callable) -> None:
    offline(objects())
    kubectl.fail("slipway-kueue", "Error from server (Forbidden): no", 99)

    assert installer.main(["apply", "--environment", "dev", *files]) == 1

    managers = {word for words in kubectl.words() for word in words.split() if word.startswith("--field-manager")}
    assert managers == {f"--field-manager=slipway-{name}" for name in ("namespaces", "cert-manager", "kueue")}


def test_prod_runs_nothing_by_its_tag(
    kubectl: Kubectl, files: list[str], offline: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pod = {"spec": {"containers": [{"name": "x", "image": "ghcr.io/kedacore/keda:2.19.0"}]}}
    offline([{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": pod}}])
    said = (tmp_path / "platform.env").read_text().replace("ENVIRONMENT=dev", "ENVIRONMENT=prod")
    (tmp_path / "platform.env").write_text(said)

    assert installer.main(["apply", "--environment", "prod", *files]) == 1

    assert "no digest is known of ghcr.io/kedacore/keda:2.19.0; `make pin`" in capsys.readouterr().err
    assert kubectl.applied() == []


def test_a_part_that_there_is_not(kubectl: Kubectl, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert installer.main(["plan", "--environment", "dev", *files, "--part", "istio"]) == 1
    assert "no part istio; there are namespaces, gateway-api" in capsys.readouterr().err


def test_a_program_that_is_not_there_says_how_it_comes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(PlatformError, match=r"manifests\.installer helm"):
        tools.helm()
    with pytest.raises(PlatformError, match=r"install version 1\.33"):
        tools.kubectl()
    with pytest.raises(PlatformError, match="needs Go"):
        tools.build_helm()
