"""Releases where the cluster can fetch them."""

from __future__ import annotations

import pytest

from components.rollout.kserve.objects import release_uri
from components.rollout.kserve.publish import fetch_small, publish
from components.rollout.target import TargetError
from serving.release import verify_release
from tests.components.bucket_server import bucket_server


@pytest.fixture
def release(place):
    return place.release("one")


@pytest.fixture
def published(place, release):
    """Where the release lies once it is published."""
    return place.root / "published" / release[0].removeprefix("sha256:")


def test_a_release_is_published_whole(place, release, published):
    digest, directory = release
    assert publish(directory, place.config.kserve.releases, digest)[-1] == "release.json"
    assert verify_release(published).digest == digest


def test_what_is_there_is_not_uploaded_again(place, release, published):
    digest, directory = release
    publish(directory, place.config.kserve.releases, digest)
    assert publish(directory, place.config.kserve.releases, digest) == []
    (published / "part" / "more").write_text("half")
    assert publish(directory, place.config.kserve.releases, digest) == ["part/more"]
    assert verify_release(published).digest == digest


def test_the_manifest_is_what_is_written_last(place, release, published, monkeypatch):
    digest, directory = release
    from components.rollout.kserve import publish as module

    put = module._Folder.put

    def dies(self, path, name):
        if name == "weights":
            raise OSError("no space")
        put(self, path, name)

    monkeypatch.setattr(module._Folder, "put", dies)
    with pytest.raises(TargetError, match=rf"{digest[7:]} cannot be used: OSError: no space"):
        publish(directory, place.config.kserve.releases, digest)
    assert not (published / "release.json").exists()
    monkeypatch.undo()
    assert "weights" in publish(directory, place.config.kserve.releases, digest)
    assert verify_release(published).digest == digest


def test_the_checks_need_the_manifest_and_the_golden_answers_only(place, release):
    digest, directory = release
    publish(directory, place.config.kserve.releases, digest)
    small = fetch_small(place.config.kserve.releases, digest, place.root / "small")
    assert {path.name for path in small.iterdir()} == {"release.json", "golden.json"}
    assert publish(small, place.config.kserve.releases, digest) == []  # it is complete there


def test_what_is_nowhere_whole_cannot_be_published(place, release, published):
    digest, directory = release
    publish(directory, place.config.kserve.releases, digest)
    small = fetch_small(place.config.kserve.releases, digest, place.root / "small")
    (published / "weights").unlink()
    with pytest.raises(TargetError, match=r"is not complete \(weights is missing\)"):
        publish(small, place.config.kserve.releases, digest)


def test_a_release_that_was_not_published_is_not_fetched(place, release):
    with pytest.raises(TargetError, match=r"has no release.json: it was not published"):
        fetch_small(place.config.kserve.releases, release[0], place.root / "small")


def test_damaged_golden_answers_are_refused(place, release, published):
    digest, directory = release
    publish(directory, place.config.kserve.releases, digest)
    (published / "golden.json").write_text("[1]")
    with pytest.raises(TargetError, match=r"golden.json is damaged; publish sha256"):
        fetch_small(place.config.kserve.releases, digest, place.root / "small")


def test_another_release_is_not_published_under_this_name(place, release):
    with pytest.raises(TargetError, match="not sha256:0"):
        publish(release[1], place.config.kserve.releases, "sha256:" + "0" * 64)


def test_the_last_part_of_the_address_is_the_digest():
    assert release_uri("gs://b/releases", "sha256:" + "1" * 64) == "gs://b/releases/" + "1" * 64


def test_a_release_is_published_to_s3_and_read_from_there(place, release, monkeypatch):
    digest, directory = release
    with bucket_server() as (address, objects):
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "eu-west-3",
        }.items():
            monkeypatch.setenv(name, value)
        assert publish(directory, "s3://mine/releases", digest)[-1] == "release.json"
        assert objects[f"mine/releases/{digest[7:]}/part/more"] == (directory / "part/more").read_bytes()
        assert publish(directory, "s3://mine/releases", digest) == []
        small = fetch_small("s3://mine/releases", digest, place.root / "small")
    assert {path.name for path in small.iterdir()} == {"release.json", "golden.json"}
