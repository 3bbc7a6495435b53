"""A preview on GKE: which commands are given in which order, with Terraform, the cluster and `slipway` by hand."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.commands import ROOT, CiError
from ci.preview import gke, preview
from pipelines import run_config
from tests.workflows.fakes import Programs, Service
from tests.workflows.test_preview import STATE, Heard, Time, answers

PLATFORM = "PLATFORM_RELEASES=gs://my-project-eph-releases\nPLATFORM_CLUSTER=slipway-eph\n"
SERVICE = {"items": [{"metadata": {"name": "energy-smoke-0123456789"}}]}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Service) -> Iterator[Programs]:
    """A project's tools by hand, and a predictor that answers behind kubectl's port."""
    found = Programs(tmp_path / "bin")
    monkeypatch.setenv("PATH", found.path)
    monkeypatch.setattr(gke, "ROOT", tmp_path)
    monkeypatch.setattr(gke, "OVERLAY", tmp_path)
    (tmp_path / "pipelines").symlink_to(Path(__file__).parents[2] / "pipelines")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/bin").symlink_to(found.folder)
    names = {"project_id": "my-project", "region": "us-central1", "cluster": "slipway-eph"}
    monkeypatch.setenv("SETTINGS", json.dumps(names))
    found.put("make", "slipway")
    found.answer("terraform", "output", says=PLATFORM)
    found.answer("terraform", "state pull", says=STATE)
    found.answer("gcloud", "print-access-token", says="token")
    described = {"controlPlaneEndpointsConfig": {"dnsEndpointConfig": {"endpoint": "gke-1.us-central1.gke.goog"}}}
    found.answer("gcloud", "clusters describe", says=json.dumps(described))
    found.answer("gcloud", "clusters list", says="[]")
    found.answer("kubectl", "^get inferenceservice", says=json.dumps(SERVICE))
    service.set("GET", "/health", (200, {}))
    with service.serve() as url:
        says = f"Forwarding from 127.0.0.1:{url.rpartition(':')[2]} -> 80\n"
        found.answer("kubectl", "^port-forward", says=says, stays=60)
        yield found


def target() -> gke.Gke:
    return gke.Gke("my-project", "us-central1", "my-project-terraform", "slipway-eph", "SLIPWAY_IMAGE_SERVING=x", {})


def test_it_is_made_reached_told_and_destroyed(programs: Programs, tmp_path: Path):
    heard = Heard()
    assert "minutes are over" in preview.run(target(), heard, answers, Time().clock)
    order = [
        call.name if call.name in ("make", "slipway") else f"{call.name} {call.words[1]}" for call in programs.calls()
    ]
    for first, then in (("terraform apply", "make"), ("make", "slipway"), ("slipway", "terraform destroy")):
        assert order.index(first) < order.index(then)
    (made,) = programs.calls("make")
    assert made.words == ["platform", "ENV=ephemeral"] and made.env["KUBECONFIG"]
    assert (tmp_path / "platform.env").read_text().strip() == PLATFORM.strip()
    assert (tmp_path / "images.env").read_text() == "SLIPWAY_IMAGE_SERVING=x\n"
    forward = next(call for call in programs.calls("kubectl") if call.words[0] == "port-forward")
    assert "service/energy-smoke-0123456789-predictor" in forward.words and ":80" in forward.words
    assert "get-credentials slipway-eph" in heard.log[0] and "token" not in heard.log[0]
    applied = next(call for call in programs.calls("terraform") if call.words[1] == "apply")
    assert "-var-file=ephemeral.tfvars" in applied.words
    (asked,) = {line for line in programs.lines("gcloud") if "print-access-token" in line}
    assert asked.endswith("--scopes=https://www.googleapis.com/auth/cloud-platform"), "a RoleBinding knows the email"
    assert applied.env["TF_VAR_github"] == "true", "the nodes may pull what the job pushed"


def test_what_the_cluster_made_at_google_goes_before_the_cluster(programs: Programs):
    target().destroy()
    calls = programs.calls()
    emptied = [call.words for call in calls if call.name == "kubectl" and call.words[0] == "delete"]
    assert [words[1] for words in emptied] == [kinds for kinds, _ in gke.MADE_AT_GOOGLE]
    assert all({"--all", "--ignore-not-found", "--timeout=10m"} <= set(words) for words in emptied)
    order = [call.name for call in calls if call.words[:1] == ["delete"] or "destroy" in call.words]
    assert order == ["kubectl"] * len(emptied) + ["terraform"]


@pytest.mark.parametrize(("name", "words"), [("gcloud", "clusters describe"), ("kubectl", "^delete")])
def test_a_cluster_that_does_not_answer_is_destroyed_all_the_same(programs: Programs, name: str, words: str):
    programs.answer(name, words, code=1)
    target().destroy()
    assert any("destroy" in call.words for call in programs.calls("terraform"))


STANDS = json.dumps([{"name": "slipway-eph"}])


def test_a_cluster_that_no_state_knows_is_deleted_by_its_name(programs: Programs):
    """The job was killed while Google made it, and goes on making it."""
    programs.before("gcloud", "clusters list", says=STANDS, times=1)
    programs.answer("gcloud", "operations list", says="operation-1\n")
    programs.answer("gcloud", "operations wait", code=1)  # making it failed
    programs.answer("terraform", "destroy", code=1, times=1)  # the cluster stands in the network
    preview.destroy(target(), Time().clock)
    told = [line for line in programs.lines("gcloud", "terraform") if re.search("wait|delete|destroy", line)]
    assert [
        re.search(r"destroy|operations wait operation-1|clusters delete slipway-eph", line)[0] for line in told
    ] == [  # type: ignore[index]
        "destroy",
        "operations wait operation-1",
        "clusters delete slipway-eph",
        "destroy",
    ]
    (deleted,) = [line for line in told if "delete" in line]
    assert deleted.endswith("--project=my-project --location=us-central1 --quiet")


def test_one_that_stands_without_any_state_goes_too(programs: Programs):
    programs.before("terraform", "state pull", says="")
    programs.before("gcloud", "clusters list", says=STANDS, times=1)
    preview.destroy(target(), Time().clock)
    assert any("clusters delete slipway-eph" in line for line in programs.lines("gcloud"))
    assert not any("destroy" in call.words for call in programs.calls("terraform"))


def test_a_platform_that_cannot_be_installed_is_destroyed(programs: Programs):
    programs.answer("make", "platform", code=1)
    with pytest.raises(CiError, match="make platform"):
        preview.deploy(target(), Heard(), answers, Time().clock)
    assert any(call.words[1] == "destroy" for call in programs.calls("terraform"))


def test_the_run_file_is_the_smoke_run_with_the_environment_s_bucket(programs: Programs):
    path = target()._run_file(PLATFORM)
    found = run_config.load(str(path), target="kserve")
    assert found.rollout.kserve.releases == "gs://my-project-eph-releases/preview"
    assert found.rollout.service == gke.SERVICE


CANCELLED = """
import time
from ci.commands import ROOT, CiError
from ci.preview import __main__ as commands, preview
from tests.workflows.test_preview import Heard, Made, Time

made = Made()

def tried(address):
    print("made", flush=True)
    time.sleep(60)

commands.COMMANDS["deploy"] = lambda: preview.deploy(made, Heard(), tried, Time().clock)
code = commands.main(["deploy"])
print("still up" if made.up else "destroyed", code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_job_destroys_what_it_made(number: signal.Signals):
    """A process of its own, as the job is one: a signal must not meet the handlers of whoever runs tests."""
    command = [sys.executable, "-c", CANCELLED]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "made\n"
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
    assert said.splitlines()[-1] == "destroyed 1" and number.name in said + errors
