"""What images install: in step with pyproject.toml and constraints.txt, whole, and every file by its hash."""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from images import requirements
from images.errors import ImageError
from images.requirements import Pin
from images.sbom import installed
from tests.images.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = requirements.CONSTRAINTS.read_text()
TEXTS = {name: requirements.path(name).read_text() for name in requirements.NAMES}


@pytest.mark.parametrize("name", requirements.NAMES)
def test_the_files_are_those_that_make_lock_would_write(name: str):
    assert requirements.problems(name, TEXTS[name], PROJECT, CONSTRAINTS) == [], "make lock"


def test_another_version_in_constraints_is_noticed():
    moved = re.sub(r"^httpx==.*$", "httpx==99.0", CONSTRAINTS, flags=re.MULTILINE)
    (said,) = requirements.problems("serving", TEXTS["serving"], PROJECT, moved)
    assert said.startswith("httpx is ") and said.endswith("and 99.0 in constraints.txt")


def test_another_version_of_a_developer_s_tool_changes_no_image():
    moved = re.sub(r"^pytest==.*$", "pytest==99.0", CONSTRAINTS, flags=re.MULTILINE)
    assert moved != CONSTRAINTS
    assert [requirements.problems(name, TEXTS[name], PROJECT, moved) for name in TEXTS] == [[], [], []]


def test_a_new_requirement_is_noticed():
    project = PROJECT | {"dependencies": [*PROJECT["dependencies"], "pluggy>=1"]}
    said = requirements.problems("serving", TEXTS["serving"], project, CONSTRAINTS)
    assert said == ["pyproject.toml asks for other packages", "pluggy>=1 is not met: None"]


def test_a_new_requirement_that_another_package_brought_before_is_noticed():
    project = PROJECT | {"dependencies": [*PROJECT["dependencies"], "starlette>=1"]}
    assert requirements.problems("serving", TEXTS["serving"], project, CONSTRAINTS) == [
        "pyproject.toml asks for other packages"
    ]


def test_a_line_without_a_hash_is_noticed():
    text = TEXTS["serving"] + "left-pad==1.0\n"
    said = requirements.problems("serving", text, PROJECT, CONSTRAINTS + "left-pad==1.0\n")
    assert said == ["left-pad==1.0 has no hash"]


def test_the_server_is_installed_without_a_training_library():
    found = requirements.read(TEXTS["serving"])
    assert {"kserve", "openvino-genai", "obstore"} <= found.keys()
    assert not {"torch", "transformers", "peft", "datasets", "mlflow", "kfp"} & found.keys()
    assert not [name for name in found if name.startswith(("nvidia-", "cuda-"))]


def test_the_steps_are_installed_with_what_they_import_and_what_starts_them():
    found = requirements.read(TEXTS["components"])
    assert found.keys() >= requirements.read(TEXTS["serving"]).keys() | {"torch", "transformers", "mlflow", "kfp"}
    assert not {"pytest", "ruff", "pyright", "kfp-kubernetes", "google-cloud-aiplatform"} & found.keys()


def closure(roots: list[str]) -> set[str]:
    """Names of all that the roots need here, by the metadata of what is installed here."""
    queue, seen = [Requirement(line) for line in roots], set()
    while queue:
        requirement = queue.pop()
        for extra in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), extra)
            if key in seen:
                continue
            seen.add(key)
            needs = [Requirement(line) for line in requires(requirement.name) or []]
            queue += [one for one in needs if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


@pytest.mark.skipif(
    (platform.system(), platform.machine(), sys.version_info[:2]) != ("Linux", "x86_64", (3, 11)),
    reason="the files are for Python 3.11 on Linux; only there can what is installed be compared",
)
@pytest.mark.parametrize("name", ["serving", "components"])
def test_the_files_name_all_that_is_needed_and_no_more(name: str):
    try:
        needed = closure(requirements.roots(name, PROJECT))
    except PackageNotFoundError as error:
        pytest.skip(f"{error} is not installed here: make setup")
    assert installed(TEXTS[name], "x86_64").keys() == needed


def test_a_source_package_is_taken_only_where_it_is_known_to_be_plain(monkeypatch: pytest.MonkeyPatch):
    def file(digest: str) -> dict:
        return {"hashes": {"sha256": digest * 64}}

    packages = [
        {"name": "kfp-server-api", "version": "1.0", "sdist": file("a")},
        {"name": "numpy", "version": "2.0", "sdist": file("b"), "wheels": [file("c"), file("d")]},
    ]
    monkeypatch.setattr(requirements, "_packages", lambda wanted, machine: packages)
    pins, lacking = requirements.resolve(["numpy"])
    assert {pin.name: pin.hashes["x86_64"] for pin in pins} == {
        "kfp-server-api": {"a" * 64},
        "numpy": {"c" * 64, "d" * 64},
    }
    assert lacking == []
    del packages[1]["wheels"]
    with pytest.raises(ImageError, match=r"numpy 2\.0 has no wheel for Python 3\.11 on Linux x86_64"):
        requirements.resolve(["numpy"])


def test_what_is_known_to_lack_a_wheel_is_said(monkeypatch: pytest.MonkeyPatch):
    wheel = {"hashes": {"sha256": "c" * 64}}

    def packages(wanted: list[str], machine: str) -> list[dict]:
        return [{"name": "psutil", "version": "5.9.8", "wheels": [wheel] if machine == "x86_64" else []}]

    monkeypatch.setattr(requirements, "_packages", packages)
    pins, lacking = requirements.resolve(["psutil"])
    assert lacking == ["psutil 5.9.8 on aarch64: kserve asks for psutil < 6, which has no wheel there"]
    assert pins[0].line() == f"psutil==5.9.8 \\\n    --hash=sha256:{'c' * 64}", "no marker: pip says what is missing"


def test_a_package_of_one_machine_says_so():
    assert Pin("triton", "3.0", {"x86_64": {"a" * 64}}).line().splitlines()[0] == (
        'triton==3.0 ; platform_machine == "x86_64" \\'
    )
