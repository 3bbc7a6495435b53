"""The command line as its user has it: a run goes live, is repeated, is stopped by the gate, is killed and goes on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.ports import free_port

_ROOT = Path(__file__).resolve().parents[2]
_SENTENCES = {
    "kettle": "Kettles boil water and switch off.",
    "fridge": "Fridges keep food cold all day.",
    "oven": "Ovens bake bread with dry heat.",
    "lamp": "Lamps shine when evening comes.",
    "pump": "Pumps push water through radiators.",
    "boiler": "Boilers burn gas for warm rooms.",
    "panel": "Panels turn sunlight into current.",
    "turbine": "Turbines spin in steady wind.",
    "battery": "Batteries store power until needed.",
    "meter": "Meters count every unit used.",
}
"""Which answer is right depends on the question alone, so a model that learned other pairs is measurably worse."""


class Project:
    """A user's folder: her data, her run file, and the command line."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.port = free_port()
        rows = [
            {"question": f"Tell me about the {thing} in house {number}.", "answer": sentence}
            for number in range(40)
            for thing, sentence in _SENTENCES.items()
        ]
        self.data = folder / "rows.jsonl"
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def run_file(self, name: str = "things", **changes: dict[str, Any]) -> Path:
        """A run file of a small model; `changes` are laid over its sections."""
        content: dict[str, dict[str, Any]] = {
            "run": {"name": "things", "store": str(self.folder / "store")},
            "data": {"sources": [str(self.data)], "test_share": 0.15, "max_tokens": 128},
            "base": {
                "source": "scratch",
                "generation": {"temperature": 0},
                "scratch": {"corpus": [str(self.data)], "vocabulary": 400, "context_length": 128},
            },
            "training": {
                "method": "full",
                "learning_rate": 0.01,
                "epochs": 10,
                "batch_tokens": 512,
                "accumulate": 1,
                "checkpoint_steps": 20,
                "threads": 1,
            },
            "evaluation": {"samples": 2, "sample_tokens": 12},
            "rollout": {
                "service": "things",
                "port": self.port,
                "golden_prompts": 2,
                "golden_tokens": 6,
                "min_requests": 2,
            },
        }
        for section, values in changes.items():
            content[section] = content.get(section, {}) | values
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """`slipway` as a process of its own, which leads its own process group."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def slipway(self, *arguments: str | Path, code: int = 0) -> Any:
        """Run to the end; its JSON output. Fails when the exit code is another."""
        process = self.start(*arguments, "--json")
        output, errors = process.communicate(timeout=240)
        assert process.returncode == code, f"{output}\n{errors}"
        return json.loads(output) if output else errors

    def health(self) -> dict[str, Any]:
        return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=10).json()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("project"))
    yield project
    project.slipway("down", project.run_file())


@pytest.fixture(scope="module")
def first(project: Project) -> dict[str, Any]:
    """The outcome of the first run."""
    return project.slipway("run", project.run_file())


def test_a_run_ends_live_and_answers(project: Project, first: dict[str, Any]) -> None:
    assert first["verdict"] == "pass"
    assert project.health()["release"] == first["live"]["digest"]
    reply = httpx.post(
        f"http://127.0.0.1:{project.port}/v1/chat/completions",
        json={"model": "things", "messages": [{"role": "user", "content": "Tell me about the lamp in house 12."}]},
        timeout=60,
    )
    assert reply.json()["choices"][0]["message"]["content"] == _SENTENCES["lamp"]
    assert reply.headers["X-Slipway-Release"] == first["live"]["digest"]
    assert set(first["reports"]) == {"data", "training", "evaluation", "verdict"}
    assert all(
        Path(path).read_text(encoding="utf-8").startswith("<!doctype html>") for path in first["reports"].values()
    )


def test_the_live_model_is_traced_to_its_origin(project: Project, first: dict[str, Any]) -> None:
    trace = project.slipway("trace", project.run_file())
    assert trace["release"] == first["live"]["digest"]
    assert trace["run"] == first["run_id"]
    assert trace["base"]["source"] == "scratch"
    assert len(trace["data"].removeprefix("sha256:")) == 64
    assert trace["scores"]["challenger"]["perplexity"] < trace["scores"]["base"]["perplexity"]
    assert project.slipway("rollout", "status", project.run_file())["live"] == first["live"]["digest"]


def test_the_same_run_again_does_nothing(project: Project, first: dict[str, Any]) -> None:
    project.slipway("run", project.run_file())  # the gate and the scores of "already live" are new once
    again = project.slipway("run", project.run_file())
    executed = {step["step"] for step in again["steps"] if not step["reused"]}
    assert executed == {"resolve_champion", "rollout"}
    assert again["live"]["digest"] == first["live"]["digest"]


def test_shuffled_answers_are_stopped_and_what_is_live_stays(project: Project, first: dict[str, Any]) -> None:
    stopped = project.slipway("run", project.run_file("shuffled", data={"shuffle_answers": True}), code=3)
    assert stopped["verdict"] == "fail"
    assert stopped["live"] is None
    assert project.health()["release"] == first["live"]["digest"]


def test_a_changed_prompt_is_another_release_and_back_returns(
    project: Project, first: dict[str, Any], tmp_path: Path
) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Answer in one sentence.", encoding="utf-8")
    changes = {"data": {"system_prompt_file": str(prompt)}, "training": {"epochs": 1}, "gate": {"margin": 20}}
    changed = project.run_file("changed", **changes)
    second = project.slipway("run", changed)
    assert second["verdict"] == "pass"
    assert second["live"]["digest"] != first["live"]["digest"]
    assert second["live"]["previous"] == first["live"]["digest"]
    back = project.slipway("rollout", "back", "--run", changed)
    assert back["digest"] == first["live"]["digest"]
    assert project.slipway("trace", changed)["run"] == first["run_id"], "going back forgot where the release is from"
    assert project.health()["release"] == first["live"]["digest"]


def test_down_stops_and_serve_starts_the_same_release(project: Project, first: dict[str, Any]) -> None:
    project.slipway("down", project.run_file())
    with pytest.raises(httpx.ConnectError):
        project.health()
    project.slipway("serve", project.run_file())
    assert project.health()["release"] == first["live"]["digest"]


def test_a_killed_run_goes_on_where_it_was(project: Project, first: dict[str, Any]) -> None:
    """kill -9 of the runner in the middle of training, then the same command: it resumes, and ends the same."""
    store = project.folder / "killed-store"
    run_file = project.run_file("killed", run={"store": str(store)}, rollout={"port": free_port(), "service": "killed"})
    process = project.start("run", run_file)
    deadline = time.monotonic() + 120
    while not list(store.glob("steps/finetune/*.partial/checkpoints/checkpoint-*/sealed.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.05)
    process.kill()  # the runner alone: its step finds nobody to speak to, and ends or hands its lock over
    process.communicate()
    outcome = project.slipway("run", run_file)
    log = (store / "runs" / outcome["run_id"] / "log.txt").read_text(encoding="utf-8")
    project.slipway("down", run_file)
    assert '"event": "resumed"' in log
    assert outcome["live"]["digest"] == first["live"]["digest"], "resumed training gave other weights"


def test_gpt2_goes_the_distilgpt2_way(project: Project) -> None:
    """A random GPT-2 with a supplied chat template: LoRA on its Conv1D layers, tied head, the fallback engine."""
    service = {
        "port": free_port(),
        "service": "gpt2",
        "serving": {"engine": "transformers", "precision": "f32"},
    }
    base = yaml.safe_load(project.run_file().read_text(encoding="utf-8"))["base"]
    run_file = project.run_file(
        "gpt2",
        run={"store": str(project.folder / "gpt2-store")},
        base={
            "chat_template_file": "pipelines/templates/plain.jinja",
            "scratch": base["scratch"] | {"architecture": "gpt2", "layers": 1},
        },
        training={"method": "lora", "epochs": 1},
        rollout=service,
    )
    outcome = project.slipway("run", run_file)
    assert outcome["verdict"] == "pass"
    reply = httpx.post(
        f"{outcome['live']['url']}/generate", json={"prompt": "Tell me about the lamp.", "max_tokens": 4}, timeout=60
    )
    project.slipway("down", run_file)
    assert reply.json()["release"] == outcome["live"]["digest"]
    assert reply.json()["completion_tokens"] >= 1


@pytest.mark.parametrize(
    ("section", "values", "code", "words"),
    [
        ("training", {"rank": 0}, 2, "training.rank: 0: must be a whole number, at least 1"),
        ("training", {"rang": 8}, 2, "training.rang: 8: unknown key (did you mean rank?)"),
        ("data", {"sources": ["missing.jsonl"]}, 1, "missing.jsonl"),
    ],
)
def test_bad_input_is_refused_in_words_before_a_step_runs(
    project: Project, section: str, values: dict[str, Any], code: int, words: str
) -> None:
    store = project.folder / "never"
    run_file = project.run_file("bad", **{"run": {"store": str(store)}, section: values})
    message = project.slipway("run", run_file, code=code)
    assert words in message
    assert "Traceback" not in message
    assert not (store / "steps").exists()


def test_a_taken_port_is_said_before_the_training(project: Project) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        store = project.folder / "taken"
        run_file = project.run_file("taken", run={"store": str(store)}, rollout={"port": port, "service": "taken"})
        message = project.slipway("run", run_file, code=1)
    assert str(port) in message
    assert not list(store.glob("steps/finetune/*"))
