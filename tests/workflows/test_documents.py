"""What the workflows read is written down, and what is written down is read."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ci.commands import ROOT
from images import tools as listed_tools
from tests.workflows import rules
from tests.workflows.conftest import SETTINGS

README = (rules.WORKFLOWS / "README.md").read_text()
TEXTS = rules.all_workflows()
ENVIRONMENTS = ("DEV", "PROD", "EPHEMERAL")


def read() -> set[str]:
    """Names of the repository's variables; one that is put together stands for all of its environments."""
    text = "\n".join(TEXTS.values())
    plain = set(re.findall(r"\bvars\.(\w+)", text))
    made = {found.replace("{0}", one) for found in re.findall(r"format\('(\w+\{0\})'", text) for one in ENVIRONMENTS}
    return plain | made


def test_the_variables_stand_in_the_readme():
    told = {
        name
        for line in README.splitlines()
        if line.startswith("| `SLIPWAY_")
        for name in re.findall(r"`(SLIPWAY_\w+)`", line.split("|")[1])
    }
    assert told == read()


def test_every_workflow_stands_in_the_readme():
    told = set(re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| [^|]+ \|$", README, re.MULTILINE))
    assert {f"{name}.yml" for name in told} == set(TEXTS)


def test_the_settings_that_are_read_are_those_that_terraform_tells():
    block = re.search(
        r'output "settings" \{.*?\n\}\n', (ROOT / "terraform/environments/github/outputs.tf").read_text(), re.DOTALL
    )
    assert block
    told = set(re.findall(r"^    (\w+) +=", block[0], re.MULTILINE))
    source = "\n".join(path.read_text() for path in sorted((ROOT / "ci").rglob("*.py")))
    wanted = set(re.findall(r'job\.setting\("(\w+)"\)|(?<=settings\(\)\.get\(")(\w+)', source))
    names = {name for pair in wanted for name in pair if name} | {
        "workload_identity_provider",
        "cluster",
        "service_accounts",
    }
    assert names <= told and set(SETTINGS) == told


def test_the_accounts_that_are_named_are_those_that_terraform_makes():
    text = (ROOT / "terraform/environments/github/main.tf").read_text()
    block = re.search(r'module "identity_github" \{.*?\n\}\n', text, re.DOTALL)
    assert block
    made = set(re.findall(r"^    (\w+) = \{$", block[0], re.MULTILINE))
    named = {
        word
        for text in TEXTS.values()
        for line in re.findall(r"ACCOUNT: (.*)", text)
        for word in re.findall(r"'(\w+)'|^(\w+)$", line)
    }
    used = {name for pair in named for name in pair if name}
    assert used == made


def test_the_tools_that_are_asked_for_are_listed():
    known = {tool.name for tool in listed_tools.read((ROOT / ".ci/tools.txt").read_text())}
    asked = {
        name
        for text in TEXTS.values()
        for found in re.findall(r'TOOLS=(?:"([^"]+)"|(\S+))', text)
        for names in found
        for name in names.split()
    }
    assert asked and asked <= known


def test_commands_in_the_readme_exist():
    known = rules.targets((ROOT / "Makefile").read_text())
    assert set(re.findall(r"`make ([a-z-]+)", README)) <= known


NO_PACKAGE = [*sorted((ROOT / "ci").rglob("*.py")), *(ROOT / f"images/{name}.py" for name in ("tools", "errors"))]


@pytest.mark.parametrize("path", NO_PACKAGE, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_holds_credentials_needs_no_package(path: Path):
    """Jobs that sign in run the machine's own Python; `payload` is called in one that does not.

    `images.tools` brings programs to such jobs.
    """
    imported = set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
    foreign = imported - sys.stdlib_module_names - {"ci", "images"}
    assert foreign == ({"components", "pipelines", "pydantic", "yaml"} if path.name == "payload.py" else set())
