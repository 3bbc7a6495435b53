"""What an environment makes, said by Terraform itself: its own test with a mock provider applies the configuration in
memory, without a project, and prints every resource with its values.

docs/rights.md and the pictures of README.md are made from it, so that they hold what a reader of the code would have to
work out: which members a `for_each` over a `merge` of maps names, for example.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROJECT = "my-project"

EVERYTHING: dict[str, Any] = {
    "vertex": True,
    "edge": {
        "hostname": "chat.example.com",
        "users": {"team": "group:team@example.com"},
        "iap_client_id": "123456789012-abc.apps.googleusercontent.com",
    },
    "github": True,
    "monitoring": {
        "emails": ["oncall@example.com"],
        "budget": {"billing_account": "012345-6789AB-CDEF01", "per_month": 500},
    },
}
"""What an environment may do without, so that all that it can grant is seen."""

REPOSITORY = {"id": "123456789", "owner_id": "987654"}
"""Whose jobs on GitHub are let in."""


class MadeError(RuntimeError):
    """Terraform could not be asked; the message has its words."""


@dataclass(frozen=True)
class Resource:
    """One instance of a resource, after `apply`."""

    address: str
    """module.storage.google_storage_bucket.bucket["data"]"""

    type: str
    index: str | int | None
    values: dict[str, Any]

    @property
    def module(self) -> str:
        """The module in which it stands; "" for the root."""
        return self.address.split(".")[1].partition("[")[0] if self.address.startswith("module.") else ""


@dataclass(frozen=True)
class Terraform:
    """A copy of terraform/ and how Terraform runs there."""

    folder: Path
    environment: Mapping[str, str]

    def call(self, root: str, *arguments: str) -> str:
        """What a command below the copy prints; raises MadeError when it fails."""
        command = ["terraform", f"-chdir={self.folder / root}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(self.environment), timeout=600)
        if done.returncode:
            raise MadeError(f"`terraform {arguments[0]}` in {root} failed:\n{_errors(done.stdout)}{done.stderr}")
        return done.stdout

    def init(self, root: str) -> None:
        """Make ready, with a local state in place of the bucket's; once."""
        override = self.folder / root / "backend_override.tf"
        if not override.exists():
            override.write_text('terraform {\n  backend "local" {}\n}\n')
            self.call(root, "init", "-input=false", "-no-color")


@contextmanager
def copied(environment: Mapping[str, str] | None = None) -> Iterator[Terraform]:
    """Terraform on a copy that is gone afterwards. SLIPWAY_TERRAFORM_SCHEMA is what README.md says."""
    settings = {**(os.environ if environment is None else environment), "CHECKPOINT_DISABLE": "1"}
    if not shutil.which("terraform", path=settings.get("PATH")):
        raise MadeError("terraform is not installed: https://developer.hashicorp.com/terraform/install")
    left_out = [".terraform", "*.tfstate*", "tests", "__pycache__"]
    if schema := settings.get("SLIPWAY_TERRAFORM_SCHEMA"):
        settings["TF_CLI_CONFIG_FILE"] = str(Path(schema).resolve() / "terraform.rc")
        left_out.append(".terraform.lock.hcl")  # checksums of the real provider
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "terraform"
        shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns(*left_out))
        yield Terraform(folder, settings)


def gke(terraform: Terraform, environment: str) -> list[Resource]:
    """What environments/gke makes with an environment's values and everything that is optional."""
    return made(terraform, "environments/gke", EVERYTHING, f"-var-file={environment}.tfvars")


def github(terraform: Terraform, environment: str) -> list[Resource]:
    """What environments/github makes for an environment."""
    values = {"environment": environment, "repository": REPOSITORY, "state_bucket": f"{PROJECT}-terraform"}
    return made(terraform, "environments/github", values)


def environment(terraform: Terraform, name: str) -> list[Resource]:
    """An environment whole: what GitHub's jobs are, and what they apply."""
    return [*gke(terraform, name), *github(terraform, name)]


def cloudrun(terraform: Terraform) -> list[Resource]:
    """What environments/cloudrun makes for a release that is fetched, open to everybody."""
    fetch = f"gs://{PROJECT}-ENV-releases/{'0' * 64}"
    values = {"image": f"HOST/IMAGE@sha256:{'0' * 64}", "release": {"fetch": fetch}, "public": True}
    return made(terraform, "environments/cloudrun", values)


def made(terraform: Terraform, root: str, values: dict[str, Any], *arguments: str) -> list[Resource]:
    """Every resource of a root with these values of its variables; the names of what is mocked are given too."""
    terraform.init(root)
    named = [_names(one) for one in _run(terraform, root, values, [], *arguments)]
    return _run(terraform, root, values, [one for one in named if one], *arguments)


def _run(
    terraform: Terraform, root: str, values: dict[str, Any], overrides: list[str], *arguments: str
) -> list[Resource]:
    file = terraform.folder / root / "tests/made.tftest.hcl"
    file.parent.mkdir(exist_ok=True)
    # HCL takes JSON's literals as its own
    variables = "".join(f"    {name} = {json.dumps(value)}\n" for name, value in values.items())
    mock = 'mock_provider "google" {\n  source = "../../mocks"\n}\n'
    file.write_text(f'{mock}\nrun "made" {{\n  variables {{\n{variables}  }}\n{"".join(overrides)}}}\n')
    printed = terraform.call(
        root, "test", "-json", "-verbose", f"-filter=tests/{file.name}", f"-var=project_id={PROJECT}", *arguments
    )
    for line in printed.splitlines():
        event = json.loads(line)
        if event.get("type") == "test_state":
            return list(_walk(event["test_state"]["root_module"]))
    raise MadeError(f"`terraform test` in {root} printed no state:\n{_errors(printed)}")


def _errors(printed: str) -> str:
    """What went wrong, of Terraform's words or of its JSON lines."""
    found = []
    for line in printed.splitlines():
        event = json.loads(line) if line.startswith("{") else {"diagnostic": {"severity": "error", "summary": line}}
        if event.get("diagnostic", {}).get("severity") == "error":
            found.append(f"{event['diagnostic']['summary']}\n{event['diagnostic'].get('detail', '')}".strip())
    return "\n".join(found) + "\n"


def _walk(module: dict[str, Any]) -> Iterator[Resource]:
    for one in module.get("resources", []):
        yield Resource(one["address"], one["type"], one.get("index"), one["values"])
    for child in module.get("child_modules", []):
        yield from _walk(child)


def _names(one: Resource) -> str:
    """The computed names of a resource by which others are granted it: a mock's are the same for all, or chance."""
    match one.type:
        case "google_service_account":
            email = f"{one.values['account_id']}@{PROJECT}.iam.gserviceaccount.com"
            name = f"projects/{PROJECT}/serviceAccounts/{email}"
            computed = {"email": email, "member": f"serviceAccount:{email}", "name": name}
        case "google_project_iam_custom_role":
            computed = {"name": f"projects/{PROJECT}/roles/{one.values['role_id']}"}
        case "google_artifact_registry_repository":
            computed = {"name": one.values["repository_id"]}
        case "google_iam_workload_identity_pool":
            pool = one.values["workload_identity_pool_id"]
            computed = {"name": f"projects/123456789012/locations/global/workloadIdentityPools/{pool}"}
        case _:
            return ""
    return f"  override_resource {{\n    target = {one.address}\n    values = {json.dumps(computed)}\n  }}\n"
