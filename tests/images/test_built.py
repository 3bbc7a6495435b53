"""What `make images` has built here, looked into once more; and that the look would see what is wrong."""

from __future__ import annotations

from pathlib import Path

from images import look, sizes
from images.catalogue import Image
from tests.images.conftest import built


def test_an_image_is_as_agreed_and_not_larger(image: Image, tmp_path: Path):
    told, engine = built(image.name, tmp_path)
    with engine.root(told.reference) as root:
        assert look.findings(root, engine.config(told.reference)) == []
        megabytes = sizes.measure(root)
    assert sizes.problems(image.name, megabytes) == []
    assert sizes.problems(image.name, megabytes, {image.name: int(megabytes / 1.2)}), "20 % more would be noticed"


def test_what_the_base_brings_would_be_seen(tmp_path: Path):
    """It runs as root, holds pip, and programs that give their owner's rights: all of it is gone from ours."""
    told, engine = built("serving", tmp_path)
    with engine.root(told.base) as root:
        found = "\n".join(look.findings(root, engine.config(told.base)))
    assert "runs as 'root'" in found and "holds pip" in found and "gives rights of its owner" in found
