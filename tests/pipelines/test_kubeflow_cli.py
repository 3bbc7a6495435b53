"""The commands submit, schedule, runs and terminate, as they are typed."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.rollout.target import TargetError
from components.step_config import InputError
from pipelines import kubeflow_cli, submit
from pipelines.run_config import RunFileError
from pipelines.submit import EngineError
from tests.components.rollout.kserve.fake_api import NAMESPACE, FakeApi, running
from tests.pipelines.engines import registry, write_run_file  # noqa: F401  (a fixture)
from tests.pipelines.fake_kfp import FakeKubeflow, serve

pytestmark = pytest.mark.usefixtures("registry")

Slipway = Callable[..., int]


@pytest.fixture
def slipway(fake: FakeKubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slipway]:
    """`slipway("submit", "nightly.yaml")` in a folder with that run file; its exit code."""
    parser = argparse.ArgumentParser(prog="slipway")
    kubeflow_cli.add_commands(parser.add_subparsers(required=True))
    write_run_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("KFP_TOKEN", "KFP_NAMESPACE", "KF_PIPELINES_SA_TOKEN_PATH", "KF_PIPELINES_UI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def run(*arguments: str) -> int:
        options = parser.parse_args(arguments)
        return options.command(options)

    with serve(fake.answer) as url:
        monkeypatch.setenv("KFP_ENDPOINT", url)
        yield run


def test_submit_prints_the_link_and_the_second_time_why_not(fake, slipway, capsys):
    assert slipway("submit", "nightly.yaml") == 0
    first = capsys.readouterr().out.splitlines()
    (run,) = fake.all_runs.values()
    assert first[0] == f"submitted: {run['display_name']}"
    assert first[1] == "  created pipeline train-and-release"
    assert first[-1].endswith(f"/#/runs/details/{run['run_id']}")
    assert slipway("submit", "nightly.yaml") == 0
    again = capsys.readouterr().out.splitlines()
    assert again[0] == f"{run['display_name']} has the same content and is pending; --again makes another"
    assert again[1] == first[-1]
    assert slipway("submit", "nightly.yaml", "--again", "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == f"{run['display_name']}-2"


def test_a_dry_run_says_what_would_be_made(fake, slipway, capsys):
    assert slipway("submit", "nightly.yaml", "--dry-run") == 0
    assert "  would create experiment energy-cluster" in capsys.readouterr().out.splitlines()
    assert slipway("schedule", "nightly.yaml", "--cron", "0 3 * * *", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("would create:\nNightly energy  0 0 3 * * *  on")
    assert (fake.all_runs, fake.recurring) == ({}, {})


@pytest.mark.parametrize(
    ("state", "verdict", "code", "says"),
    [
        ("SUCCEEDED", "pass", 0, "verdict: pass"),
        ("SUCCEEDED", "fail", 3, "verdict: fail"),
        ("SUCCEEDED", "inconclusive", 4, "verdict: inconclusive"),
        ("FAILED", "", 1, "the run failed"),
        ("CANCELED", "", 1, "the run canceled"),
    ],
)
def test_wait_ends_with_the_verdict(fake, slipway, capsys, state, verdict, code, says):
    def end_it() -> None:
        deadline = time.monotonic() + 60
        while not fake.all_runs and time.monotonic() < deadline:
            time.sleep(0.01)
        fake.finish(next(iter(fake.all_runs)), state, verdict=verdict)

    threading.Thread(target=end_it, daemon=True).start()
    assert slipway("submit", "nightly.yaml", "--wait", "--wait-pause", "0.05", "--wait-seconds", "90") == code
    assert says in capsys.readouterr().out.splitlines()


def test_wait_in_json_is_one_document(fake, slipway, capsys):
    slipway("submit", "nightly.yaml")
    (run_id,) = fake.all_runs
    fake.finish(run_id, "SUCCEEDED", verdict="fail")
    capsys.readouterr()
    assert slipway("submit", "nightly.yaml", "--wait", "--json") == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["action"], said["verdict"], said["run"]["state"]) == ("kept", "fail", "succeeded")


def test_schedules_from_the_first_to_the_last(fake, slipway, capsys):
    def said(*arguments: str) -> list[str]:
        assert slipway("schedule", *arguments) == 0
        return capsys.readouterr().out.splitlines()

    assert said("list") == ["no schedules"]
    assert said("nightly.yaml", "--cron", "0 3 * * *")[:2] == ["created:", "Nightly energy  0 0 3 * * *  on"]
    assert said("nightly.yaml", "--cron", "0 3 * * *")[0] == "kept:"
    assert said("nightly.yaml", "weekly", "--cron", "0 3 * * 0")[1].startswith("weekly  0 0 3 * * 0")
    assert said("pause", "weekly") == ["paused: weekly"]
    assert "weekly  0 0 3 * * 0  paused" in said("list")
    assert said("resume", "weekly", "--dry-run") == ["would resume: weekly"]
    assert "weekly  0 0 3 * * 0  paused" in said("list")
    assert said("delete", "weekly") == ["deleted: weekly"]
    assert len(fake.recurring) == 1
    with pytest.raises(InputError, match="no schedule 'weekly'; there are: Nightly energy"):
        slipway("schedule", "delete", "weekly")


def test_runs_and_their_end(fake, slipway, capsys):
    assert slipway("runs") == 0
    assert capsys.readouterr().out == "no runs\n"
    slipway("submit", "nightly.yaml")
    (run_id,) = fake.all_runs
    capsys.readouterr()
    assert slipway("runs", "--json") == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)] == [run_id]
    assert slipway("terminate", run_id, "--dry-run") == 0
    assert ": would end" in capsys.readouterr().out
    assert slipway("terminate", run_id) == 0
    assert fake.all_runs[run_id]["state"] == "CANCELED"
    capsys.readouterr()
    assert slipway("terminate", run_id) == 0
    assert ": had ended as canceled" in capsys.readouterr().out
    with pytest.raises(EngineError, match="read the run nobody: 404"):
        slipway("terminate", "nobody")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["schedule", "nightly.yaml", "--cron", "0 3 * *"], "has 4 fields"),
        (["schedule", "nightly.yaml"], "needs --cron"),
        (["schedule", "delete"], "needs a name"),
        (["schedule", "list", "--cron", "0 3 * * *"], "takes neither --cron nor --profile"),
        (["submit", "nightly.yaml", "--profile", "tpu"], "invalid choice: 'tpu'"),
        (["submit", "nightly.yaml", "--target", "airflow"], "invalid choice: 'airflow'"),
        (["runs", "--limit", "0"], "must be at least 1"),
    ],
)
def test_wrong_usage_is_exit_code_2_before_anything_is_sent(fake, slipway, capsys, arguments, says):
    with pytest.raises(SystemExit) as ended:
        slipway(*arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert fake.requests == []


def test_a_run_file_for_a_laptop_is_refused_before_anything_is_sent(fake, slipway, tmp_path):
    write_run_file(tmp_path, store=".slipway")
    for arguments in (["submit", "nightly.yaml"], ["schedule", "nightly.yaml", "--cron", "0 3 * * *"]):
        with pytest.raises(RunFileError, match=r"^nightly\.yaml: run\.store: '\.slipway'"):
            slipway(*arguments)
    assert fake.requests == []


# --- the cluster where it will be rolled out --------------------------------------------------------------------


@pytest.fixture
def cluster(slipway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    """The cluster of KUBECONFIG, and a run file that is for it."""
    path = write_run_file(tmp_path)
    path.write_text(path.read_text().replace("placement:", f"  kserve: {{namespace: {NAMESPACE}}}\nplacement:"))
    with running() as (api, _):
        write_kubeconfig(tmp_path / "kubeconfig", api.url)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield api


def write_kubeconfig(path: Path, server: str) -> None:
    named = {
        "clusters": [{"name": "fake", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": {"token": "mine"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
    }
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "fake", **named}))


SENDING = [["submit", "nightly.yaml"], ["schedule", "nightly.yaml", "--cron", "0 3 * * *"]]


@pytest.mark.parametrize("arguments", SENDING, ids=lambda words: words[0])
def test_a_rollout_that_could_not_begin_is_refused_before_anything_is_sent(fake, slipway, cluster, arguments):
    cluster.missing_kinds = {"inferenceservices"}
    with pytest.raises(TargetError, match=rf"install its CustomResourceDefinition.* {cluster.url} .*KUBECONFIG"):
        slipway(*arguments)
    cluster.missing_kinds = set()
    cluster.drop("gateways", "slipway", "slipway-system")
    with pytest.raises(TargetError, match="there is no Gateway slipway-system/slipway"):
        slipway(*arguments)
    assert fake.requests == []


@pytest.mark.parametrize("arguments", SENDING, ids=lambda words: words[0])
def test_a_rollout_that_can_begin_is_sent_without_a_word_about_it(fake, slipway, cluster, capsys, arguments):
    assert slipway(*arguments) == 0
    assert capsys.readouterr().err == ""
    assert fake.all_runs or fake.recurring


def test_without_a_cluster_to_look_at_a_run_is_sent_and_that_is_said(fake, slipway, capsys):
    assert slipway("submit", "nightly.yaml", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["action"] == "submitted"
    (line,) = said.err.splitlines()
    assert line.startswith("not checked whether the rollout can begin: no cluster to speak to")


def test_what_this_person_may_not_see_refuses_nothing(fake, slipway, cluster, capsys):
    cluster.denied.add(("list", "pods"))
    assert slipway("submit", "nightly.yaml") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "can begin: cannot read Pods" in line and "HTTP 403" in line


def test_a_cluster_that_does_not_answer_refuses_nothing(fake, slipway, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(submit, "_LOOK_SECONDS", 0.2)
    write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    assert slipway("submit", "nightly.yaml") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "the API server http://127.0.0.1:1 kept failing" in line


def test_without_an_endpoint(slipway, monkeypatch):
    monkeypatch.delenv("KFP_ENDPOINT")
    with pytest.raises(EngineError, match="KFP_ENDPOINT is not set"):
        slipway("runs")


def test_vertex_asks_for_its_own_settings(slipway, monkeypatch):
    monkeypatch.delenv("VERTEX_PROJECT", raising=False)
    with pytest.raises(EngineError, match="VERTEX_PROJECT"):
        slipway("runs", "--target", "vertex")
