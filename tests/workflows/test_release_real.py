"""The same with a real buildah, skopeo and registry on this machine, on an image of one file."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci import layout, release
from ci.commands import CiError
from tests.cluster.place import Place
from tests.ports import free_port
from tests.workflows import tools

pytestmark = pytest.mark.slow


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of an empty registry."""
    binary = Place().cache / "bin/registry"
    if not binary.exists():
        pytest.skip(f"{binary} is not built: make cluster builds it")
    port = free_port()
    store = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    settings = {"version": 0.1, "storage": store, "http": {"addr": f"127.0.0.1:{port}"}}
    (tmp_path / "registry.yml").write_text(json.dumps(settings))
    log = (tmp_path / "registry.log").open("w")
    process = subprocess.Popen([binary, "serve", str(tmp_path / "registry.yml")], stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail(f"the registry does not answer: {(tmp_path / 'registry.log').read_text()}")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        log.close()


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The three images of a release, built from one file each; their digests."""
    buildah = tools.path("buildah")
    if os.geteuid() != 0:
        pytest.skip("buildah is run as root here, or inside `buildah unshare`")
    (tmp_path / "images").mkdir()
    for image in release.IMAGES:
        context = tmp_path / image.name
        context.mkdir()
        (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\nLABEL a=b\n")
        (context / "file").write_text(image.name)
        reference = f"localhost/slipway-test-{image.name}:{os.getpid()}"
        build = [buildah, "bud", "--isolation=chroot", f"--tag={reference}", str(context)]
        subprocess.run(build, check=True, capture_output=True)
        told = subprocess.run([buildah, "inspect", "--type=image", reference], check=True, capture_output=True).stdout
        found = {
            "reference": reference,
            "identity": "sha256:" + json.loads(told)["FromImageID"],
            "repository": image.repository,
            "flavour": image.suffix,
            "base": "none",
            "pinned": True,
            "megabytes": 1,
            "engine": "buildah",
        }
        (tmp_path / f"images/{image.name}.json").write_text(json.dumps(found))
    monkeypatch.setattr(release, "BUILT", tmp_path / "images")
    monkeypatch.setattr(release, "LAYOUT", tmp_path / "layout")
    monkeypatch.setattr(release, "WRITTEN", tmp_path / "release/images.env")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    try:
        release.export()
    finally:
        for image in release.IMAGES:
            subprocess.run([buildah, "rmi", f"localhost/slipway-test-{image.name}:{os.getpid()}"], capture_output=True)
    return layout.digests(tmp_path / "layout")


def test_what_was_built_is_what_the_registry_gets(
    exported: dict[str, str], registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tools.path("skopeo")
    monkeypatch.setenv("DIGESTS", json.dumps(exported))
    monkeypatch.setenv("SLIPWAY_REGISTRY", f"{registry}/slipway")
    monkeypatch.setenv("REGISTRY_TOKEN", "anything")
    monkeypatch.setenv("GITHUB_SHA", "a" * 40)
    release.push()
    told = release.references()
    assert told["SLIPWAY_IMAGE_SERVING"] == f"{registry}/slipway/slipway-serving@{exported['serving']}"
    for tag in ("a" * 40, "a" * 12):
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        address = f"http://{registry}/v2/slipway/slipway-python/manifests/{tag}-cuda"
        with urllib.request.urlopen(urllib.request.Request(address, headers=accept), timeout=10) as reply:
            assert reply.headers["Docker-Content-Digest"] == exported["components-cuda"]
    release.push()  # again: everything is there


def test_another_build_of_the_same_commit_is_refused(
    exported: dict[str, str], registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    skopeo = tools.path("skopeo")
    target = f"docker://{registry}/slipway/slipway-serving:{'a' * 40}"
    source = f"oci:{tmp_path / 'layout'}:components"
    subprocess.run([skopeo, "copy", "--dest-tls-verify=false", source, target], check=True, capture_output=True)
    monkeypatch.setenv("DIGESTS", json.dumps(exported))
    monkeypatch.setenv("SLIPWAY_REGISTRY", f"{registry}/slipway")
    monkeypatch.setenv("REGISTRY_TOKEN", "anything")
    monkeypatch.setenv("GITHUB_SHA", "a" * 40)
    with pytest.raises(CiError, match="given once"):
        release.push()
