"""What trivy can say without its database of vulnerabilities: of the Dockerfiles, and of secrets in a built image.

Vulnerabilities are `make release-scan`'s matter, where the database can be reached.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ci import release
from tests.images.conftest import ROOT, built, program
from tests.images.test_hadolint import DOCKERFILES
from tests.images.test_look import KEY
from tests.workflows import layouts

SEVERE = "--severity=MEDIUM,HIGH,CRITICAL"
"""Below it only says that there is no HEALTHCHECK, which Kubernetes and Cloud Run do not read."""


def trivy(command: str, *arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    flags = ["--quiet", "--exit-code=1", SEVERE, f"--cache-dir={cache}"]
    return subprocess.run(
        [program("trivy"), command, *flags, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280
    )


def misconfigurations(path: Path | str, cache: Path) -> subprocess.CompletedProcess[str]:
    return trivy("config", "--skip-check-update", str(path), cache=cache)


def secrets(root: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return trivy("rootfs", "--scanners=secret", str(root), cache=cache)


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_trivy_finds_nothing_in_a_dockerfile(dockerfile: str, tmp_path: Path):
    done = misconfigurations(dockerfile, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("USER 65532:65532", "USER root", "root"),
        ("FROM ${BASE_IMAGE} AS dependencies", "FROM python:latest AS dependencies", "latest"),
        ("HOME=/tmp", "HOME=/tmp \\\n    AWS_SECRET_ACCESS_KEY=x", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_planted_mistake_is_found(tmp_path: Path, old: str, new: str, said: str):
    text = (ROOT / "serving/Dockerfile").read_text()
    assert old in text
    (tmp_path / "Dockerfile").write_text(text.replace(old, new, 1))
    done = misconfigurations(tmp_path / "Dockerfile", tmp_path / "cache")
    assert done.returncode == 1 and said in done.stdout, done.stdout + done.stderr


def test_trivy_finds_no_secret_in_the_server_s_image(tmp_path: Path):
    program("trivy")
    told, engine = built("serving", tmp_path / "logs")
    with engine.root(told.reference) as root:
        done = secrets(root, tmp_path / "cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_planted_secret_is_found(tmp_path: Path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/settings.txt").write_text(KEY)
    done = secrets(tmp_path / "root", tmp_path / "cache")
    assert done.returncode == 1 and "settings.txt" in done.stdout, done.stdout + done.stderr


def test_a_planted_secret_stops_a_release(tmp_path: Path):
    """As the workflow's scan looks through an image; a private key is HIGH to trivy, not CRITICAL."""
    layouts.write_image(tmp_path / "layout", {"settings.txt": KEY})
    (flags,) = [flags for what, flags in release.SCANS if what == "secret"]
    command = release.scanner(program("trivy"), flags, tmp_path / "layout")
    done = subprocess.run([*command, f"--cache-dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 1 and "settings.txt" in done.stdout, done.stdout + done.stderr
