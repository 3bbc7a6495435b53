"""Plan, comment, apply: each step as infrastructure.yml has it, with Terraform and the bucket by hand."""

from __future__ import annotations

import hashlib
import json

import pytest

from ci import infrastructure
from ci.commands import CiError
from tests.workflows.fakes import Service
from tests.workflows.workspace import Workspace

PLAN = "the plan"
DIGEST = hashlib.sha256(PLAN.encode()).hexdigest()
KEPT = f"gs://my-project-terraform/slipway/plans/{DIGEST}.tfplan"


def change(kind: str, *actions: str) -> dict:
    return {"address": f"{kind}.x", "type": kind, "change": {"actions": list(actions)}}


PLANNED = {"resource_changes": [change("google_storage_bucket", "create"), change("google_project_service", "no-op")]}


def values(settings: str, keep: str = "true", own: str = "") -> dict[str, str]:
    return {
        "matrix.environment": "dev",
        "vars[format('SLIPWAY_{0}', matrix.environment)]": settings,
        "vars[format('SLIPWAY_TFVARS_{0}', matrix.environment)]": own,
        "github.event_name != 'pull_request'": keep,
        "github.token": "ghs_token",
        "github.event.number": "7",
    }


def terraform(workspace: Workspace, code: int = 2, planned: dict = PLANNED) -> None:
    """code: 0 nothing to change, 2 something."""
    written = {str(workspace.folder / "build/plan/plan.tfplan"): PLAN}
    workspace.programs.answer("terraform", " plan ", code=code, writes=written)
    workspace.programs.put("gcloud")
    workspace.programs.answer("terraform", "show -json", says=json.dumps(planned))
    workspace.programs.answer("terraform", "show -no-color", says="+ resource ```evil```\n")


def plan(workspace: Workspace, settings: str, **more: str):
    return workspace.step("infrastructure.yml", "plan", "make infrastructure-plan", values(settings, **more))


def test_a_plan_is_kept_and_told(workspace: Workspace, settings: str):
    terraform(workspace)
    done = plan(workspace, settings, own='{"edge": {"hostname": "chat.example.com"}}')
    assert done.returncode == 0, done.stderr
    calls = workspace.programs.calls("terraform")
    assert "-backend-config=prefix=slipway/gke/dev" in calls[0].words
    assert "-var-file=dev.tfvars" in calls[1].words
    assert json.loads(calls[1].env["TF_VAR_edge"]) == {"hostname": "chat.example.com"}
    assert calls[1].env["TF_VAR_project_id"] == "my-project"
    (copy,) = workspace.programs.lines("gcloud")
    assert copy.endswith(f"plan.tfplan {KEPT}")
    left = {path.name: path.read_text() for path in (workspace.folder / "build/plan").iterdir()}
    assert left["plan.sha256"] == DIGEST and set(left) == {"plan.sha256", "comment.md"}, (
        "the plan itself holds the state"
    )
    assert "1 to create, 0 to update, 0 to delete" in left["comment.md"]
    assert "````\n+ resource ```evil```" in left["comment.md"], "a plan cannot end its own fence"


def test_a_pull_request_s_plan_is_not_kept(workspace: Workspace, settings: str):
    terraform(workspace)
    assert plan(workspace, settings, keep="false").returncode == 0
    assert workspace.programs.calls("gcloud") == []


def test_nothing_to_change(workspace: Workspace, settings: str):
    terraform(workspace, 0, {"resource_changes": [change("google_project_service", "no-op")]})
    workspace.programs.put("gcloud")
    assert plan(workspace, settings).returncode == 0
    assert (workspace.folder / "build/plan/plan.sha256").read_text() == ""
    done = workspace.step("infrastructure.yml", "apply", "make infrastructure-apply", values(settings))
    assert done.returncode == 0 and "changes nothing" in workspace.summary
    assert not [line for line in workspace.programs.lines("terraform") if " apply" in line]


def test_a_plan_that_fails(workspace: Workspace, settings: str):
    terraform(workspace, 1)
    done = plan(workspace, settings)
    assert done.returncode == 2 and "terraform plan ended with 1" in done.stderr


@pytest.mark.parametrize("kind", sorted(infrastructure._HOLDS_DATA))
def test_what_would_be_lost_is_said(kind: str):
    text = infrastructure.describe("prod", {"resource_changes": [change(kind, "delete", "create")]}, "x")
    assert f"**Would be destroyed with what it holds:** `{kind}.x`" in text
    assert "lost" not in infrastructure.describe("prod", {"resource_changes": [change(kind, "update")]}, "x")
    assert "Would be destroyed" not in infrastructure.describe(
        "prod", {"resource_changes": [change(kind, "update")]}, "x"
    )


def test_a_long_plan_is_cut_so_that_github_takes_it():
    text = infrastructure.describe("dev", PLANNED, "x" * 200_000)
    assert len(text) < 60_000 and "job's log" in text


def test_the_comment(workspace: Workspace, settings: str):
    terraform(workspace)
    plan(workspace, settings)
    service = Service()
    comments = "/repos/somebody/slipway/issues/7/comments"
    service.set("GET", f"{comments}?per_page=100&page=1", (200, []))
    service.set("POST", comments, (201, {}))
    with service.serve() as url:
        workspace.github["GITHUB_API_URL"] = url
        done = workspace.step("infrastructure.yml", "comment", "make infrastructure-comment", values(settings))
    assert done.returncode == 0, done.stderr
    assert service.sent("POST")[0]["body"].startswith("<!-- slipway: terraform dev -->\n### Terraform: dev")


def apply(workspace: Workspace, settings: str, fetched: str = PLAN):
    written = {str(workspace.folder / "build/plan/plan.tfplan"): fetched}
    workspace.programs.answer("gcloud", rf"^storage cp {KEPT}", writes=written)
    (workspace.folder / "build/plan").mkdir(parents=True, exist_ok=True)
    (workspace.folder / "build/plan/plan.sha256").write_text(DIGEST)
    workspace.programs.put("terraform")
    return workspace.step("infrastructure.yml", "apply", "make infrastructure-apply", values(settings))


def test_that_very_plan_is_applied(workspace: Workspace, settings: str):
    done = apply(workspace, settings)
    assert done.returncode == 0, done.stderr
    init, applied = workspace.programs.calls("terraform")
    assert init.words[1] == "init" and applied.words[1] == "apply" and applied.words[-1].endswith("plan.tfplan")
    assert not any("-var-file" in word for word in applied.words)
    assert workspace.programs.lines("gcloud")[-1] == f"gcloud storage rm {KEPT}"
    assert not (workspace.folder / "build/plan/plan.tfplan").exists()


def test_another_plan_is_refused(workspace: Workspace, settings: str):
    done = apply(workspace, settings, fetched="another plan")
    assert done.returncode == 2 and "not the one that was reviewed" in done.stderr
    assert workspace.programs.calls("terraform") == []


@pytest.mark.parametrize("text", ["../../x", "0" * 63, "g" * 64])
def test_a_digest_that_is_none_is_refused(workspace: Workspace, settings: str, text: str):
    (workspace.folder / "build/plan").mkdir(parents=True)
    (workspace.folder / "build/plan/plan.sha256").write_text(text)
    workspace.programs.put("gcloud")
    done = workspace.step("infrastructure.yml", "apply", "make infrastructure-apply", values(settings))
    assert done.returncode == 2 and "no sha256" in done.stderr and workspace.programs.calls() == []


def test_an_environment_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ENV", "../prod")
    with pytest.raises(CiError, match="must be one of"):
        infrastructure.environment()
