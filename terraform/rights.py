"""Writes the second half of docs/rights.md, who may do what in Google Cloud: `python -m terraform.rights`.

What Terraform itself says that it grants is the only source (made.py); a test says when the page is out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from manifests import rights as cluster
from terraform import made
from terraform.made import PROJECT, Resource

BEGIN, END = "<!-- cloud: made by python -m terraform.rights -->\n", "<!-- cloud end -->\n"

ENVIRONMENTS = {"ephemeral": "eph", "dev": "dev", "prod": "prod"}
"""Environment -> what stands for it in names."""

IMPERSONATES = "roles/iam.workloadIdentityUser"
SIGNS_IN = "signs in"
_CUSTOM = "google_project_iam_custom_role"

INTRODUCTION = """\
# Who may do what in Google Cloud

Made from what `terraform/environments` grants by `make rights`; change it there. `ENV` is `eph`, `dev` or `prod` in
names, and the environment's whole name in GitHub's. Beside it there are the agents by which Google's own services work,
and whoever the project's owner let in otherwise (`gcloud projects get-iam-policy PROJECT`). No account has a key.
"""

GITHUB = """\
A job proves who it is with a token that GitHub signs for it. Google believes tokens of these alone:

```
{condition}
```

Who must agree first is said in GitHub: the environments `infrastructure-dev` and `infrastructure-prod` must ask for a
review, since whoever is in them may do everything. `infrastructure-ephemeral` asks nobody, so `ephemeral` belongs into
a project of its own. `plan` and `preview` run what a branch of this repository holds, a pull request's too, and never
a fork's. `submit` comes by its Google role to the API server and no further; in the cluster
`manifests/components/gke/submitter.yaml` lets it forward a port to Kubeflow and write the record of the release.
"""


@dataclass(frozen=True, order=True)
class Grant:
    """One role of one member."""

    member: str
    """serviceAccount:EMAIL, group:…, allUsers."""

    on: str
    """The kind and name of what it holds on: "bucket NAME", "project"."""

    role: str
    condition: str = ""


@dataclass
class Cloud:
    """Who is there, and what each may do."""

    accounts: list[str] = field(default_factory=list)
    """Emails."""

    grants: list[Grant] = field(default_factory=list)
    acting: dict[str, list[str]] = field(default_factory=dict)
    """Email -> who may act as it: a Kubernetes account NAMESPACE/NAME, or a workflow of GitHub's."""

    condition: str = ""
    """Which of GitHub's tokens are believed at all."""


def read(resources: Iterable[Resource]) -> Cloud:
    """Raises ValueError for a grant that this does not understand: the page would be silent about it."""
    found, every = Cloud(), list(resources)
    custom = {one.values["name"]: one.values["permissions"] for one in every if one.type == _CUSTOM}
    for one in every:
        if one.type == "google_service_account":
            found.accounts.append(one.values["email"])
        elif one.type == "google_iam_workload_identity_pool_provider":
            found.condition = one.values["attribute_condition"].replace(" && ", "\n&& ", 2).replace(" || ", "\n    || ")
        elif one.type == "google_service_account_iam_member" and one.values["role"] == IMPERSONATES:
            found.acting.setdefault(_email(one), []).append(_actor(one.values["member"]))
        elif one.type == "google_sql_user":
            email = one.values["name"].removesuffix(".gserviceaccount.com") + ".gserviceaccount.com"
            found.grants.append(Grant(f"serviceAccount:{email}", f"database `{one.values['instance']}`", SIGNS_IN))
        elif re.search(r"_iam_|_access_", one.type) and not one.type.startswith("google_iam_") and one.type != _CUSTOM:
            grant = _grant(one)
            # a role of our own is what it holds
            names = custom.get(grant.role, [grant.role])
            found.grants += [replace(grant, role=name) for name in names]
    found.grants.sort()
    if strangers := sorted({one.member for one in found.grants if _of_project(one.member)} - _members(found.accounts)):
        raise ValueError(f"{', '.join(strangers)}: granted something, but no root makes this account")
    return found


def _members(emails: Iterable[str]) -> set[str]:
    return {f"serviceAccount:{email}" for email in emails}


def _of_project(member: str) -> bool:
    return member.startswith("serviceAccount:") and member.endswith(f"@{PROJECT}.iam.gserviceaccount.com")


def _grant(one: Resource) -> Grant:
    values = one.values
    match one.type:
        case "google_project_iam_member":
            on = "project"
        case "google_storage_bucket_iam_member":
            on = f"bucket `{values['bucket']}`"
        case "google_artifact_registry_repository_iam_member":
            on = f"repository `{values['repository']}`"
        case "google_service_account_iam_member":
            on = f"account `{_email(one).partition('@')[0]}`"
        case "google_iap_web_iam_member":
            on = "the public door"
        case "google_cloud_run_v2_service_iam_member":
            on = f"service `{values['name']}`"
        case _:
            raise ValueError(f"{one.address}: terraform/rights.py does not know what {one.type} is on; add it there")
    conditions = [condition["expression"] for condition in values.get("condition") or []]
    return Grant(values["member"], on, values["role"], " && ".join(conditions))


def _email(one: Resource) -> str:
    """Of the account that a grant is on."""
    return one.values["service_account_id"].rpartition("/")[2]


def _actor(member: str) -> str:
    """Who acts: by Kubernetes' account or GitHub's attribute. Raises ValueError for anybody else."""
    if kubernetes := re.fullmatch(r"serviceAccount:[\w.-]+\.svc\.id\.goog\[([\w-]+/[\w-]+)\]", member):
        return kubernetes[1]
    if github := re.fullmatch(r"principalSet://\S+/attribute\.(ref|environment)/(\S+)", member):
        kind = {"ref": "workflows on", "environment": "GitHub environment"}[github[1]]
        return f"{kind} `{github[2]}`"
    raise ValueError(f"{member}: terraform/rights.py does not know who this is")


