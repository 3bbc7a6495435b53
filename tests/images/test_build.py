"""Which base is built upon, what is refused, and what is told of what was built."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from images import __main__ as command
from images import base, build, catalogue, lock, sizes
from images.build import Built
from images.engine import Buildah, Docker, Order
from images.errors import ImageError
from tests.images import test_look

PINNED = "docker.io/library/python@sha256:" + "a" * 64
LOCKED = "- name: python\n  image: docker.io/library/python:3.11\n  used_by: tests\n  digest: {}\n"


class FakeEngine(Buildah):
    """Builds nothing and remembers what it was asked for."""

    def __init__(self, folder: Path):
        super().__init__(folder / "logs")
        self.folder, self.orders, self.kept, self.forgotten = folder, [], {base.DEBIAN_REFERENCE}, []
        self.settings: dict[str, Any] = test_look.CONFIG

    def build(self, order: Order) -> None:
        self.orders.append(order)
        self.kept.add(order.reference)

    def has(self, reference: str) -> bool:
        return reference in self.kept

    def config(self, reference: str) -> dict[str, Any]:
        return self.settings

    def identity(self, reference: str) -> str:
        return "sha256:" + "b" * 64

    @contextmanager
    def root(self, reference: str) -> Iterator[Path]:
        (self.folder / "root").mkdir(exist_ok=True)
        yield self.folder / "root"

    def forget(self, repository: str, keep: str) -> None:
        self.forgotten.append((repository, keep))

    def push(self, reference: str, repository: str, tags: Sequence[str], *, plain_http: bool = False) -> str:
        raise AssertionError

    def storage(self) -> str:
        return str(self.folder)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.delenv("BASE_IMAGE", raising=False)
    monkeypatch.setattr(build, "OUTPUT", tmp_path / "told")
    monkeypatch.setattr(build, "check_room", lambda image, engine: None)
    locked(tmp_path, monkeypatch, "null")
    return FakeEngine(tmp_path)


def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str) -> None:
    (tmp_path / "images.lock").write_text(LOCKED.format(digest))
    monkeypatch.setattr(lock, "FILE", tmp_path / "images.lock")


def test_what_the_lock_pins_is_built_upon(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    locked(tmp_path, monkeypatch, PINNED.partition("@")[2])
    assert base.choose(engine, pinned_only=True) == PINNED


def test_without_a_digest_debian_s_packages_are_built_upon(engine: FakeEngine):
    assert base.choose(engine) == base.DEBIAN_REFERENCE


def test_where_no_base_can_be_made_the_tag_is_built_upon_and_named(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    engine.kept.clear()
    monkeypatch.setattr(base.shutil, "which", lambda name: None)
    build.build(["serving"], engine)
    assert "the base docker.io/library/python:3.11 is not named by digest" in capsys.readouterr().err
    assert not Built.read("serving").pinned


def test_docker_makes_no_base(tmp_path: Path):
    assert not base.can_be_made(Docker(tmp_path))


def test_a_release_is_not_built_upon_what_no_digest_names(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ImageError, match=r"python:3\.11 has no digest in images\.lock: make pin"):
        base.choose(engine, pinned_only=True)
    monkeypatch.setenv("BASE_IMAGE", "docker.io/library/python:3.11")
    with pytest.raises(ImageError, match="is not named by digest"):
        base.choose(engine, pinned_only=True)


def test_an_image_is_built_in_two_stages_and_told(engine: FakeEngine, capsys: pytest.CaptureFixture[str]):
    (built,) = build.build(["serving"], engine)
    assert [order.target for order in engine.orders] == ["dependencies", "serving"]
    assert {order.arguments["BASE_IMAGE"] for order in engine.orders} == {base.DEBIAN_REFERENCE}
    assert engine.orders[0].arguments.keys() == {"BASE_IMAGE"}, "another commit would build the big layer again"
    assert engine.orders[1].arguments.keys() == {"BASE_IMAGE", "VERSION", "REVISION", "SOURCE"}
    assert built == Built.read("serving") and not built.pinned
    assert "is not named by digest: for this machine, not for a release" in capsys.readouterr().err
    build.build(["serving"], engine)
    assert [order.target for order in engine.orders[2:]] == ["serving"], "the packages are there already"


def test_flavours_of_the_steps_share_their_packages(engine: FakeEngine):
    build.build(["components", "components-cuda"], engine)
    assert [order.target for order in engine.orders] == ["dependencies", "cpu", "cuda"]
    assert engine.orders[1].reference in engine.kept and engine.orders[2].reference in engine.kept


def test_old_packages_go_before_new_ones_come(engine: FakeEngine):
    build.build(["components"], engine)
    gone = [repository for repository, keep in engine.forgotten if not keep]
    assert gone == [
        "localhost/slipway-python-cpu",
        "localhost/slipway-python-cuda",
        "localhost/slipway-python-dependencies",
    ]


def test_what_is_found_inside_fails_the_build(engine: FakeEngine):
    build.build(["serving"], engine)
    engine.settings = test_look.CONFIG | {"User": ""}
    test_look.write(engine.folder / "root", "usr/bin/gcc")
    with pytest.raises(ImageError, match=r"(?s)serving: runs as 'root'.*serving: holds /usr/bin/gcc"):
        build.build(["serving"], engine)
    with pytest.raises(ImageError, match="serving was not built here"):
        Built.read("serving")


def test_growth_fails_the_build(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sizes, "measure", lambda root: sizes.stated()["serving"] * 2)
    with pytest.raises(ImageError, match="serving: has grown from"):
        build.build(["serving"], engine)


def test_room_is_looked_for_before_gigabytes_are_fetched(tmp_path: Path):
    image = catalogue.Image("large", "large", "", "", (), free_gb=10**9)
    with pytest.raises(ImageError, match=r"GB are free where buildah keeps images .* up to 1000000000 GB"):
        build.check_room(image, FakeEngine(tmp_path))


def test_what_was_not_built_is_told():
    with pytest.raises(ImageError, match="nothing was not built here: make images IMAGES=nothing"):
        Built.read("nothing")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "serving", "--pinned"], "has no digest in images.lock"),
        (["build", "servnig"], "no image servnig: serving, components, components-cuda, release"),
        (["build", "release"], "which release? make images IMAGES=release RELEASE=DIRECTORY"),
        (["build", "--engine", "kaniko"], "ENGINE=kaniko: buildah or docker"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str],
    said: str,
    engine: FakeEngine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    if "--engine" not in arguments:
        monkeypatch.setattr(command.engines, "choose", lambda name, logs: engine)
    monkeypatch.setattr(command.os, "geteuid", lambda: 0)
    assert command.main(arguments) == 1
    assert said in capsys.readouterr().err


def test_pin_writes_what_it_learned_and_fails_for_what_it_did_not(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    lock.FILE.write_text(LOCKED.format("null") + LOCKED.format("null").replace("python", "other"))

    def look_up(image: str) -> str:
        if "other" in image:
            raise ImageError("docker.io does not answer")
        return PINNED.partition("@")[2]

    real = lock.pin
    monkeypatch.setattr(lock, "pin", lambda text: real(text, look_up))
    assert command.main(["pin"]) == 1
    assert lock.entry("python").pinned == PINNED and lock.entry("other").pinned is None
    assert "other: docker.io does not answer; stays unpinned" in capsys.readouterr().err


def test_what_is_told_can_be_read_by_others(engine: FakeEngine):
    (built,) = build.build(["components"], engine)
    told = json.loads(built.file.read_text())
    assert told["repository"] == "slipway-python" and told["flavour"] == "-cpu" and told["pinned"] is False
    assert told.keys() == {
        "name", "reference", "identity", "repository", "flavour", "base", "pinned", "megabytes", "engine",
    }  # fmt: skip
