"""A release and a retraining reach Kubeflow: `slipway` is real, its API server and the cluster are by hand."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ci import cluster, submit
from ci.commands import CiError
from tests.pipelines.engines import write_run_file
from tests.pipelines.fake_kfp import FakeKubeflow, serve
from tests.workflows import tools
from tests.workflows.workspace import Workspace

GOOGLE = "us-central1-docker.pkg.dev/my-project/slipway-dev"
IMAGES = {
    "SLIPWAY_IMAGE_SERVING": f"{GOOGLE}/slipway-serving@sha256:{'1' * 64}",
    "SLIPWAY_IMAGE_CPU": f"{GOOGLE}/slipway-python@sha256:{'2' * 64}",
    "SLIPWAY_IMAGE_CUDA": f"{GOOGLE}/slipway-python@sha256:{'3' * 64}",
    "SLIPWAY_COMMIT": "a" * 40,
}
RELEASED = "".join(f"{name}={value}\n" for name, value in IMAGES.items())
ENDPOINT = "gke-1.us-central1.gke.goog"


@pytest.fixture
def kubeflow() -> FakeKubeflow:
    return FakeKubeflow()


@pytest.fixture
def cloud(workspace: Workspace, kubeflow: FakeKubeflow, tmp_path: Path) -> Iterator[Workspace]:
    """A cluster whose port-forward leads to Kubeflow's API server by hand; a run file fit for it."""
    for name in ("components", "pipelines", "serving"):
        workspace.copy(name)
    write_run_file(workspace.folder / "pipelines/runs")
    described = {"controlPlaneEndpointsConfig": {"dnsEndpointConfig": {"endpoint": ENDPOINT}}}
    workspace.programs.answer("gcloud", "print-access-token", says="ya29.secret\n")
    workspace.programs.answer("gcloud", "clusters describe", says=json.dumps(described))
    with serve(kubeflow.answer) as url:
        port = url.rpartition(":")[2]
        says = f"Forwarding from 127.0.0.1:{port} -> 8888\n"
        workspace.programs.answer("kubectl", "^port-forward", says=says, stays=60)
        yield workspace


def values(settings: str, cron: str = "") -> dict[str, str]:
    return {
        "vars[format('SLIPWAY_{0}', vars.SLIPWAY_ENVIRONMENT)]": settings,
        "needs.push.outputs.images": RELEASED,
        "vars.SLIPWAY_RELEASE_RUN": "pipelines/runs/nightly.yaml",
        "vars.SLIPWAY_RELEASE_CRON": cron,
    }


def release(cloud: Workspace, settings: str, cron: str = "") -> subprocess.CompletedProcess[str]:
    return cloud.step("release.yml", "pipeline", "make release-submit", values(settings, cron))


def test_a_release_runs_with_its_own_images_and_the_cluster_is_told(
    cloud: Workspace, kubeflow: FakeKubeflow, settings: str
):
    done = release(cloud, settings)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = kubeflow.all_runs.values()
    assert "submitted, http" in cloud.summary and run["run_id"] in cloud.summary
    (version,) = kubeflow.versions.values()
    compiled = yaml.safe_dump(version["pipeline_spec"])
    assert IMAGES["SLIPWAY_IMAGE_CPU"] in compiled and ":0.1.0" not in compiled
    (apply,) = [call for call in cloud.programs.calls("kubectl") if call.words[0] == "apply"]
    told = json.loads(apply.given)
    assert told["data"] == IMAGES and told["metadata"]["namespace"] == "slipway-pipelines"
    assert "--server-side" in apply.words
    # the token stands in a file, which went with the job, and nowhere else
    assert "ya29.secret" not in "".join(cloud.programs.lines()) + done.stdout + done.stderr
    forward = next(call for call in cloud.programs.calls("kubectl") if call.words[0] == "port-forward")
    assert not Path(forward.env["KUBECONFIG"]).exists()
    assert "ya29.secret" not in "".join(forward.env.values())


