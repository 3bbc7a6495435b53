"""A cluster in memory with one service, and releases that can be published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.rollout.config import KServeConfig, RolloutConfig
from components.rollout.kserve.client import Cluster
from components.rollout.kserve.target import KServeTarget
from components.rollout.target import Origin
from components.step_config import RunSettings
from components.store import Store
from serving.release import Origin as Base
from serving.release import Release, ServingForm, payload_files
from tests.components.rollout.kserve.fake_api import NAMESPACE, FakeApi, World, running

GOLDEN = {"messages": [], "prompt_token_ids": [1], "token_ids": [2], "gaps": [1.0]}
"""What servers of the fake cluster answer."""


class Place:
    """A fake cluster, and what a test does to it."""

    def __init__(self, root: Path, api: FakeApi, world: World, kubeconfig: Path):
        self.root, self.api, self.world, self.kubeconfig = root, api, world, kubeconfig
        self.config = RolloutConfig(
            target="kserve",
            service="chat",
            stages=[50, 100],
            min_requests=2,
            ready_seconds=3,
            answer_seconds=4,
            drain_seconds=3,
            kserve=KServeConfig(
                namespace=NAMESPACE, releases=(root / "published").as_uri(), grace_seconds=9, route_seconds=2
            ),
        )

    def cluster(self, api_seconds: float = 2) -> Cluster:
        return Cluster.connect(NAMESPACE, api_seconds)

    def target(self, run: str = "test", **changes) -> KServeTarget:
        kserve = self.config.kserve.model_copy(update=changes.pop("kserve", {}))
        config = self.config.model_copy(update={**changes, "kserve": kserve})
        origin = Origin(run, f"{run}-1", "c0ffee", "sha256:data")
        return KServeTarget(config, origin=origin, cluster=self.cluster())

    def release(self, name: str) -> tuple[str, Path]:
        """Digest and directory of a release."""
        directory = self.root / name
        (directory / "part").mkdir(parents=True)
        (directory / "weights").write_text(name)
        (directory / "part" / "more").write_text(name * 2)
        (directory / "golden.json").write_text(json.dumps([GOLDEN]))
        release = Release(
            serving=ServingForm(),
            base=Base(source="scratch", digest="sha256:base"),
            data_digest="sha256:data",
            context_length=64,
            end_token_ids=[0],
            files=payload_files(directory),
        )
        (directory / "release.json").write_bytes(release.canonical())
        return release.digest, directory

    def names(self) -> set[str]:
        """InferenceServices that are there."""
        return {one["metadata"]["name"] for one in self.api.all("inferenceservices")}

    def annotations(self) -> dict[str, str]:
        """Of the route."""
        route = self.api.one("httproutes", "chat")
        return route["metadata"]["annotations"] if route else {}


@pytest.fixture
def store(tmp_path):
    """Of who was not there when a release was made: a janitor, a person at another machine."""
    return Store(RunSettings(name="elsewhere", store=str(tmp_path / "store")))


@pytest.fixture
def place(tmp_path, monkeypatch):
    with running() as (api, world):
        kubeconfig = tmp_path / "kubeconfig"
        cluster = {"name": "fake", "cluster": {"server": api.url}}
        user = {"name": "tester", "user": {"token": "secret"}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "tester"}}
        kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [cluster],
                    "users": [user],
                    "contexts": [context],
                    "current-context": "fake",
                }
            )
        )
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield Place(tmp_path, api, world, kubeconfig)


@pytest.fixture
def one(place):
    return place.release("one")


@pytest.fixture
def two(place):
    return place.release("two")
