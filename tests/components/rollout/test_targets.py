"""Which target is meant, and where its releases are."""

from __future__ import annotations

import json

import pytest

from components.rollout import deliver, local
from components.rollout.config import KServeConfig, RolloutConfig
from components.rollout.kserve.publish import publish
from components.rollout.local import LocalTarget
from components.rollout.target import TargetError
from components.rollout.targets import configuration, open_target, release_of, whole_release
from components.step_config import InputError
from serving.release import ReleaseError, verify_release


@pytest.fixture
def published(place):
    """A place whose service is on a cluster, and a release that was published but is not in the store."""
    releases = f"file://{place.root / 'published'}"
    place.config = RolloutConfig(target="kserve", service="chat", kserve=KServeConfig(releases=releases))
    release = place.release("first") / "release"
    digest = place.digest(release.parent)
    publish(release, releases, digest)
    return place, digest


def test_the_local_target_is_the_default(place):
    assert isinstance(open_target(place.store, place.config), LocalTarget)


@pytest.mark.parametrize("call", [open_target, configuration, deliver.live, deliver.refuse_early])
def test_without_a_cluster_the_kserve_target_says_what_is_missing(published, monkeypatch, call):
    place, _ = published
    monkeypatch.setenv("KUBECONFIG", str(place.root / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(TargetError, match="KUBECONFIG"):
        call(place.store, place.config)


def test_a_release_of_the_store_is_not_fetched(place):
    artifact = place.release("first")
    digest = place.digest(artifact)
    kept = deliver.adopt(place.store, artifact / "release", digest)
    elsewhere = RolloutConfig(target="kserve", kserve=KServeConfig(releases="file:///nowhere"))
    assert release_of(place.store, elsewhere, digest) == whole_release(place.store, elsewhere, digest) == kept


def test_of_a_published_release_the_checks_get_what_they_need(published):
    place, digest = published
    directory = deliver.verify(place.store, digest, place.config)
    assert deliver.read_release(directory).digest == digest and (directory / "golden.json").is_file()
    assert not (directory / "weights").exists() and not place.store.release(digest).exists()


def test_a_release_that_was_never_published_is_refused(published):
    place, _ = published
    with pytest.raises(TargetError, match=r"release\.json"):
        release_of(place.store, place.config, f"sha256:{'0' * 64}")


def test_what_is_live_on_a_cluster_is_fetched_whole_into_the_store(published):
    place, digest = published
    directory = deliver.require_whole(place.store, digest, place.config)
    assert directory == place.store.release(digest)
    assert verify_release(directory).digest == digest
    assert not any((place.store.root / "fetched").iterdir())


def test_what_was_damaged_where_it_is_published_does_not_enter_the_store(published):
    place, digest = published
    (place.root / "published" / digest.removeprefix("sha256:") / "weights").write_text("other")
    with pytest.raises((TargetError, ReleaseError), match="weights"):
        deliver.require_whole(place.store, digest, place.config)
    assert not place.store.release(digest).exists()


def test_down_does_not_end_what_a_cluster_serves(published):
    place, _ = published
    with pytest.raises(InputError, match=r"kubectl -n slipway-serving delete httproute,inferenceservice -l .*=chat"):
        deliver.down(place.store, place.config)


def test_the_local_configuration_is_the_last_one_used(place):
    place.roll(place.release("first"))
    assert configuration(place.store) == configuration(place.store, RolloutConfig(service="chat")) == place.config


def test_a_local_configuration_of_another_version_is_no_traceback(place):
    place.roll(place.release("first"))
    file = local.service_directory(place.store, "chat") / "state.json"
    written = file.read_text()
    state = json.loads(written)
    file.write_text(json.dumps(state | {"config": state["config"] | {"zone": "b"}}))
    with pytest.raises(TargetError, match=r"state\.json is not valid for this Slipway \(zone: .*use the version"):
        configuration(place.store)
    file.write_text(written)  # so that its server can be ended
