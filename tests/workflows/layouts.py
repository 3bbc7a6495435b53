"""Tiny OCI layouts, so that tests of a release need no image."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from ci.layout import NAME

OCI = "application/vnd.oci.image"
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


def write_image(folder: Path, files: dict[str, str]) -> None:
    """A layout with one image that programs can read: path -> text of the files of its one layer."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    layer = blob(folder, tar.getvalue())
    described = {"os": "linux", "architecture": "amd64", "config": {}}
    config = blob(folder, json.dumps({**described, "rootfs": {"type": "layers", "diff_ids": [layer]}}).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": _named(folder, config, "config.v1+json"),
        "layers": [_named(folder, layer, "layer.v1.tar")],
    }
    entry = _named(folder, blob(folder, json.dumps(manifest).encode()), "manifest.v1+json")
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def _named(folder: Path, digest: str, kind: str) -> dict[str, str | int]:
    """A blob as a manifest or an index names it (OCI image specification, descriptor)."""
    size = (folder / "blobs/sha256" / digest.removeprefix("sha256:")).stat().st_size
    return {"mediaType": f"{OCI}.{kind}", "digest": digest, "size": size}
