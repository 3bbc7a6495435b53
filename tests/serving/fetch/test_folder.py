"""A mounted volume as source."""

import os

import pytest

from serving.fetch.source import SourceError
from serving.release import ReleaseError
from tests.serving.fetch.places import publish


def test_a_symbolic_link_is_refused_by_name(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    (source / "exactly-one-range.bin").rename(tmp_path / "elsewhere")
    (source / "exactly-one-range.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError, match=r"exactly-one-range\.bin is a symbolic link"):
        fetched(source, tmp_path / "here")


def test_a_linked_folder_is_refused_by_name(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    (source / "tokenizer").rename(tmp_path / "elsewhere")
    (source / "tokenizer").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError, match="tokenizer is a symbolic link"):
        fetched(source, tmp_path / "here")


def test_a_linked_manifest_is_refused(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    (source / "release.json").rename(tmp_path / "release.json")
    (source / "release.json").symlink_to(tmp_path / "release.json")
    with pytest.raises(SourceError, match=r"release\.json cannot be read"):
        fetched(source, tmp_path / "here")


def test_a_pipe_is_refused_by_name(tmp_path, files, fetched):
    source = publish(tmp_path / "releases", files)
    os.mkfifo(source / "waits-for-ever")
    with pytest.raises(ReleaseError, match="waits-for-ever is no plain file"):
        fetched(source, tmp_path / "here")