def test_a_release_sets_a_schedule(cloud: Workspace, kubeflow: FakeKubeflow, settings: str):
    assert release(cloud, settings, "0 3 * * 1").returncode == 0
    (recurring,) = kubeflow.recurring.values()
    assert recurring["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert kubeflow.all_runs == {}


def test_what_slipway_refuses_fails_and_the_cluster_is_told_nothing(cloud: Workspace, settings: str):
    done = release(cloud, settings, "every monday")
    assert done.returncode == 2 and "slipway schedule" in done.stderr
    assert not [call for call in cloud.programs.calls("kubectl") if call.words[0] == "apply"]


def test_a_kubeconfig_for_the_dns_endpoint():
    found = cluster.kubeconfig(ENDPOINT, "token")
    assert found["clusters"][0]["cluster"] == {"server": f"https://{ENDPOINT}"}
    assert found["current-context"] == found["contexts"][0]["name"]


def test_a_cluster_without_a_dns_endpoint(workspace: Workspace, settings: str):
    workspace.programs.answer("gcloud", "print-access-token", says="x")
    workspace.programs.answer("gcloud", "clusters describe", says="{}")
    done = release(workspace, settings)
    assert done.returncode == 2 and "has no DNS endpoint" in done.stderr


def test_a_port_forward_that_ends_is_told_with_its_words(workspace: Workspace, settings: str):
    described = {"controlPlaneEndpointsConfig": {"dnsEndpointConfig": {"endpoint": ENDPOINT}}}
    workspace.programs.answer("gcloud", "print-access-token", says="x")
    workspace.programs.answer("gcloud", "clusters describe", says=json.dumps(described))
    workspace.programs.answer("kubectl", "^port-forward", complains="services ml-pipeline not found", code=1)
    done = release(workspace, settings)
    assert done.returncode == 2 and "ml-pipeline not found" in done.stderr


# --- retraining ------------------------------------------------------------------------------------------------


@pytest.fixture
def released(cloud: Workspace) -> Workspace:
    """A git checkout whose first commit was released, and a wish that was checked; main has gone on since."""

    def git(*words: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        command = [tools.ordinary("git"), *author, *words]
        return subprocess.run(command, cwd=cloud.folder, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (cloud.folder / "marker").write_text("released")
    git("add", "--all")
    git("commit", "--quiet", "--message", "released")
    commit = git("rev-parse", "HEAD")
    (cloud.folder / "marker").write_text("main")
    git("commit", "--quiet", "--all", "--message", "since then")
    recorded = {"data": {**IMAGES, "SLIPWAY_COMMIT": commit}}
    cloud.programs.answer("kubectl", f"^get configmap {submit.RECORD}", says=json.dumps(recorded))
    place = cloud.folder / "build/retrain"
    place.mkdir(parents=True)
    write_run_file(place)
    (place / "nightly.yaml").rename(place / "run.yaml")
    (place / "request.json").write_text(json.dumps({"run": "nightly", "again": False, "wait_minutes": 0}))
    return cloud


def retrain(cloud: Workspace, settings: str) -> subprocess.CompletedProcess[str]:
    return cloud.step("retrain.yml", "submit", "make retrain", values(settings))


def test_a_retraining_uses_the_released_images_and_code(released: Workspace, kubeflow: FakeKubeflow, settings: str):
    done = retrain(released, settings)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = kubeflow.all_runs.values()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD~1"], cwd=released.folder, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert run["runtime_config"]["parameters"]["run"]["commit"].startswith(commit)
    (version,) = kubeflow.versions.values()
    assert IMAGES["SLIPWAY_IMAGE_CPU"] in yaml.safe_dump(version["pipeline_spec"])
    assert not (released.folder / "build/released").exists()


def test_the_same_wish_twice_is_one_run(released: Workspace, kubeflow: FakeKubeflow, settings: str):
    assert retrain(released, settings).returncode == 0
    assert retrain(released, settings).returncode == 0
    assert len(kubeflow.all_runs) == 1 and "kept" in released.summary


def test_without_a_release_there_is_nothing_to_retrain(cloud: Workspace, settings: str):
    (cloud.folder / "build/retrain").mkdir(parents=True)
    (cloud.folder / "build/retrain/request.json").write_text('{"again": false, "wait_minutes": 0}')
    cloud.programs.answer("kubectl", "^get configmap", code=1, complains="NotFound")
    done = retrain(cloud, settings)
    assert done.returncode == 2 and "run the workflow `release` first" in done.stderr


def test_a_checkout_without_that_commit_says_so(released: Workspace, settings: str):
    released.programs.folder.joinpath("answers.jsonl").write_text(
        released.programs.folder.joinpath("answers.jsonl")
        .read_text()
        .replace('SLIPWAY_COMMIT\\": \\"', 'SLIPWAY_COMMIT\\": \\"0')
    )
    done = retrain(released, settings)
    assert done.returncode == 2 and "SLIPWAY_COMMIT" in done.stderr


@pytest.mark.parametrize(
    ("told", "code", "says"),
    [
        ({"name": "n", "action": "submitted", "run": {"link": "http://x"}}, 0, "submitted http://x"),
        ({"name": "n", "action": "submitted", "verdict": "fail", "reason": "worse"}, 3, "verdict: **fail**, worse"),
        ({"name": "n", "action": "submitted", "verdict": "", "reason": "logs are gone"}, 3, "verdict: **unknown**"),
    ],
)
def test_what_is_said_of_an_ending(told: dict, code: int, says: str):
    assert says in submit.describe(told, code)


@pytest.mark.parametrize("change", [{"SLIPWAY_IMAGE_CPU": "x:latest"}, {"SLIPWAY_COMMIT": "main"}])
def test_images_that_are_no_addresses_by_digest_are_refused(monkeypatch: pytest.MonkeyPatch, change: dict[str, str]):
    from ci import release as released_images

    monkeypatch.setenv("RELEASED", "".join(f"{name}={value}\n" for name, value in {**IMAGES, **change}.items()))
    with pytest.raises(CiError, match=next(iter(change))):
        released_images.references()
