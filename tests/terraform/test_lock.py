"""Each root's .terraform.lock.hcl says which provider it is, on every platform that people and workflows use."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.terraform.workspace import ENVIRONMENTS, ROOT, TERRAFORM

PLATFORMS = ("linux_amd64", "linux_arm64", "darwin_arm64", "darwin_amd64")
GOOD = """# made by `terraform providers lock`
provider "registry.terraform.io/hashicorp/google" {
  version     = "7.45.0"
  constraints = ">= 6.50.0, < 8.0.0"
  hashes = [
    "h1:a",
    "h1:b",
    "h1:c",
    "h1:d",
    "zh:e",
  ]
}
"""


def wrong(text: str) -> list[str]:
    """What of a lock file is not as it should be."""
    found = re.findall(r'^provider "(\S+)" \{\n  version +?= "([\d.]+)"', text, re.MULTILINE)
    if [name for name, _ in found] != ["registry.terraform.io/hashicorp/google"]:
        return [f"locks {[name for name, _ in found]}, not google alone"]
    version = tuple(int(part) for part in found[0][1].split("."))
    problems = [] if (6, 50) <= version[:2] < (8, 0) else [f"locks google {found[0][1]}, outside of versions.tf"]
    hashes = len(re.findall(r'"h1:', text))
    return [*problems, *([] if hashes >= len(PLATFORMS) else [f"{hashes} checksums for {len(PLATFORMS)} platforms"])]


@pytest.mark.parametrize("root", ENVIRONMENTS)
def test_lock(root: str):
    file = TERRAFORM / root / ".terraform.lock.hcl"
    if not file.exists():
        pytest.skip(f"{root} has no lock yet: `make terraform-lock` writes it where registry.terraform.io is reached")
    assert wrong(file.read_text()) == [], "make terraform-lock"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("7.45.0", "8.0.0", "locks google 8.0.0, outside of versions.tf"),
        ('    "h1:d",\n', "", "3 checksums for 4 platforms"),
        ("hashicorp/google", "someone/google", "locks ['registry.terraform.io/someone/google'], not google alone"),
    ],
)
def test_a_lock_that_is_wrong_is_noticed(old: str, new: str, said: str):
    assert wrong(GOOD) == []
    assert old in GOOD and wrong(GOOD.replace(old, new)) == [said]


def terraform_lock(folder: Path, code: int) -> tuple[int, list[str]]:
    """Exit code of `make terraform-lock` with a terraform that writes down how it was called, and those calls."""
    calls = folder / "calls"
    (folder / "terraform").write_text(f'#!/bin/sh\necho "$@" >>{calls}\nexit {code}\n')
    (folder / "terraform").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["make", "--silent", "terraform-lock"], cwd=ROOT, env=environment, capture_output=True)
    return done.returncode, calls.read_text().splitlines()


def test_every_root_is_locked_for_every_platform(tmp_path: Path):
    code, calls = terraform_lock(tmp_path, 0)
    assert code == 0
    platforms = " ".join(f"-platform={one}" for one in PLATFORMS)
    both = ("get", f"providers lock {platforms}")
    assert sorted(calls) == sorted(f"-chdir=terraform/{root} {words}" for root in ENVIRONMENTS for words in both)


def test_a_registry_that_is_not_reached_fails_the_target(tmp_path: Path):
    code, calls = terraform_lock(tmp_path, 1)
    assert code != 0 and len(calls) == 1
