"""Buckets, as the steps read them and the rollout writes to them."""

from __future__ import annotations

import json

import pytest

from components.fetch_base import fetch
from components.fetch_base.config import BaseConfig
from components.prepare_data.readers import find_sources, read_rows
from components.step_config import InputError
from tests.components.bucket_server import bucket_server

ROW = {"prompt": "How?", "completion": "So."}


@pytest.fixture(params=["gs", "s3"])
def bucket(request, monkeypatch):
    """(address of a bucket, its objects) in either cloud."""
    with bucket_server() as (address, objects):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
        yield f"{request.param}://mine", objects


def test_data_is_read_from_a_bucket(bucket):
    url, objects = bucket
    for name in ("a", "b"):
        objects[f"mine/data/{name}.jsonl"] = json.dumps(ROW).encode() + b"\n"
    objects["mine/data/readme.txt"] = b"no data"
    (one,) = find_sources([f"{url}/data/a.jsonl"])
    assert [row.value for row in read_rows(one)] == [ROW]
    assert one.version, "its ETag tells one content from the next"
    assert [found.location for found in find_sources([f"{url}/data/*.jsonl"])] == [
        f"{url}/data/a.jsonl",
        f"{url}/data/b.jsonl",
    ]


def test_what_is_not_in_a_bucket_is_refused(bucket):
    with pytest.raises(InputError, match=r"/none\.jsonl does not exist"):
        find_sources([f"{bucket[0]}/none.jsonl"])


def test_a_bucket_that_cannot_be_reached_is_refused_in_one_line(bucket, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "nowhere://127.0.0.1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere://127.0.0.1")
    with pytest.raises(InputError, match=r"a\.jsonl cannot be reached: ") as refused:
        find_sources([f"{bucket[0]}/a.jsonl"])
    assert "\n" not in str(refused.value)


def test_a_base_is_fetched_from_a_bucket_and_another_content_is_another_base(bucket, tmp_path):
    url, objects = bucket
    objects |= {"mine/tiny/config.json": b"{}", "mine/tiny/model.safetensors": b"weights", "mine/other": b"other"}
    fetch._from_folder(f"{url}/tiny", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "config.json": b"{}",
        "model.safetensors": b"weights",
    }
    before = fetch.source_identity(BaseConfig(source=f"{url}/tiny"), tmp_path)
    objects["mine/tiny/model.safetensors"] = b"weighty"
    assert fetch.source_identity(BaseConfig(source=f"{url}/tiny"), tmp_path) != before
    with pytest.raises(InputError, match="/none does not exist"):
        fetch._from_folder(f"{url}/none", tmp_path)
