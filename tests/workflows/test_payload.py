"""What may be asked for from outside, and what not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ci import payload
from ci.commands import CiError
from tests.workflows.workspace import Workspace


def values(**given: str) -> dict[str, str]:
    """What the expressions of retrain.yml come to for an event."""
    return {
        "toJSON(github.event.client_payload)": given.get("payload", "null"),
        "inputs.run": given.get("run", ""),
        "inputs.again": given.get("again", ""),
        "inputs.wait_minutes": given.get("wait", ""),
        "vars.SLIPWAY_RETRAIN_RUN": given.get("scheduled", ""),
    }


def check(workspace: Workspace, **given: str):
    return workspace.step("retrain.yml", "check", "make retrain-check", values(**given))


def test_new_data_by_an_event(workspace: Workspace):
    wish = {
        "run": "laptop",
        "settings": {"data": {"sources": ["gs://b/new.jsonl"]}, "training": {"rank": 8}},
        "again": True,
    }
    done = check(workspace, payload=json.dumps(wish))
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((workspace.folder / "build/retrain/run.yaml").read_text())
    assert written["data"]["sources"] == ["gs://b/new.jsonl"] and written["data"]["test_share"] == 0.15
    assert written["training"]["rank"] == 8 and written["training"]["alpha"] == 32
    assert written["run"]["name"] == "laptop", "else it would be named for the file"
    assert json.loads((workspace.folder / "build/retrain/request.json").read_text())["again"] is True


@pytest.mark.parametrize(
    ("given", "again", "minutes"),
    [({"run": "laptop", "again": "true", "wait": "5"}, True, 5), ({"scheduled": "laptop"}, False, 0)],
)
def test_by_hand_and_by_the_clock(workspace: Workspace, given: dict[str, str], again: bool, minutes: int):
    assert check(workspace, **given).returncode == 0
    request = json.loads((workspace.folder / "build/retrain/request.json").read_text())
    assert (request["run"], request["again"], request["wait_minutes"]) == ("laptop", again, minutes)


def test_nothing_is_configured(workspace: Workspace):
    done = check(workspace)
    assert done.returncode == 2 and "SLIPWAY_RETRAIN_RUN" in done.stderr


BAD = [
    ({"run": "laptop", "settings": {"gate": {"margin": 100}}}, "gate: not open to a payload"),
    ({"run": "laptop", "settings": {"rollout": {"service": "x"}}}, "rollout: not open"),
    ({"run": "laptop", "settings": {"base": {"source": "hub:evil/model"}}}, "base: not open"),
    ({"run": "laptop", "settings": {"evaluation": {"max_examples": 1}}}, "evaluation: not open"),
    ({"run": "laptop", "settings": {"run": {"store": "/"}}}, "run: not open"),
    ({"run": "laptop", "settings": {"data": {"system_prompt_file": "/etc/passwd"}}}, "files are the repository's"),
    ({"run": "laptop", "settings": {"training": {"rank": -1}}}, "training.rank"),
    ({"run": "laptop", "settings": {"training": {"rnk": 1}}}, "training.rnk"),
    ({"run": "laptop", "settings": {"data": []}}, "settings.data"),
    ({"run": "../../etc/passwd"}, "run"),
    ({"run": "laptop; rm -rf /"}, "run"),
    ({"run": "laptop\n"}, "run"),
    ({"run": "nobody"}, "is none of"),
    ({"run": 7}, "run"),
    ({}, "run"),
    ({"run": "laptop", "again": "yes"}, "again"),
    ({"run": "laptop", "wait_minutes": 1000}, "wait_minutes"),
    ({"run": "laptop", "reason": "x" * 301}, "reason"),
    ({"run": "laptop", "shell": "id"}, "shell"),
    (["laptop"], "payload"),
    ({"run": "laptop", "settings": {"data": {"sources": ["x" * 60_000]}}}, "bytes"),
]


@pytest.mark.parametrize(("wish", "says"), BAD, ids=[says.split(":")[0] + str(n) for n, (_, says) in enumerate(BAD)])
def test_what_is_not_open_to_a_payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: object, says: str):
    with pytest.raises(CiError) as error:
        payload.compose(payload.read(json.dumps(wish)), tmp_path)
    assert says in str(error.value)


def test_a_text_takes_the_place_of_the_run_file_s_own_file(tmp_path: Path):
    """As the refusal of a file says; both together would be refused."""
    wish = {"run": "laptop", "settings": {"data": {"system_prompt": "Answer in one line."}}}
    written = yaml.safe_load(payload.compose(payload.read(json.dumps(wish)), tmp_path).read_text())
    assert written["data"]["system_prompt"] == "Answer in one line."
    assert "system_prompt_file" not in written["data"]


def test_no_json():
    with pytest.raises(CiError, match="payload"):
        payload.read("{")


def test_a_payload_reaches_neither_make_nor_a_shell(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    evil = tmp_path / "evil"
    monkeypatch.setenv("HOME", str(tmp_path))
    words = "$(shell touch ~/evil) `touch ~/evil` $$(touch ~/evil) ; touch ~/evil #"
    done = check(workspace, payload=json.dumps({"run": words}), run=words, scheduled=words)
    assert done.returncode == 2 and not evil.exists()
    done = check(workspace, payload=json.dumps({"run": "laptop", "reason": words}))
    assert done.returncode == 0 and not evil.exists()
    assert words in json.loads((workspace.folder / "build/retrain/request.json").read_text())["reason"]
