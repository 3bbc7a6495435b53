"""What makes another image, what makes another big layer, and what does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from images import catalogue
from images.catalogue import Image
from tests.images.conftest import ROOT


@pytest.fixture
def project(tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that an image is made of."""
    for name in (*catalogue.FILES, *image.locks, ".dockerignore", image.dockerfile):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_developer_s_tool_does_not_build_the_big_layer_again(project: Path, image: Image):
    before = catalogue.dependencies_digest(image, "base")
    edit(project / "pyproject.toml", '"pytest>=9",', '"pytest>=9",\n    "hypothesis>=6",')
    edit(project / "constraints.txt", "pytest==", "hypothesis==6.0\npytest==")
    assert catalogue.dependencies_digest(image, "base") == before


def test_a_new_last_stage_does_not_build_the_big_layer_again(project: Path, image: Image):
    before = catalogue.dependencies_digest(image, "base")
    edit(project / image.dockerfile, "PYTHONUNBUFFERED=1", "PYTHONUNBUFFERED=1 \\\n    TZ=UTC")
    edit(project / image.dockerfile, "# The one big layer", "# The large layer")
    assert catalogue.dependencies_digest(image, "base") == before


@pytest.mark.parametrize("change", ["requirements", "instruction", "base"])
def test_what_the_big_layer_is_made_of_builds_it_again(project: Path, image: Image, change: str):
    before = catalogue.dependencies_digest(image, "base")
    if change == "requirements":
        edit(project / image.locks[-1], "httpx==", "httpx==9")
    if change == "instruction":
        edit(project / image.dockerfile, "pip check", "pip check --verbose")
    assert catalogue.dependencies_digest(image, "other" if change == "base" else "base") != before


def test_another_image_s_requirements_build_nothing_again(project: Path, image: Image):
    before = catalogue.dependencies_digest(image, "base"), catalogue.sources_digest(image, project)
    (project / "images/requirements/of-another.txt").write_text("numpy==1\n")
    assert (catalogue.dependencies_digest(image, "base"), catalogue.sources_digest(image, project)) == before


def test_a_change_of_the_base_or_of_requirements_makes_another_image(project: Path, image: Image):
    before = catalogue.sources_digest(image, project)
    assert catalogue.sources_digest(image, project, "docker.io/library/python@sha256:0") != before
    edit(project / image.locks[0], "--hash=sha256:", "--hash=sha256:0")
    assert catalogue.sources_digest(image, project) != before


def test_flavours_stand_beside_each_other():
    assert len({image.local for image in catalogue.IMAGES.values()}) == len(catalogue.IMAGES)


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/slipway/slipway.git", "https://github.com/slipway/slipway"),
        ("https://user:word@git.example/team/slipway", "https://git.example/team/slipway"),
        ("git@github.com:slipway/slipway.git", "https://github.com/slipway/slipway"),
        ("ssh://git@git.example/team/slipway.git", "https://git.example/team/slipway"),
        ("/srv/git/slipway", ""),
        ("file:///srv/git/slipway", ""),
        ("", ""),
    ],
)
def test_the_source_is_told_without_a_password(remote: str, address: str):
    assert catalogue.browsable(remote) == address


def test_on_github_the_source_is_the_repository_that_builds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "team/slipway")
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://git.example")
    assert catalogue.source() == "https://git.example/team/slipway"
