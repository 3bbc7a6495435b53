"""Every directory of terraform/ is formatted, valid, and passes its own tests."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.terraform.workspace import DIRECTORIES, MODULES, TERRAFORM, Workspace, terraform_binary

MOCK = 'mock_provider "google" {\n  source = "../../mocks"\n}\n'


def test_format(terraform: Workspace):
    done = terraform.call(".", "fmt", "-check", "-recursive", "-diff")
    assert done.returncode == 0, f"terraform fmt -recursive terraform\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_valid(terraform: Workspace, directory: str):
    terraform.init(directory)
    done = terraform.call(directory, "validate", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_own_tests(terraform: Workspace, directory: str):
    runs = terraform.test(directory)
    assert {run.name: run.problems for run in runs if run.status != "pass"} == {}


@pytest.mark.parametrize("environment", ["ephemeral", "dev", "prod"])
def test_environment_plans(terraform: Workspace, environment: str):
    """The values of each environment pass every validation, the modules' included."""
    directory = "environments/gke"
    terraform.init(directory)
    file = terraform.folder / directory / "tests" / f"{environment}.tftest.hcl"
    file.write_text(MOCK + 'run "plan" {\n  command = plan\n}\n')
    values = [f"-var-file={environment}.tfvars", "-var=project_id=test-project"]
    done = terraform.call(directory, "test", f"-filter=tests/{file.name}", "-no-color", *values)
    file.unlink()
    assert done.returncode == 0, done.stdout + done.stderr


def examples() -> dict[str, tuple[str, int]]:
    """Module -> its README's example and how many resources it says it makes."""
    found = {}
    for directory in MODULES:
        page = (TERRAFORM / directory / "README.md").read_text()
        block = re.search(r"^```hcl\n(.*?)# resources=(\d+)\n```$", page, re.DOTALL | re.MULTILINE)
        assert block, f"{directory}/README.md has no example that ends with # resources=NUMBER"
        found[Path(directory).name] = (block[1], int(block[2]))
    return found


def test_examples_of_the_readmes(terraform: Workspace):
    """All examples as one configuration: they plan, and make as many resources as they say."""
    folder = terraform.folder / "examples"
    (folder / "tests").mkdir(parents=True)
    text = "\n".join(text for text, _ in examples().values())
    (folder / "main.tf").write_text(text.replace('"./modules/', '"../modules/'))
    (folder / "tests" / "plan.tftest.hcl").write_text(
        MOCK.replace("../../", "../") + 'run "plan" {\n  command = plan\n}\n'
    )
    shutil.copy(terraform.folder / MODULES[0] / "versions.tf", folder)
    terraform.init("examples")
    done = terraform.call("examples", "test", "-verbose", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr
    made = re.findall(r"^  # module\.(\w+)\.\S.* will be created$", done.stdout, re.MULTILINE)
    assert {name: made.count(name) for name in examples()} == {name: count for name, (_, count) in examples().items()}


def test_missing_terraform_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("SLIPWAY_TERRAFORM", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        terraform_binary()
    monkeypatch.setenv("SLIPWAY_TERRAFORM", "required")
    with pytest.raises(pytest.fail.Exception, match="required"):
        terraform_binary()
