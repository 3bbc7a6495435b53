"""checkov and tflint find nothing, where they are installed; every skip says why."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from images import tools
from terraform import costs
from tests.terraform.workspace import ROOT, TERRAFORM, unavailable

HOW = {"checkov": "make tools TOOLS=checkov", "tflint": "make terraform-tools"}


def program(name: str) -> str:
    """Path of a program, in the repository's tools or on PATH; else the test ends."""
    if os.environ.get("SLIPWAY_TERRAFORM") == "off":
        pytest.skip("SLIPWAY_TERRAFORM=off")
    # tflint is built with Google's rules, into a place of its own
    found = shutil.which(name, path=str(ROOT / ".tools/terraform")) or tools.find(name)
    if not found:
        unavailable(f"{name} is not installed: {HOW[name]}")
        raise AssertionError
    return found


def checkov(directory: Path) -> subprocess.CompletedProcess[str]:
    configuration = TERRAFORM / ".checkov.yaml"
    command = [program("checkov"), "--config-file", str(configuration), "--directory", str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def tflint(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """tflint with Google's rules, which know the values that the offline schema does not."""
    found = program("tflint")
    configuration = f"--config={TERRAFORM / '.tflint.hcl'}"
    command = [found, f"--chdir={directory}", configuration, "--format=compact", *arguments]
    rules = {"TFLINT_PLUGIN_DIR": str(Path(found).resolve().parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | rules)


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
    done = tflint(TERRAFORM, "--recursive")
    assert done.returncode == 0, done.stdout + done.stderr


def tflint_pools(folder: Path, pools: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """The module of the pools with these: rules follow values of `for_each` in the directory they are run in alone."""
    file = folder / "pools.tfvars.json"
    cluster = {"id": "cluster", "node_account": "node"}
    file.write_text(json.dumps({"project_id": "test-project", "cluster": cluster, "node_tag": "node", "pools": pools}))
    return tflint(TERRAFORM / "modules/node_pools", f"--var-file={file}")


@pytest.mark.parametrize("environment", ["ephemeral", "dev", "prod"])
def test_machine_types_exist(tmp_path: Path, environment: str):
    values = costs.read_tfvars(TERRAFORM / f"environments/gke/{environment}.tfvars")
    done = tflint_pools(tmp_path, values["pools"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_machine_type_that_does_not_exist_is_noticed(tmp_path: Path):
    done = tflint_pools(tmp_path, {"steps": {"machine_type": "e2-highmem-9", "max_nodes": 1}})
    assert done.returncode == 2 and '"e2-highmem-9" is an invalid as machine type' in done.stdout


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ('variable "unused" {\n  type = string\n}\n', "terraform_unused_declarations"),
        ('variable "untyped" {}\n', "terraform_typed_variables"),
        ('output "said" {\n  value = "${1}"\n}\n', "terraform_documented_outputs"),
        (
            'resource "google_cloud_run_v2_service" "x" {\n  name = "x"\n  location = "y"\n  ingress = "NOBODY"\n}\n',
            "google_cloud_run_v2_service_invalid_ingress",
        ),
        (
            'resource "google_project_iam_member" "x" {\n  project = "x"\n  role = "r"\n  member = "me"\n}\n',
            "google_project_iam_member_invalid_member",
        ),
    ],
)
def test_tflint_notices(tmp_path: Path, planted: str, rule: str):
    (tmp_path / "main.tf").write_text(planted)
    done = tflint(tmp_path)
    assert done.returncode == 2 and f"({rule})" in done.stdout, done.stdout + done.stderr


def unexplained(text: str) -> list[str]:
    """Skips without a reason of some words, or of everything."""
    skips = re.findall(r"(?:checkov:skip=|tflint-ignore: ?)(\S*?)(?::\s*(.*))?$", text, re.MULTILINE)
    return [check for check, reason in skips if len(reason.split()) < 4]


def test_every_skip_says_why():
    assert {str(path.relative_to(ROOT)): unexplained(path.read_text()) for path in TERRAFORM.rglob("*.tf")} == {
        str(path.relative_to(ROOT)): [] for path in TERRAFORM.rglob("*.tf")
    }
    assert unexplained("  # checkov:skip=CKV_GCP_1\n  # checkov:skip=CKV_GCP_2: ok\n") == ["CKV_GCP_1", "CKV_GCP_2"]
