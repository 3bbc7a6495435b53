"""Buckets as source: the real Cloud Storage emulator, and a hand-written S3-like store."""

from __future__ import annotations

import pytest

from serving.fetch.source import SourceError
from serving.release import ReleaseError, verify_release
from tests.serving.fetch.conftest import run
from tests.serving.fetch.places import MIB, Behaviour, FileServer, flip_bit, noise, publish


def test_a_release_arrives_from_cloud_storage(tmp_path, files, fetched, emulator):
    source = publish(tmp_path / "releases", files)
    fetched(emulator.upload(source), tmp_path / "here", gcs_emulator=emulator.url)
    assert verify_release(tmp_path / "here").digest == f"sha256:{source.name}"


def test_the_variable_of_the_cloud_libraries_names_the_emulator(tmp_path, files, emulator):
    source = publish(tmp_path / "releases", files)
    without_scheme = {"STORAGE_EMULATOR_HOST": emulator.url.removeprefix("http://")}
    ended = run(emulator.upload(source) + "/", tmp_path / "here", without_scheme)
    assert ended.code == 0, ended.error


def test_cloud_storage_missing_extra_and_flipped_are_refused_by_name(tmp_path, files, fetched, emulator):
    def refused(source, words):
        with pytest.raises(ReleaseError, match=words):
            fetched(emulator.upload(source), tmp_path / source.name, gcs_emulator=emulator.url)

    files = files | {"of-this-test": b"1"}
    source = publish(tmp_path / "releases", files)
    flip_bit(source / "model.gguf", 2 * MIB)
    refused(source, r"model\.gguf has sha256")
    source = publish(tmp_path / "releases", files | {"of-this-test": b"2"})
    (source / "model.gguf").unlink()
    refused(source, r"^model\.gguf is missing")
    source = publish(tmp_path / "releases", files | {"of-this-test": b"3"})
    emulator.put(f"models/{source.name}/tokenizer/added.py", b"import os")
    refused(source, r"^tokenizer/added\.py is not part of the release")
    source = publish(tmp_path / "releases", files | {"of-this-test": b"4"})
    renamed = source.rename(source.with_name("b" * 64))
    refused(renamed, rf"digest sha256:{source.name}, not sha256:{'b' * 64}")


def test_a_neighbour_with_the_same_beginning_is_no_part_of_the_release(tmp_path, files, fetched, emulator):
    source = publish(tmp_path / "releases", files | {"neighbours": b"1"})
    uri = emulator.upload(source)
    emulator.put(f"models/{source.name}-scores.json", b"{}")
    fetched(uri, tmp_path / "here", gcs_emulator=emulator.url)


def test_an_empty_place_in_cloud_storage(tmp_path, emulator):
    ended = run(f"gs://{emulator.bucket}/{'c' * 64}", tmp_path / "here", {"STORAGE_EMULATOR_HOST": emulator.url})
    assert (ended.code, "has no release.json" in ended.error) == (1, True), ended.error


@pytest.fixture
def s3(tmp_path, files, monkeypatch):
    """A signed S3-like store with one release in it, and the release's URI."""
    source = publish(tmp_path / "bucket/models", files)
    with FileServer(tmp_path, Behaviour(), s3_key="AKIDEXAMPLE") as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "eu-west-3",
        }.items():
            monkeypatch.setenv(name, value)
        yield server, source, f"s3://bucket/models/{source.name}"


def test_a_release_arrives_from_s3(tmp_path, fetched, s3):
    server, source, uri = s3
    fetched(uri, tmp_path / "here", s3_endpoint=server.url)
    assert verify_release(tmp_path / "here").digest == f"sha256:{source.name}"


def test_s3_refusals_that_pass_and_cut_streams_are_asked_again(tmp_path, fetched, s3):
    server, _, uri = s3
    server.behaviour.statuses = {"model.gguf": [429, 503], "release.json": [500]}
    server.behaviour.truncated = {"model.gguf": [7], "exactly-one-range.bin": [70_000, 0]}
    events = fetched(uri, tmp_path / "here", s3_endpoint=server.url)
    assert sum(event["event"] == "retry" for event in events) == 6
    verify_release(tmp_path / "here")


def test_s3_extra_and_flipped_are_refused_by_name(tmp_path, fetched, s3):
    server, source, uri = s3
    flip_bit(source / "model.gguf", 2 * MIB)
    with pytest.raises(ReleaseError, match=r"model\.gguf has sha256"):
        fetched(uri, tmp_path / "here", s3_endpoint=server.url)
    (source / "added.py").write_bytes(noise(3))
    with pytest.raises(ReleaseError, match=r"^added\.py is not part of the release"):
        fetched(uri, tmp_path / "there", s3_endpoint=server.url)


def test_s3_that_ignores_ranges_is_told_and_not_believed(tmp_path, fetched, s3):
    """Every store has ranges; something in between that has none must not end in a wrong file."""
    server, _, uri = s3
    server.behaviour.ignores_ranges = True
    with pytest.raises(SourceError, match="range"):
        fetched(uri, tmp_path / "here", s3_endpoint=server.url)


def test_a_wrong_key_is_told_at_once(tmp_path, s3, monkeypatch):
    _, _, uri = s3
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
    ended = run(uri, tmp_path / "here")
    assert (ended.code, "access refused" in ended.error, ended.told("retry")) == (3, True, []), ended.error


def test_a_key_file_that_is_not_there_is_told(tmp_path):
    variables = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json")}
    ended = run(f"gs://bucket/{'a' * 64}", tmp_path / "here", variables)
    assert (ended.code, "none.json" in ended.error) == (3, True), ended.error
