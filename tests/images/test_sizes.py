"""Sizes are stated for every image, and one that has grown is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from images import catalogue, sizes


def test_every_image_has_a_stated_size():
    assert sizes.stated().keys() == catalogue.IMAGES.keys()


def test_files_count_once_and_links_not_at_all(tmp_path: Path):
    (tmp_path / "weights").write_bytes(b"0" * 3_000_000)
    os.link(tmp_path / "weights", tmp_path / "the same")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "weights")
    assert sizes.measure(tmp_path) == 3


@pytest.mark.parametrize("megabytes", [500, 1000, 1100])
def test_a_size_within_ten_percent_is_fine(megabytes: int):
    assert sizes.problems("serving", megabytes, {"serving": 1000}) == []


def test_an_image_that_has_grown_is_refused():
    (said,) = sizes.problems("serving", 1101, {"serving": 1000})
    assert "from 1000 to 1101 MB" in said and "write `serving: 1101` into images/sizes.yaml" in said


def test_an_image_of_unknown_size_is_refused():
    assert sizes.problems("other", 5, {}) == ["has 5 MB; write `other: 5` into images/sizes.yaml"]
