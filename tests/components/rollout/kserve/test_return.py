"""`slipway rollout back`: a release returns as it was, to where the service is met now."""

from __future__ import annotations

import json

import pytest

from components.rollout import deliver
from components.rollout.kserve.objects import WentLive
from serving.release import ServingForm
from tests.components.rollout.kserve.test_janitor import first_live
from tests.components.rollout.kserve.test_kill import bring

IMAGE = f"registry.example/serving@sha256:{'0' * 64}"


@pytest.fixture
def releases(place):
    """`one` was live on a processor, `two` is on a GPU and at another address."""
    place.releases = {name: place.release(name) for name in ("one", "two")}
    first_live(place, place.releases["one"])
    one, two = place.releases["one"], place.releases["two"]
    place.first, place.made = place.config, predictor(place, one)
    changes = {"gpus": 1, "image": IMAGE, "memory": "9Gi", "replicas": 2, "hostname": "new.example", "route_seconds": 3}
    kserve = place.config.kserve.model_copy(update=changes)
    serving = ServingForm(engine="vllm", precision="bf16")
    place.config = place.config.model_copy(update={"serving": serving, "kserve": kserve, "strategy": "replace"})
    bring(place, two, one[0], place.cluster())
    return one, two


def predictor(place, release):
    return place.api.one("inferenceservices", f"chat-{release[0][7:17]}")["spec"]["predictor"]


def test_a_release_returns_with_its_own_settings(place, store, releases):
    one, two = releases
    record = deliver.back(store, asked=place.config)
    assert record["digest"] == one[0] and record["url"].startswith("http://new.example:")
    assert place.target().live() == one[0]
    assert predictor(place, one) == place.made
    there = {"hostname": "new.example", "route_seconds": 3}
    kept = place.first.model_copy(update={"kserve": place.first.kserve.model_copy(update=there)})
    assert place.target().settings(one[0]) == kept
    on_gpu = place.config
    assert place.target().settings(two[0]) == on_gpu
    deliver.back(store, asked=place.first)  # and forth
    assert predictor(place, two)["containers"][0]["image"] == IMAGE
    assert [sorted(entry) for entry in place.target().history()] == [["digest", "run_id", "since"]] * 4


def test_a_release_whose_settings_were_not_noted_returns_by_the_present_ones(place, store, releases):
    """Slipway before this noted none in the history."""
    one, _ = releases
    route = place.api.one("httproutes", "chat")
    history = json.loads(route["metadata"]["annotations"]["slipway.dev/history"])
    for entry in history:
        del entry["config"]
    route["metadata"]["annotations"]["slipway.dev/history"] = json.dumps(history)
    place.api.put("httproutes", route)
    deliver.back(store, asked=place.config)
    assert predictor(place, one)["containers"][0]["image"] == IMAGE


def test_a_release_that_is_started_again_keeps_its_settings(place, store, releases):
    _, two = releases
    before = predictor(place, two)
    place.world._end(f"chat-{two[0][7:17]}")
    deliver.back(store, two[0], asked=place.first)
    assert predictor(place, two) == before


def test_the_history_of_twenty_fits_into_annotations(place, releases):
    """Kubernetes takes 256 KiB of annotations on an object."""
    target = place.target()
    with target.hold():
        for number in range(25):
            target._change(lambda record, number=number: record.replaced_by(_entry(number), record.config))
    noted = place.annotations()
    assert len(json.loads(noted["slipway.dev/history"])) == 20
    assert sum(len(key) + len(value) for key, value in noted.items()) < 100_000


def _entry(number):
    return WentLive(f"sha256:{number:064}", "2026-01-01T00:00:00Z", "run")
