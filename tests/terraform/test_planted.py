"""The checks of Terraform itself notice what is planted: a test that cannot fail proves nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.terraform import hcl, workspace
from tests.terraform.workspace import DIRECTORIES, Workspace

VALIDATION = re.compile(r"^  validation \{\n.*?^  \}\n", re.MULTILINE | re.DOTALL)


@pytest.fixture
def own(tmp_path: Path) -> Workspace:
    """A copy to spoil."""
    return workspace.copy(tmp_path / "terraform")


def replace(own: Workspace, file: str, old: str, new: str) -> None:
    path = own.folder / file
    text = path.read_text()
    assert old in text, f"{file} no longer has {old!r}"
    path.write_text(text.replace(old, new, 1))


def failed(own: Workspace, directory: str) -> set[str]:
    return {run.name for run in own.test(directory) if run.status != "pass"}


def test_format_is_noticed(own: Workspace):
    replace(own, "modules/storage/outputs.tf", "  value ", "    value ")
    assert own.call(".", "fmt", "-check", "-recursive").returncode != 0


def test_a_misspelt_argument_is_noticed(own: Workspace):
    replace(own, "modules/storage/main.tf", "uniform_bucket_level_access", "uniform_bucket_access")
    own.init("modules/storage")
    done = own.call("modules/storage", "validate", "-no-color")
    assert done.returncode != 0 and "uniform_bucket_access" in done.stderr


@pytest.mark.parametrize(
    ("directory", "file", "old", "new", "run"),
    [
        ("modules/storage", "main.tf", '"enforced"', '"inherited"', "buckets_are_closed_and_versioned"),
        ("modules/database", "main.tf", "ipv4_enabled    = false", "ipv4_enabled    = true", "private_encrypted"),
        (
            "modules/node_pools",
            "gpu.tf",
            '"a2-highgpu-1g" = { type = "nvidia-tesla-a100", count = 1',
            "@",
            "gpus_follow",
        ),
        (
            "modules/cluster",
            "main.tf",
            "enable_private_nodes    = true",
            "enable_private_nodes    = false",
            "nodes_are_private",
        ),
        ("environments/cloudrun", "main.tf", "var.public ? 1 : 0", "1", "closed_unless_public"),
        ("modules/network", "firewall.tf", ", var.ranges.proxies]", ', "0.0.0.0/0"]', "nothing_comes_in"),
        ("modules/registry", "main.tf", '"UNTAGGED" : "ANY"', '"UNTAGGED" : "UNTAGGED"', "previews_keep_nothing"),
        (
            "environments/github",
            "main.tf",
            'account = "plan", role = "roles/storage.objectViewer"',
            'account = "plan", role = "roles/storage.objectUser"',
            "who_works_with_the_state",
        ),
    ],
)
def test_a_weakened_resource_is_noticed(own: Workspace, directory: str, file: str, old: str, new: str, run: str):
    replace(own, f"{directory}/{file}", old, old.replace("count = 1", "count = 2") if new == "@" else new)
    assert any(name.startswith(run) for name in failed(own, directory))


def disable(text: str, number: int) -> tuple[str, list[str]]:
    """The text with each variable's validation of this number always true, and the variables that had one."""
    names = []
    for variable in (one for one in hcl.blocks(text) if one.kind == "variable"):
        found = VALIDATION.findall(variable.body + "\n")
        if number < len(found):
            harmless = f"  validation {{\n    condition     = var.{variable.name} == var.{variable.name}\n"
            harmless += '    error_message = "Switched off by a test."\n  }\n'
            text = text.replace(found[number], harmless, 1)
            names.append(variable.name)
    return text, names


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("directory", DIRECTORIES)
def test_every_validation_is_what_refuses(own: Workspace, directory: str):
    """Each validation in turn is switched off; a run that expects its refusal must then fail."""
    path = own.folder / directory / "variables.tf"
    original = path.read_text()
    runs = hcl.named(hcl.read(own.folder / directory, "tests/*.tftest.hcl"), "run")
    unguarded = []
    for number in range(max(len(one.inner("validation")) for one in hcl.blocks(original))):
        text, names = disable(original, number)
        path.write_text(text)
        missed = failed(own, directory)
        for name in names:
            refusing = {one for one, run in runs.items() if f"expect_failures = [var.{name}]" in run.body}
            if not refusing & missed:
                unguarded.append(f"{name}, validation {number + 1}")
    assert unguarded == []
