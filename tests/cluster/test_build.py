"""What is built, what is taken from the cache, what an image archive holds."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from pathlib import Path

import pytest

from tests.cluster import build
from tests.cluster.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(state=tmp_path / "state", cache=tmp_path / "cache", run=tmp_path / "run", node_ip="10.1.2.3")


def test_the_module_names_each_program_that_is_built_from_it() -> None:
    tools = re.search(r"^tool \((.*?)^\)", (build.MODULES / "go.mod").read_text(), re.DOTALL | re.MULTILINE)
    assert tools
    from_module = {one.package for one in build.PROGRAMS if not one.version and not one.package.startswith("./")}
    assert set(tools[1].split()) == from_module


def test_the_versions_said_here_are_those_of_the_module() -> None:
    module = (build.MODULES / "go.mod").read_text()
    assert f"k8s.io/kubernetes {build.KUBERNETES} " in module
    assert f"github.com/kserve/kserve {build.KSERVE} " in module


def test_a_finished_program_is_not_built_again_until_its_sources_change(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def fake(place: Place, program: build.Program) -> None:
        compiled.append(program.name)
        (place.binaries / program.name).write_text("program")

    monkeypatch.setattr(build, "_compile", fake)
    monkeypatch.setattr(build, "_ASSETS", {})
    build.build(place, say=lambda _: None)
    assert compiled == [program.name for program in build.PROGRAMS]
    build.build(place, say=lambda _: None)
    assert len(compiled) == len(build.PROGRAMS)

    (place.binaries / "etcd").unlink()
    newer = [build.Program(one.name, one.package, "v9.9.9") if one.name == "kwok" else one for one in build.PROGRAMS]
    monkeypatch.setattr(build, "PROGRAMS", newer)
    assert [program.name for program in build.outdated(place)] == ["etcd", "kwok"]


def test_an_image_archive_holds_the_program_and_its_own_digest(tmp_path: Path) -> None:
    program = tmp_path / "hello"
    program.write_bytes(b"\x7fELF")
    build.write_image(tmp_path / "image.tar", "slipway.cluster/hello:1", program)
    with tarfile.open(tmp_path / "image.tar") as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]
    [manifest] = json.loads(content["manifest.json"])
    assert manifest["RepoTags"] == ["slipway.cluster/hello:1"]
    settings = json.loads(content[manifest["Config"]])
    layer = content[manifest["Layers"][0]]
    assert settings["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert settings["config"]["Entrypoint"] == ["/hello"]
    (tmp_path / "layer.tar").write_bytes(layer)
    with tarfile.open(tmp_path / "layer.tar") as inside:
        assert [(member.name, member.mode) for member in inside.getmembers()] == [("hello", 0o755)]


def test_of_kserve_s_installation_only_the_manager_s_part_is_taken() -> None:
    documents = [
        "kind: ConfigMap\nmetadata:\n  name: inferenceservice-config\n",
        "kind: ClusterRole\nmetadata:\n  name: kserve-manager-role\n",
        "kind: ClusterRole\nmetadata:\n  name: kserve-llmisvc-manager-role\n",
        "kind: Deployment\nmetadata:\n  name: kserve-controller-manager\n",
        "kind: ClusterServingRuntime\nmetadata:\n  name: kserve-sklearnserver\n",
        "kind: ValidatingWebhookConfiguration\nmetadata:\n  name: a\nservice: kserve-webhook-server-service\n",
        "kind: ValidatingWebhookConfiguration\nmetadata:\n  name: b\nservice: another\n",
    ]
    assert list(build._chosen(documents)) == [documents[0], documents[1], documents[5]]
