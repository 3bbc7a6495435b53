"""The images of one release as files: an OCI image layout, which is built once, and scanned and pushed as it is.

The steps' two images share their 5 GB of packages in it. An image's digest is known before any registry has seen it,
so the jobs that try, scan and push can each say that they had the same image before them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ci.commands import CiError

NAME = "org.opencontainers.image.ref.name"
"""Annotation by which an image is found in a layout (OCI image specification, annotations)."""


def digests(folder: Path) -> dict[str, str]:
    """Name -> digest of each image. Raises CiError where a manifest's bytes are not those of its digest."""
    found: dict[str, str] = {}
    for entry in _index(folder)["manifests"]:
        digest = entry["digest"]
        if "sha256:" + hashlib.sha256(_blob(folder, digest).read_bytes()).hexdigest() != digest:
            raise CiError(f"{folder}: {digest} was changed after it was written")
        found[entry["annotations"][NAME]] = digest
    return dict(sorted(found.items()))


def check(folder: Path, expected: dict[str, str]) -> None:
    """Raises CiError unless the layout holds these images and no others."""
    found = digests(folder)
    if found != expected:
        raise CiError(f"{folder} holds {found}, and {expected} was built and tried; nothing is pushed")


def single(folder: Path, name: str, place: Path) -> Path:
    """A layout with one of the images alone, for tools that look at no other; the blobs are links."""
    entry = next(one for one in _index(folder)["manifests"] if one["annotations"][NAME] == name)
    shutil.rmtree(place, ignore_errors=True)
    (place / "blobs/sha256").mkdir(parents=True)
    manifest = json.loads(_blob(folder, entry["digest"]).read_bytes())
    for digest in [entry["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]:
        link = _blob(place, digest)
        if not link.exists():
            os.link(_blob(folder, digest), link)
    shutil.copyfile(folder / "oci-layout", place / "oci-layout")
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return place


def config_digest(folder: Path, name: str) -> str:
    """Of an image's configuration, by which the engine that built it knows it."""
    return json.loads(_blob(folder, digests(folder)[name]).read_bytes())["config"]["digest"]


def _index(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "index.json").read_text())
    except (OSError, ValueError) as error:
        raise CiError(f"{folder} is no OCI layout ({error}); `make release-export` writes one") from error


def _blob(folder: Path, digest: str) -> Path:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise CiError(f"{folder}: {digest!r} is no digest")
    return folder / "blobs/sha256" / digest.removeprefix("sha256:")