def without_names(text: str, environment: str) -> str:
    """The text as it is in every environment."""
    short = ENVIRONMENTS[environment]
    for name, general in (
        (f"{PROJECT}-{short}-", "PROJECT-ENV-"),
        (f"slipway-{short}-", "slipway-ENV-"),
        (f"`slipway-{short}`", "`slipway-ENV`"),
        (f"infrastructure-{environment}", "infrastructure-ENV"),
        (f"environment `{environment}`", "environment `ENV`"),
        (f"environment == '{environment}'", "environment == 'ENV'"),
        (PROJECT, "PROJECT"),
        (made.REPOSITORY["id"], "REPOSITORY"),
        (made.REPOSITORY["owner_id"], "OWNER"),
    ):
        text = text.replace(name, general)
    return text


def section(gke: Cloud, cloudrun: Cloud, kubernetes: list[str]) -> str:
    """The half of the page. `kubernetes`: NAMESPACE/NAME of every account of the manifests."""
    by_kind: dict[str, list[str]] = {"kubernetes": [], "github": [], "others": []}
    for email in gke.accounts:
        actors = gke.acting.get(email, [])
        kind = "others" if not actors else "kubernetes" if all("`" not in one for one in actors) else "github"
        by_kind[kind].append(email)
    acting = {actor for actors in gke.acting.values() for actor in actors}
    nobody = [account for account in kubernetes if account not in acting]
    lines = [INTRODUCTION, "## Accounts of the cluster", ""]
    lines += _table("Kubernetes account", by_kind["kubernetes"], gke)
    lines += ["", f"{_listed(nobody)} act as nobody: Google refuses them everything.", ""]
    lines += ["## Jobs on GitHub", "", GITHUB.format(condition=gke.condition)]
    lines += _table("who may be it", by_kind["github"], gke)
    lines += ["", "## Everybody else", ""]
    lines += _others(by_kind["others"], gke)
    lines += ["", "## The demo on Cloud Run", ""]
    lines += [
        "As `terraform/environments/cloudrun` is, where a release is fetched; `allUsers` only with `public = true`."
    ]
    lines += ["", *_others(cloudrun.accounts, cloudrun)]
    return "\n".join(lines) + "\n"


def _table(who: str, emails: list[str], cloud: Cloud) -> list[str]:
    lines = [f"| {who} | acts as | role | on |", "|---|---|---|---|"]
    for email in emails:
        actors = ", ".join(one if "`" in one else f"`{one}`" for one in cloud.acting[email])
        lines += _rows(f"{actors} | `{_short(email)}`", f"serviceAccount:{email}", cloud)
    return lines


def _others(emails: list[str], cloud: Cloud) -> list[str]:
    """Accounts that nobody acts as from outside, and members that are no account of ours."""
    lines = ["| who | role | on |", "|---|---|---|"]
    ours = _members(cloud.accounts)
    for email in emails:
        lines += _rows(f"`{_short(email)}`", f"serviceAccount:{email}", cloud)
    for member in sorted({one.member for one in cloud.grants} - ours):
        lines += _rows(f"`{member}`", member, cloud)
    return lines


def _rows(first: str, member: str, cloud: Cloud) -> Iterator[str]:
    """One line for what the member holds on one thing."""
    held: dict[tuple[str, str], list[str]] = {}
    for one in cloud.grants:
        if one.member == member:
            held.setdefault((one.on, one.condition), []).append(one.role)
    if not held:
        yield f"| {first} | nothing | |"
    for (on, condition), roles in held.items():
        # a table's cell ends at a | even inside code
        where = f"{on}, where `{condition.replace('|', chr(92) + '|')}`" if condition else on
        yield f"| {first} | {', '.join(role.removeprefix('roles/') for role in roles)} | {where} |"


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _short(email: str) -> str:
    return email.partition("@")[0]


def differences(texts: dict[str, str], shown: str) -> str:
    """What the other environments grant beside the one that is shown, and what they do not. Environment -> its half."""
    rows = {name: [line for line in text.splitlines() if line.startswith("| ")] for name, text in texts.items()}
    options = "with every option that grants something: `edge`, `github` and `vertex`"
    lines = ["## Where environments differ", "", f"The tables are those of `{shown}`, {options}.", ""]
    for name, held in rows.items():
        lines += [f"- `{name}` also: {_row(row)}" for row in held if row not in rows[shown]]
        lines += [f"- not in `{name}`: {_row(row)}" for row in rows[shown] if row not in held]
    return "\n".join(lines) + "\n"


def _row(line: str) -> str:
    return ", ".join(cell.strip() for cell in line.strip("| ").split(" | "))


def half(terraform: made.Terraform) -> str:
    """The second half of the page."""
    cloudrun, accounts = read(made.cloudrun(terraform)), cluster.accounts(cluster.read_base())
    clouds = {name: read(made.environment(terraform, name)) for name in ENVIRONMENTS}
    texts = {name: without_names(section(cloud, cloudrun, accounts), name) for name, cloud in clouds.items()}
    return texts["dev"] + "\n" + differences(texts, "dev")


def with_section(page: str, new: str) -> str:
    """The page with another second half."""
    return page.partition(BEGIN)[0].rstrip("\n") + "\n\n" + BEGIN + new + END


if __name__ == "__main__":
    with made.copied() as copy:
        text = half(copy)
    cluster.PAGE.write_text(with_section(cluster.PAGE.read_text(), text))
    print(f"wrote the second half of {cluster.PAGE.relative_to(cluster.ROOT)}")
