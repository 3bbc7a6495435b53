"""Tiny OCI layouts, so that tests of a release need no image."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ci.layout import NAME

NAMES = ("components", "components-cuda", "serving")


def blob(folder: Path, content: bytes) -> str:
    """Write one; its digest."""
    digest = hashlib.sha256(content).hexdigest()
    (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (folder / "blobs/sha256" / digest).write_bytes(content)
    return f"sha256:{digest}"


def write(folder: Path, names: tuple[str, ...] = NAMES) -> dict[str, str]:
    """A layout with these images; name -> digest. The steps' images share a layer."""
    entries = []
    for name in names:
        layer = blob(folder, b"layer of " + name.split("-")[0].encode())
        config = blob(folder, json.dumps({"config": {}, "of": name}).encode())
        manifest = {"schemaVersion": 2, "config": {"digest": config}, "layers": [{"digest": layer}]}
        digest = blob(folder, json.dumps(manifest).encode())
        entries.append({"digest": digest, "annotations": {NAME: name}})
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    return {entry["annotations"][NAME]: entry["digest"] for entry in entries}
