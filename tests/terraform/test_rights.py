"""docs/rights.md says who may do what in Google Cloud as Terraform grants it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manifests import rights as cluster
from terraform import made, rights
from terraform.made import Resource
from tests.terraform import hcl
from tests.terraform.workspace import TERRAFORM, Workspace

ROLE = re.compile(r'"(roles/[\w.]+)"')
STEPS = "steps@my-project.iam.gserviceaccount.com"
ADD_IT = "does not know what google_pubsub_topic_iam_member is on"


def half() -> str:
    """The page's second half, as it stands there."""
    return cluster.PAGE.read_text().partition(rights.BEGIN)[2].removesuffix(rights.END)


@pytest.fixture(scope="module")
def copy(terraform: Workspace) -> Iterator[made.Terraform]:
    terraform.init("environments/gke")  # skips where no provider can be had
    with made.copied(terraform.environment) as copied:
        yield copied


def test_the_page_is_of_this_configuration(copy: made.Terraform):
    assert rights.half(copy) == half(), "make rights"


def test_a_role_that_is_granted_shows(copy: made.Terraform):
    file = copy.folder / "environments/gke/identities.tf"
    original = file.read_text()
    janitor = 'name = "rollout-janitor", '
    assert janitor in original
    file.write_text(original.replace(janitor, f'{janitor}project_roles = ["roles/browser"], '))
    try:
        cloud = rights.read(made.environment(copy, "dev"))
    finally:
        file.write_text(original)

    text = rights.section(cloud, rights.Cloud(), [])

    assert "| `slipway-pipelines/rollout-janitor` | `slipway-dev-janitor` | browser | project |" in text
    assert "browser" not in half()


def granted(folder: Path = TERRAFORM) -> set[str]:
    """Every role that a file of terraform/ grants, read without Terraform."""
    found: set[str] = set()
    for path in folder.glob("*/*/*.tf"):
        for block in hcl.blocks(path.read_text()):
            found |= set(ROLE.findall(block.body)) if block.kind in ("resource", "module", "locals") else set()
            if block.labels[:1] == ("google_project_iam_custom_role",):
                found |= set(re.findall(r'"([a-z]+\.\w+\.\w+)"', block.body))
    return {one.removeprefix("roles/") for one in found} - {rights.IMPERSONATES.removeprefix("roles/")}


def told(page: str) -> set[str]:
    """Every role that stands on the page: in a table's last column but one."""
    rows = [re.split(r"(?<!\\)\|", line) for line in page.splitlines() if line.startswith("| ")]
    words = {word.strip() for row in rows for word in row[-3].split(",")}
    return words - {"role", rights.SIGNS_IN, "nothing"}


def test_roles_of_the_page_are_those_of_the_code():
    """Without Terraform, so that a new role is noticed where there is none."""
    assert len(granted()) > 25
    assert told(half()) == granted(), "make rights"


def test_steps_hold_nothing_that_they_do_not_use():
    """They keep checkpoints in the store, which is a volume, and read secrets of the cluster."""
    rows = [line for line in half().splitlines() if "`slipway-ENV-steps` |" in line]
    assert rows and not any("secret" in row or "checkpoints" in row for row in rows)


def test_a_new_role_is_noticed_without_terraform(tmp_path: Path):
    (tmp_path / "modules/x").mkdir(parents=True)
    grant = 'resource "google_project_iam_member" "x" {\n  role = "roles/a.newRole"\n}\n'
    (tmp_path / "modules/x/main.tf").write_text(grant)
    assert granted(tmp_path) == {"a.newRole"} and not granted(tmp_path) <= told(half())
    assert told("| who | role | on |\n|---|---|---|\n| x | a.newRole, b | project |\n") == {"a.newRole", "b"}


def resource(type_: str, **values: Any) -> Resource:
    return Resource(f"{type_}.x", type_, None, values)


ACCOUNT = resource("google_service_account", email=STEPS)
NAME = f"projects/my-project/serviceAccounts/{STEPS}"


def acts(member: str) -> Resource:
    return resource(
        "google_service_account_iam_member", service_account_id=NAME, role=rights.IMPERSONATES, member=member
    )


def test_who_acts_and_what_it_holds():
    bucket = {"bucket": "data", "role": "roles/storage.objectViewer", "member": f"serviceAccount:{STEPS}"}
    cloud = rights.read(
        [
            ACCOUNT,
            acts("serviceAccount:my-project.svc.id.goog[slipway-pipelines/pipeline-step]"),
            resource("google_storage_bucket_iam_member", **bucket, condition=[{"expression": "a || b"}]),
            resource("google_sql_user", name="steps@my-project.iam", instance="mlflow"),
        ]
    )

    assert cloud.acting == {STEPS: ["slipway-pipelines/pipeline-step"]}
    text = rights.section(cloud, rights.Cloud(), ["slipway-pipelines/pipeline-step", "slipway-serving/default"])
    row = "| `slipway-pipelines/pipeline-step` | `steps` |"
    assert f"{row} storage.objectViewer | bucket `data`, where `a \\|\\| b` |" in text
    assert f"{row} signs in | database `mlflow` |" in text
    assert "`slipway-serving/default` act as nobody" in text


def test_a_role_of_our_own_is_what_it_holds():
    role = "projects/my-project/roles/look"
    cloud = rights.read(
        [
            ACCOUNT,
            resource("google_project_iam_custom_role", name=role, permissions=["a.b.get", "a.b.list"]),
            resource("google_project_iam_member", role=role, member=f"serviceAccount:{STEPS}"),
        ]
    )
    assert [one.role for one in cloud.grants] == ["a.b.get", "a.b.list"]


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        (
            resource("google_project_iam_member", role="roles/x", member=f"serviceAccount:gone-{STEPS}"),
            "gone-steps@my-project.iam.gserviceaccount.com: granted something, but no root makes this account",
        ),
        (resource("google_pubsub_topic_iam_member", role="roles/x", member="user:x"), ADD_IT),
        (acts("user:me@example.com"), "does not know who this is"),
        (acts("principalSet://iam.googleapis.com/pool/attribute.actor/me"), "does not know who this is"),
    ],
)
def test_a_grant_that_the_page_could_not_show_is_refused(planted: Resource, said: str):
    with pytest.raises(ValueError, match=said):
        rights.read([ACCOUNT, planted])


def test_differences_between_environments_are_named():
    texts = {"dev": "| a | b |\n| c | d |\n", "prod": "| a | b |\n| e | f |\n"}
    said = rights.differences(texts, "dev")
    assert "- `prod` also: e, f" in said and "- not in `prod`: c, d" in said


def test_the_first_half_keeps_the_second():
    page = cluster.page(cluster.read_base())
    assert half() in page
    assert rights.with_section(page, half()) == page
    assert rights.with_section("first\n", "second\n") == f"first\n\n{rights.BEGIN}second\n{rights.END}"
