"""An image with a release in it: refused before and while it is built, and it serves what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from images import build, catalogue, release
from images.build import Built
from images.engine import Buildah, Engine, Order
from images.errors import ImageError
from serving.release import Origin, Release, ServingForm, payload_files
from tests.images.conftest import ROOT, built, unavailable
from tests.images.test_build import FakeEngine
from tests.ports import free_port


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A release that can be verified, if not served; nobody but its owner may read it."""
    folder = tmp_path / "release"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(b"weights")
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    origin = Origin(source="scratch", digest="sha256:0")
    made = Release(
        serving=ServingForm(), base=origin, data_digest="sha256:1", context_length=8, end_token_ids=[0], files={}
    )
    made = made.model_copy(update={"files": payload_files(folder)})
    (folder / "release.json").write_bytes(made.canonical())
    for path in (folder / "model.gguf", folder / "release.json"):
        path.chmod(0o400)
    return folder


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine(tmp_path)
    engine.kept.add("localhost/slipway-serving:0")
    monkeypatch.setattr(build, "OUTPUT", tmp_path / "told")
    Built(
        "serving", "localhost/slipway-serving:0", "sha256:b", "slipway-serving", "", "base", False, 1, "buildah"
    ).write()
    return engine


def test_what_is_built_names_the_release_and_lets_the_server_read_it(directory: Path, fake: FakeEngine):
    seen: dict[str, int] = {}

    def looks(order: Order) -> None:
        seen.update({path.name: path.stat().st_mode & 0o777 for path in order.context.rglob("*")})
        fake.orders.append(order)

    fake.build = looks  # type: ignore[method-assign]
    told = release.build_release(directory, fake)
    (order,) = fake.orders
    digest = order.arguments["RELEASE_DIGEST"]
    assert told.reference == f"localhost/slipway-release:{digest.removeprefix('sha256:')[:16]}"
    assert order.arguments["SERVING_IMAGE"] == "localhost/slipway-serving:0"
    assert seen == {
        "release": 0o755,
        "tokenizer": 0o755,
        "tokenizer.json": 0o644,
        "model.gguf": 0o644,
        "release.json": 0o644,
    }
    assert not order.context.exists()


def test_a_release_that_was_changed_is_refused_at_once(directory: Path, fake: FakeEngine):
    (directory / "tokenizer/tokenizer.json").write_text("{ }")
    with pytest.raises(ImageError, match=r"RELEASE=.*tokenizer/tokenizer\.json has sha256"):
        release.build_release(directory, fake)
    assert fake.orders == []


def test_without_the_server_s_image_the_way_to_it_is_told(directory: Path, fake: FakeEngine):
    fake.kept.clear()
    with pytest.raises(ImageError, match="is not here any more: make images IMAGES=serving"):
        release.build_release(directory, fake)


def test_the_release_lies_where_terraform_s_readme_says():
    dockerfile = (ROOT / release.DOCKERFILE).read_text()
    assert f"COPY --chown=0:0 release {release.PLACE}\n" in dockerfile
    assert f'{{baked = "{release.PLACE}"}}' in (ROOT / "terraform/environments/cloudrun/README.md").read_text()


# --- for real, upon what `make images` has built


@pytest.fixture
def real(tmp_path: Path) -> Engine:
    _, engine = built("serving", tmp_path / "logs")
    if not isinstance(engine, Buildah):
        unavailable("these tests run containers with buildah, without a daemon")
    return engine


def order(context: Path, digest: str, reference: str) -> Order:
    arguments = {"SERVING_IMAGE": Built.read("serving").reference, "RELEASE_DIGEST": digest}
    return Order("release", release.DOCKERFILE, "", reference, arguments, context)


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        ("digest", "the release is sha256:"),
        ("file", "extra.txt is not part of the release"),
        ("mode", "Permission denied"),
    ],
)
def test_another_release_ends_the_build(directory: Path, real: Engine, tmp_path: Path, plant: str, said: str):
    context = tmp_path / "context"
    shutil.copytree(directory, context / "release")
    if plant != "mode":
        for path in (context / "release").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    if plant == "file":
        (context / "release/extra.txt").write_text("")
    digest = "sha256:" + "0" * 64
    with pytest.raises(ImageError, match=said):
        real.build(order(context, digest, "localhost/slipway-release:test-refused"))


@pytest.fixture
def served(tmp_path: Path, real: Engine) -> Iterator[tuple[str, str]]:
    """(address, digest) of a server in an image with the newest release of the smoke run in it."""
    releases = sorted((ROOT / ".slipway/smoke/releases").glob("*/release.json"), key=os.path.getmtime)
    if not releases:
        unavailable("there is no release to bake: make smoke")
    monkeypatch = pytest.MonkeyPatch()
    serving = Built.read("serving")
    monkeypatch.setattr(build, "OUTPUT", tmp_path / "told")
    serving.write()
    told = release.build_release(releases[-1].parent, real)
    monkeypatch.undo()
    container = subprocess.run(
        ["buildah", "from", "--pull-never", told.reference], capture_output=True, text=True, check=True
    ).stdout.strip()
    port = free_port()
    # as Cloud Run starts it: the port by PORT, the rest as terraform/environments/cloudrun says
    server = ["python", "-m", "serving", "--model", "smoke", "--release", release.PLACE]
    command = ["buildah", "run", "--isolation=chroot", f"--env=PORT={port}", "--env=HOST=127.0.0.1", container, "--"]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen([*command, *server], stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}", "sha256:" + releases[-1].parent.name
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        subprocess.run(["buildah", "rm", container], capture_output=True)
        subprocess.run(["buildah", "rmi", told.reference], capture_output=True)


@pytest.mark.slow
def test_the_image_serves_its_release_without_fetching(served: tuple[str, str]):
    address, digest = served
    deadline = time.monotonic() + 120
    while True:
        try:
            answer = httpx.get(f"{address}/health")
            if answer.status_code == 200:
                break
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, "the server does not listen"
        time.sleep(0.5)
    assert answer.headers["X-Slipway-Release"] == digest
    said = httpx.post(f"{address}/generate", json={"prompt": "heat", "max_tokens": 4}, timeout=60)
    assert said.status_code == 200, said.text
    assert json.loads(said.text)


def test_the_release_s_image_is_none_of_those_that_are_released():
    assert release.NAME not in catalogue.IMAGES
