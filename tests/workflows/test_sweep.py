from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from ci.commands import CiError
from ci.preview import sweep
from ci.preview.sweep import Left
from tests.workflows import rules
from tests.workflows.conftest import SETTINGS
from tests.workflows.test_preview import EMPTY, STATE, Made, Time
from tests.workflows.workspace import Workspace

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DEMO = {"app": "slipway", "environment": "demo"}


def service(name: str, minutes: int, labels: dict[str, str] | None = None) -> dict:
    created = (NOW - timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%S.123456Z")
    return {"metadata": {"name": name, "creationTimestamp": created, "labels": DEMO if labels is None else labels}}


@pytest.mark.parametrize(
    ("found", "left"),
    [
        (service("preview-pr-7", 80), [Left("preview-pr-7", 79)]),
        (service("preview-pr-7", 70), []),
        (service("energy-chat", 5000), []),
        (service("preview-pr-7", 80, {"app": "slipway", "environment": "prod"}), []),
        (service("preview-pr-7", 80, {"app": "another", "environment": "demo"}), []),
        (service("preview-pr-7", 80, {}), []),
    ],
)
def test_what_is_left(found: dict, left: list[Left]):
    assert sweep.left_services([found], NOW) == left


def test_clusters_of_the_ephemeral_environment_alone():
    def cluster(name: str, hours: int, environment: str) -> dict:
        created = (NOW - timedelta(hours=hours)).isoformat()
        return {"name": name, "createTime": created, "resourceLabels": {"app": "slipway", "environment": environment}}

    listed = [
        cluster("slipway-eph", 5, "ephemeral"),
        cluster("new", 3, "ephemeral"),
        cluster("slipway-prod", 5, "prod"),
    ]
    assert [
        one.name for one in sweep.left_clusters([*listed, {"name": "x", "createTime": "2020-01-01T00:00:00Z"}], NOW)
    ] == ["slipway-eph"]


def test_one_that_cannot_be_destroyed_does_not_save_the_next():
    targets = {"preview-a": Made({"destroy"}, up=True), "preview-b": Made(up=True)}
    with pytest.raises(CiError, match="preview-a: 50 minutes old") as error:
        sweep.sweep([Left("preview-a", 50), Left("preview-b", 60)], targets.__getitem__, Time().clock)
    assert not targets["preview-b"].up and "preview-b: 60 minutes old, destroyed" in str(error.value)


def test_the_sweeper_as_the_workflow_calls_it(workspace: Workspace, settings: str):
    old = (datetime.now(UTC) - timedelta(minutes=80)).isoformat()
    left = {"metadata": {"name": "preview-pr-9", "creationTimestamp": old, "labels": DEMO}}
    workspace.programs.answer("gcloud", "run services list", says=json.dumps([left]), times=2)
    workspace.programs.answer("gcloud", "run services list", says="[]")
    workspace.programs.answer("terraform", "state pull", says=EMPTY)
    values = {"vars[format('SLIPWAY_{0}', vars.SLIPWAY_ENVIRONMENT)]": settings}
    done = workspace.step("sweep.yml", "cloudrun", "make preview-sweep", values)
    assert done.returncode == 0, done.stderr
    assert "preview-pr-9: 80 minutes old, destroyed" in workspace.summary
    deleted = [line for line in workspace.programs.lines("gcloud") if "delete" in line]
    assert deleted == ["gcloud run services delete preview-pr-9 --project=my-project --region=us-central1 --quiet"]


def test_nothing_left(workspace: Workspace, settings: str):
    workspace.programs.answer("gcloud", "container clusters list", says="[]")
    values = {"vars.SLIPWAY_EPHEMERAL": settings, "vars.SLIPWAY_TFVARS_EPHEMERAL": ""}
    done = workspace.step("sweep.yml", "gke", "make preview-sweep", values)
    assert done.returncode == 0 and "nothing was left" in workspace.summary
    listed, state = workspace.programs.lines("gcloud")
    assert f"--project={SETTINGS['project_id']}" in listed and "environment=ephemeral" in listed
    assert "gs://my-project-terraform/slipway/gke/ephemeral/default.tfstate" in state
    assert workspace.programs.calls("terraform") == [], "its provider is a hundred megabytes"


@pytest.mark.parametrize(("hours", "state", "destroyed"), [(5, STATE, True), (3, STATE, False), (5, EMPTY, False)])
def test_what_outlived_its_cluster_is_found_by_its_state(
    workspace: Workspace, settings: str, hours: int, state: str, destroyed: bool
):
    written = {"creation_time": f"{datetime.now(UTC) - timedelta(hours=hours):%Y-%m-%dT%H:%M:%S+0000}"}
    workspace.programs.answer("gcloud", "container clusters list", says="[]")
    workspace.programs.answer("gcloud", "container clusters describe", complains="ERROR: 404", code=1)
    workspace.programs.answer("gcloud", "objects describe .*default.tfstate", says=json.dumps(written))
    workspace.programs.answer("gcloud", "objects describe .*default.tflock", complains="ERROR: 404", code=1)
    workspace.programs.answer("gcloud", "storage cat .*default.tfstate", says=state)
    workspace.programs.answer("terraform", "state pull", says=state)
    values = {"vars.SLIPWAY_EPHEMERAL": settings, "vars.SLIPWAY_TFVARS_EPHEMERAL": ""}
    done = workspace.step("sweep.yml", "gke", "make preview-sweep", values)
    assert done.returncode == 0, done.stderr
    assert any(call.words[1] == "destroy" for call in workspace.programs.calls("terraform")) == destroyed
    assert ("the rest of ephemeral: 300 minutes old, destroyed" in workspace.summary) == destroyed


@pytest.mark.parametrize(("target", "oldest"), [("cloudrun", sweep.OLDEST), ("gke", sweep.OLDEST_CLUSTER)])
def test_what_is_swept_is_older_than_its_jobs_can_be(target: str, oldest: timedelta):
    """Else the sweeper would take the lock of a job that still destroys."""
    jobs = rules.read((rules.WORKFLOWS / "preview.yml").read_text())["jobs"]
    both = {name: re.findall(r"\d+", str(jobs[name]["timeout-minutes"])) for name in ("deploy", "wait", "destroy")}
    assert timedelta(minutes=sum(int(found[0 if target == "gke" else -1]) for found in both.values())) < oldest
