from __future__ import annotations

import json
from pathlib import Path

import pytest

from ci import job
from ci.commands import CiError
from tests.workflows.conftest import SETTINGS
from tests.workflows.workspace import Workspace


def test_an_output_cannot_write_a_second_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "out"))
    job.output("reason", "x\nadmin<<EOF\ntrue\nEOF\nend")
    lines = (tmp_path / "out").read_text().splitlines()
    name, _, end = lines[0].partition("<<")
    assert name == "reason" and lines[-1] == end and lines.count(end) == 1


def test_a_name_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "out"))
    with pytest.raises(CiError):
        job.output("a=b\nc", "x")


def test_a_secret_is_masked_and_elsewhere_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    job.mask("word")
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    job.mask("word\nsecond")
    assert capsys.readouterr().out == "::add-mask::word\n::add-mask::second\n"


def test_an_error_stays_one_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert job.fail(CiError("one\n::set-output name=x::y")) == 1
    assert capsys.readouterr().out == "::error::one%0A::set-output name=x::y\n"


def test_a_fence_is_longer_than_those_inside():
    assert job.fenced("a\n```\nb") == "````\na\n```\nb\n````"
    assert job.fenced("a", "json") == "```json\na\n```"


def test_who_a_job_is(workspace: Workspace, settings: str):
    values = {"vars[format('SLIPWAY_{0}', vars.SLIPWAY_ENVIRONMENT)]": settings}
    done = workspace.step("retrain.yml", "submit", "make job-settings", values)
    assert done.returncode == 0, done.stderr
    assert workspace.outputs == {
        "provider": SETTINGS["workload_identity_provider"],
        "account": "slipway-dev-submit@my-project.iam.gserviceaccount.com",
    }


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "gh variable set SLIPWAY_DEV"),
        ("null", "SETTINGS is 'null', no object"),
        ("{", "is no JSON"),
        (json.dumps({**SETTINGS, "service_accounts": {"plan": "x"}}), "no account 'submit', only plan"),
        (json.dumps({**SETTINGS, "workload_identity_provider": ""}), "no workload_identity_provider"),
    ],
)
def test_settings_that_are_missing_are_told(workspace: Workspace, given: str, says: str):
    values = {"vars[format('SLIPWAY_{0}', vars.SLIPWAY_ENVIRONMENT)]": given}
    done = workspace.step("retrain.yml", "submit", "make job-settings", values)
    assert done.returncode == 2 and says in done.stderr
