"""What a reader may rely on in every directory of terraform/, read from the files alone: no Terraform is needed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.terraform import hcl
from tests.terraform.workspace import DIRECTORIES, ENVIRONMENTS, MODULES, TERRAFORM

APIS = {
    "artifact": "artifactregistry",
    "billing": "billingbudgets",
    "binary": "binaryauthorization",
    "certificate": "certificatemanager",
    "cloud_run": "run",
    "compute": "compute",
    "container": "container",
    "iap": "iap",
    "iam": "iam",
    "logging": "logging",
    "monitoring": "monitoring",
    "project_iam": "cloudresourcemanager",
    "secret": "secretmanager",
    "service_account": "iam",
    "service_networking": "servicenetworking",
    "sql": "sqladmin",
    "storage": "storage",
}
"""How a resource's type begins, after google_ -> the API behind it."""

WITHOUT_API = ("google_project_service",)
"""What switches APIs on, whose own API is on in every project."""


def unlike(directory: Path) -> list[str]:
    """What of a directory is not as it should be."""
    found = hcl.read(directory)
    text = "\n".join(path.read_text() for path in sorted(directory.glob("*.tf")))
    tests = hcl.read(directory, "tests/*.tftest.hcl")
    problems = []
    for name, variable in hcl.named(found, "variable").items():
        if not re.search(r"^  description = ", variable.body, re.MULTILINE):
            problems.append(f"variable {name} has no description")
        if not re.search(r"^  type +=", variable.body, re.MULTILINE):
            problems.append(f"variable {name} has no type")
        if not re.search(rf"\bvar\.{name}\b", "\n".join(b.body for b in found if b.kind != "variable")):
            problems.append(f"variable {name} is not used")
        refused = sum(
            f"var.{name}]" in run.body for run in tests if run.kind == "run" and "expect_failures" in run.body
        )
        if refused < len(variable.inner("validation")):
            problems.append(
                f"variable {name}: {len(variable.inner('validation'))} validations, {refused} runs refuse it"
            )
        for validation in variable.inner("validation"):
            if "${" not in validation.body.partition("error_message")[2] and ";" not in validation.body:
                problems.append(f"variable {name}: the message says neither which value nor what to do")
    for name, output in hcl.named(found, "output").items():
        if not re.search(r"^  description = ", output.body, re.MULTILINE):
            problems.append(f"output {name} has no description")
        if not any(f"output.{name}" in run.body for run in tests):
            problems.append(f"output {name} is asserted by no test")
    problems += [f"local {name} is not used" for name in _locals(found) if not re.search(rf"local\.{name}\b", text)]
    return problems


def _locals(found: list[hcl.Block]) -> list[str]:
    return [
        name for one in found if one.kind == "locals" for name in re.findall(r"^  (\w+) +=", one.body, re.MULTILINE)
    ]


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_variables_outputs_and_locals(directory: str):
    assert unlike(TERRAFORM / directory) == []


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_one_range_of_provider_versions(directory: str):
    text = (TERRAFORM / directory / "versions.tf").read_text()
    assert 'version = ">= 6.50, < 8"' in text and 'source  = "hashicorp/google"' in text


@pytest.mark.parametrize("directory", MODULES)
def test_every_output_of_a_module_is_used(directory: str):
    name = Path(directory).name
    users = "\n".join(path.read_text() for one in ENVIRONMENTS for path in (TERRAFORM / one).glob("*.tf"))
    outputs = hcl.named(hcl.read(TERRAFORM / directory), "output")
    unused = [one for one in outputs if not re.search(rf"module\.{name}(\[\S+?\])?\.{one}\b", users)]
    assert unused == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_api_that_is_used_is_switched_on(environment: str):
    used = hcl.read(TERRAFORM / environment)
    services = set(re.findall(r'"(\w+)\.googleapis\.com"', "\n".join(one.body for one in used)))
    for module in hcl.named(used, "module").values():
        source = re.search(r'source = "(\S+)"', module.body)
        assert source, module.name
        used += hcl.read((TERRAFORM / environment / source[1]).resolve())
    types = {one.labels[0] for one in used if one.kind == "resource"} - set(WITHOUT_API)
    needed = {api for type_ in types for start, api in APIS.items() if type_.startswith(f"google_{start}")}
    unknown = {type_ for type_ in types if not any(type_.startswith(f"google_{start}") for start in APIS)}
    assert (needed - services, unknown) == (set(), set())


def test_environments_differ_by_values_alone():
    folder = TERRAFORM / "environments" / "gke"
    assert Counter(path.name.split(".")[0] for path in folder.glob("*.tfvars")) == Counter(["ephemeral", "dev", "prod"])
    backends = {path.name.split(".")[0]: path.read_text() for path in folder.glob("*.gcs.tfbackend")}
    assert backends == {name: f'prefix = "slipway/gke/{name}"\n' for name in ("ephemeral", "dev", "prod")}


def test_what_github_signs_in_with_outlives_what_it_destroys():
    """A preview destroys all of environments/gke, as an account that this would take with it."""
    gke = hcl.read(TERRAFORM / "environments/gke")
    made = [*hcl.named(gke, "module"), *(one.labels[0] for one in gke if one.kind == "resource")]
    assert not {"identity_github", "previews", "google_service_account", "google_storage_bucket_iam_member"} & set(made)
    short = {
        re.search(r"short += (\{.*?\})", (TERRAFORM / f"environments/{root}/main.tf").read_text())[1]  # type: ignore[index]
        for root in ("gke", "github")
    }
    assert len(short) == 1, "gke grants to accounts by the names that github gives them"


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ('variable "x" {\n  type = string\n}\n', "variable x has no description"),
        ('variable "x" {\n  description = "X."\n}\n', "variable x has no type"),
        ('variable "x" {\n  description = "X."\n  type = string\n}\n', "variable x is not used"),
        (
            'variable "x" {\n  description = "X."\n  type = string\n\n  validation {\n    condition = var.x != ""\n'
            '    error_message = "x \\"${var.x}\\" is empty."\n  }\n}\n',
            "variable x: 1 validations, 0 runs refuse it",
        ),
        (
            'variable "x" {\n  description = "X."\n  type = string\n\n  validation {\n    condition = var.x != ""\n'
            '    error_message = "Bad."\n  }\n}\n',
            "variable x: the message says neither which value nor what to do",
        ),
        ('output "x" {\n  value = 1\n}\n', "output x has no description"),
        ('output "x" {\n  description = "X."\n  value = 1\n}\n', "output x is asserted by no test"),
        ("locals {\n  x = 1\n}\n", "local x is not used"),
    ],
)
def test_each_check_notices(tmp_path: Path, planted: str, said: str):
    (tmp_path / "main.tf").write_text(planted)
    assert said in unlike(tmp_path)
