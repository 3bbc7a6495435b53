"""checkov and tflint find nothing, where they are installed; every skip says why."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.terraform.workspace import ROOT, TERRAFORM, unavailable

HOW = {
    "checkov": "pip install checkov, in an environment of its own",
    "tflint": "https://github.com/terraform-linters/tflint, or go install",
}


def program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        unavailable(f"{name} is not installed: {HOW[name]}")
        raise AssertionError
    return found


def checkov(directory: Path) -> subprocess.CompletedProcess[str]:
    configuration = TERRAFORM / ".checkov.yaml"
    command = [program("checkov"), "--config-file", str(configuration), "--directory", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def tflint(directory: Path) -> subprocess.CompletedProcess[str]:
    configuration = f"--config={TERRAFORM / '.tflint.hcl'}"
    command = [program("tflint"), f"--chdir={directory}", "--recursive", configuration]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_checkov():
    done = checkov(TERRAFORM)
    assert done.returncode == 0, done.stdout + done.stderr


def test_checkov_notices(tmp_path: Path):
    (tmp_path / "main.tf").write_text(
        'resource "google_storage_bucket" "open" {\n  name                        = "open"\n'
        '  location                    = "US"\n  uniform_bucket_level_access = false\n}\n'
    )
    done = checkov(tmp_path)
    assert done.returncode == 1 and "CKV_GCP_29" in done.stdout


def test_tflint():
    done = tflint(TERRAFORM)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tflint_notices(tmp_path: Path):
    (tmp_path / "main.tf").write_text('terraform {\n  required_version = ">= 1.9"\n}\n\nvariable "unused" {}\n')
    done = tflint(tmp_path)
    assert done.returncode == 2 and "terraform_unused_declarations" in done.stdout


def unexplained(text: str) -> list[str]:
    """Skips without a reason of some words, or of everything."""
    skips = re.findall(r"(?:checkov:skip=|tflint-ignore: ?)(\S*?)(?::\s*(.*))?$", text, re.MULTILINE)
    return [check for check, reason in skips if len(reason.split()) < 4]


def test_every_skip_says_why():
    assert {str(path.relative_to(ROOT)): unexplained(path.read_text()) for path in TERRAFORM.rglob("*.tf")} == {
        str(path.relative_to(ROOT)): [] for path in TERRAFORM.rglob("*.tf")
    }
    assert unexplained("  # checkov:skip=CKV_GCP_1\n  # checkov:skip=CKV_GCP_2: ok\n") == ["CKV_GCP_1", "CKV_GCP_2"]
