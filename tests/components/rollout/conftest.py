"""Releases that are served by fake_server.py, behind the real front."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from components.rollout import deliver
from components.rollout.config import RolloutConfig
from components.rollout.local import SERVING, LocalTarget, process_id, service_names
from components.step_config import RunSettings
from components.store import Store
from serving.release import Origin, Release, ServingForm, payload_files
from tests.ports import free_port

FAKE = Path(__file__).with_name("fake_server.py")
GOLDEN = [
    {
        "messages": [{"role": "user", "content": f"question {number}"}],
        "prompt_token_ids": [1, 2, 3 + number],
        "token_ids": [10, 11, 12 + number],
        "gaps": [2.0, 0.01, 1.0],
    }
    for number in range(2)
]


def fake_server(release, model, port):
    return [sys.executable, "-S", str(FAKE), "--release", str(release), "--model", model, "--port", str(port)]


class Place:
    """A store with one service, and everything that a test does to it."""

    def __init__(self, root: Path):
        self.root = root
        self.run = RunSettings(name="test", store=str(root / "store"), run_id="run-1")
        self.store = Store(self.run)
        self.config = RolloutConfig(
            service="chat",
            port=free_port(),
            stages=[50, 100],
            min_requests=2,
            ready_seconds=4,
            answer_seconds=4,
            drain_seconds=3,
        )
        self.commands = replace(SERVING, server=fake_server)

    def release(self, name: str, behaviour: str = "good", engine: str = "openvino") -> Path:
        """An artifact of package_release, whose server behaves as told."""
        directory = self.root / name / "release"
        directory.mkdir(parents=True)
        (directory / "behaviour.txt").write_text(behaviour)
        (directory / "weights").write_text(name)
        (directory / "golden.json").write_text(json.dumps(GOLDEN))
        form = ServingForm(engine=engine, precision="q8_0" if engine == "openvino" else "f32")
        release = Release(
            serving=form,
            base=Origin(source="scratch", digest="sha256:base"),
            data_digest="sha256:data",
            context_length=64,
            end_token_ids=[0],
            files=payload_files(directory),
        )
        (directory / "release.json").write_bytes(release.canonical())
        return directory.parent

    def digest(self, artifact: Path) -> str:
        return deliver.read_release(artifact / "release").digest

    def verdict(self, artifact: Path, champion: str | None, /, **changes) -> tuple[Path, Path]:
        """The artifacts of resolve_champion and of the gate that let a release pass against a champion."""
        found, decision = self.root / "champion", self.root / "decision"
        found.mkdir(exist_ok=True)
        decision.mkdir(exist_ok=True)
        (found / "champion.json").write_text(json.dumps({"digest": champion, "service": "chat"}))
        verdict = {"verdict": "pass", "reason": "better", "challenger": self.digest(artifact), "champion": champion}
        (decision / "verdict.json").write_text(json.dumps(verdict | changes))
        return found, decision

    def live(self) -> str | None:
        return deliver.live(self.store, self.config)

    def roll(self, artifact: Path, expected: str | None = "as it is"):
        """A rollout that the gate let pass against what is live (or against `expected`)."""
        champion = self.live() if expected == "as it is" else expected
        return deliver.deliver(
            self.run, self.config, artifact, *self.verdict(artifact, champion), commands=self.commands
        )

    def target(self, **changes) -> LocalTarget:
        return LocalTarget(self.store, self.config.model_copy(update=changes), commands=self.commands)

    def running(self) -> set[str]:
        """Digests whose servers run."""
        return {digest for digest, server in self.target().state().servers.items() if process_id(server)}

    def processes(self) -> int:
        """How many servers of this store's releases the machine runs, noted or not."""
        lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        return sum(any(word.startswith(str(self.store.releases)) for word in line) for line in lines)

    def settled_on(self, digest: str) -> None:
        """Exactly this release is live, answers, and nothing else runs."""
        seen = self.target().observe()
        assert seen.live == digest and seen.stable is not None and seen.stable.state == "ready"
        assert seen.in_force and dict(seen.routed) == {digest: 100}
        assert seen.candidate is None and seen.retired == ()
        assert self.running() == {digest} and self.processes() == 1


def stopped(place: Place) -> None:
    if service_names(place.store):
        deliver.down(place.store)
    assert place.processes() == 0


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    stopped(place)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A place with short deadlines where one good release is live: (place, its artifact)."""
    place = Place(tmp_path_factory.mktemp("served"))
    place.config = place.config.model_copy(update={"ready_seconds": 3, "answer_seconds": 3, "drain_seconds": 1})
    good = place.release("good")
    place.roll(good)
    yield place, good
    stopped(place)
