from __future__ import annotations

import json
from pathlib import Path

import pytest

from ci import layout
from ci.commands import CiError
from tests.workflows import layouts


def test_digests_are_those_of_the_bytes(tmp_path: Path):
    written = layouts.write(tmp_path)
    assert layout.digests(tmp_path) == written
    layout.check(tmp_path, written)


def test_a_manifest_that_was_changed_is_noticed(tmp_path: Path):
    written = layouts.write(tmp_path)
    manifest = tmp_path / "blobs/sha256" / written["serving"].removeprefix("sha256:")
    manifest.write_bytes(manifest.read_bytes().replace(b"layers", b"Layers"))
    with pytest.raises(CiError, match="changed after it was written"):
        layout.digests(tmp_path)


@pytest.mark.parametrize("change", ["another", "more", "fewer"])
def test_other_images_than_were_tried_are_refused(tmp_path: Path, change: str):
    written = layouts.write(tmp_path)
    expected = {
        "another": {**written, "serving": written["components"]},
        "more": {name: digest for name, digest in written.items() if name != "serving"},
        "fewer": {**written, "fourth": written["serving"]},
    }[change]
    with pytest.raises(CiError, match="nothing is pushed"):
        layout.check(tmp_path, expected)


def test_one_image_alone(tmp_path: Path):
    written = layouts.write(tmp_path / "all")
    alone = layout.single(tmp_path / "all", "components", tmp_path / "one")
    assert layout.digests(alone) == {"components": written["components"]}
    assert len(list((alone / "blobs/sha256").iterdir())) == 3  # manifest, configuration, layer
    assert layout.single(tmp_path / "all", "serving", tmp_path / "one") and "serving" in layout.digests(alone)


def test_a_folder_without_a_layout_says_how_one_is_made(tmp_path: Path):
    with pytest.raises(CiError, match="make release-export"):
        layout.digests(tmp_path)


def test_a_digest_cannot_lead_out_of_the_layout(tmp_path: Path):
    layouts.write(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    index["manifests"][0]["digest"] = "sha256:../../../../etc/passwd"
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(CiError, match="is no digest"):
        layout.digests(tmp_path)
