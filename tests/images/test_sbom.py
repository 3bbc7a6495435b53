"""A bill of materials names what an image was made from, no less and no more."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from images import sbom
from images.build import Built
from tests.images.conftest import built, program

REQUIREMENTS = (
    'httpx==0.28.1 \\\n    --hash=sha256:0\ntriton==3.0 ; platform_machine == "x86_64" \\\n    --hash=sha256:1\n'
)


def package(name: str, version: str, place: str = "/opt/venv/lib/x.dist-info/METADATA", kind: str = "pypi") -> dict:
    located = {"name": "syft:location:0:path", "value": place}
    return {"name": name, "version": version, "purl": f"pkg:{kind}/{name}@{version}", "properties": [located]}


WHOLE = [
    package("httpx", "0.28.1"),
    package("triton", "3.0"),
    package("slipway", "0.1.0"),
    package("libc6", "2", kind="deb"),
]


def test_what_was_asked_for_is_there():
    assert sbom.problems({"components": WHOLE}, REQUIREMENTS, "x86_64") == []


@pytest.mark.parametrize(
    ("components", "said"),
    [
        (WHOLE[1:], "httpx 0.28.1 is missing"),
        ([package("httpx", "0.27"), *WHOLE[1:]], "httpx 0.28.1 is missing"),
        ([*WHOLE, package("pip", "24.0")], "pip 24.0 was not asked for"),
        (WHOLE[:-1], "no package of the base was found"),
    ],
)
def test_a_difference_is_noticed(components: list[dict], said: str):
    assert sbom.problems({"components": components}, REQUIREMENTS, "x86_64") == [said]


def test_what_a_package_brings_inside_itself_stands_in_for_nothing():
    inside = package("httpx", "0.28.1", "/opt/venv/lib/setuptools/_vendor/httpx.dist-info/METADATA")
    assert sbom.problems({"components": [*WHOLE, inside]}, REQUIREMENTS, "x86_64") == []
    assert sbom.problems({"components": [inside, *WHOLE[1:]]}, REQUIREMENTS, "x86_64") == ["httpx 0.28.1 is missing"]


def test_a_package_of_another_machine_is_not_asked_for():
    assert sbom.installed(REQUIREMENTS, "aarch64") == {"httpx": "0.28.1"}


def test_the_subject_is_the_image_that_was_built():
    one = Built("components", "localhost/x:0", "sha256:abc", "slipway-python", "-cpu", "base", True, 1, "buildah")
    told = sbom.component(one)
    assert told["name"] == "slipway-python" and told["version"].endswith("-cpu") and told["bom-ref"] == "sha256:abc"
    assert {"name": "slipway:base", "value": "base"} in told["properties"]


def test_the_server_s_image_holds_what_its_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """syft, over what `make images` has built."""
    program("syft")
    _, engine = built("serving", tmp_path)
    monkeypatch.setattr(sbom, "OUTPUT", tmp_path)
    (file,) = sbom.write(["serving"], engine)
    found = json.loads(file.read_text())
    assert found["bomFormat"] == "CycloneDX" and found["metadata"]["component"]["name"] == "slipway-serving"
    text = sbom.asked("serving").replace("\nuvicorn==", "\nuvicorn==99.")
    assert len(sbom.problems(found, text, platform.machine())) == 1
