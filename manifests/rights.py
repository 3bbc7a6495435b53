"""Writes docs/rights.md, the table of who may do what in the cluster, from the manifests: `python manifests/rights.py`.

The roles of manifests/base are the only source; a test says when the page is out of date. Its second half, who may do
what in Google Cloud, is terraform/rights.py's and stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "manifests/base"
PAGE = ROOT / "docs/rights.md"

Object = dict[str, Any]

INTRODUCTION = """\
# Who may do what in the cluster

Made from `manifests/base` by `python manifests/rights.py`; change it there. `tests/cluster/test_rights.py` proves it on
a real cluster: what stands here is allowed, everything else is refused.

A Kubeflow run has one account for all of its tasks. The rollout task alone mounts the Secret `rollout-token`, and no
account may read Secrets, so that no other task comes by the token through the API. Whoever may submit pipelines writes
the pods of their tasks, and can mount that Secret in any of them: submitting is a right to roll out.
"""


@dataclass(frozen=True)
class Grant:
    """Verbs on one resource in one namespace."""

    account: str
    """namespace/name of a ServiceAccount, or the email of a Google account."""

    namespace: str
    group: str
    resource: str
    """With its subresource: "services/proxy"."""

    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    """Only objects of these names; () is all of them."""


def read_base() -> list[Object]:
    """Every object of manifests/base, as it is written there."""
    files = [BASE / name for name in yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]]
    return [one for file in files for one in yaml.safe_load_all(file.read_text()) if one]


def accounts(objects: Iterable[Object]) -> list[str]:
    """namespace/name of each ServiceAccount."""
    return [place(one) for one in objects if one["kind"] == "ServiceAccount"]


def grants(objects: Iterable[Object]) -> list[Grant]:
    """What each account may do. Raises ValueError for a binding that this does not understand."""
    every = list(objects)
    roles = {place(one): one for one in every if one["kind"] == "Role"}
    found: list[Grant] = []
    for one in every:
        if one["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            raise ValueError(f"{one['kind']} {one['metadata']['name']}: rights here end at a namespace; bind a Role")
        if one["kind"] == "RoleBinding":
            found += _bound(one, roles)
    return found


def _bound(binding: Object, roles: dict[str, Object]) -> Iterator[Grant]:
    namespace, reference = binding["metadata"]["namespace"], binding["roleRef"]
    role = roles.get(f"{namespace}/{reference['name']}") if reference["kind"] == "Role" else None
    if role is None:
        raise ValueError(f"RoleBinding {place(binding)}: there is no Role {reference['name']} in {namespace}")
    for subject in binding["subjects"]:
        account = f"{subject.get('namespace')}/{subject['name']}"
        if subject["kind"] == "User" and of_google(subject["name"]):
            account = subject["name"]
        elif subject["kind"] != "ServiceAccount":
            raise ValueError(f"RoleBinding {place(binding)}: {subject['kind']} {subject['name']} is no ServiceAccount")
        for rule in role["rules"]:
            verbs, names = tuple(rule["verbs"]), tuple(rule.get("resourceNames", ()))
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    yield Grant(account, namespace, group, resource, verbs, names)


def of_google(account: str) -> bool:
    """Whether it is a Google account: a job on GitHub, which no pod can be."""
    return account.endswith(".iam.gserviceaccount.com")


def place(one: Object) -> str:
    """namespace/name of an object."""
    return f"{one['metadata']['namespace']}/{one['metadata']['name']}"


def token_holders(objects: Iterable[Object]) -> dict[str, list[str]]:
    """Account -> what holds a token of it: pods that mount one, and Secrets."""
    found: dict[str, list[str]] = {}
    for one in objects:
        metadata = one["metadata"]
        if one["kind"] == "CronJob":
            pod = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            if pod.get("automountServiceAccountToken", True):
                account = f"{metadata['namespace']}/{pod.get('serviceAccountName', 'default')}"
                found.setdefault(account, []).append(f"CronJob `{metadata['name']}`")
        if one["kind"] == "Secret" and one.get("type") == "kubernetes.io/service-account-token":
            account = f"{metadata['namespace']}/{metadata['annotations']['kubernetes.io/service-account.name']}"
            found.setdefault(account, []).append(f"Secret `{metadata['name']}`")
    return found


def page(objects: Iterable[Object]) -> str:
    """docs/rights.md, with the second half that it has."""
    every = list(objects)
    granted, holders = grants(every), token_holders(every)
    lines = [INTRODUCTION, "| account | a token of it is in | may do |", "|---|---|---|"]
    with_rights: dict[tuple[Grant, ...], list[str]] = {}
    for account in accounts(every):
        own = [one for one in granted if one.account == account]
        where = " and ".join(sorted({f"`{one.namespace}`" for one in own}, reverse=True))
        may = f"in {where}, see below" if own else "nothing"
        lines.append(f"| `{account}` | {', '.join(holders.get(account, ['nothing']))} | {may} |")
        if own:
            key = tuple(Grant("", one.namespace, one.group, one.resource, one.verbs, one.names) for one in own)
            with_rights.setdefault(key, []).append(account)
    for rights, holding in with_rights.items():
        lines += ["", f"## {' and '.join(f'`{account}`' for account in holding)}", ""]
        lines += ["| in | resource | verbs |", "|---|---|---|"]
        lines += [f"| `{one.namespace}` | {_resource(one)} | {', '.join(one.verbs)} |" for one in rights]
    _, mark, cloud = PAGE.read_text().partition("\n<!-- cloud: ")
    return "\n".join(lines) + "\n" + mark + cloud


def _resource(grant: Grant) -> str:
    resource, _, subresource = grant.resource.partition("/")
    full = f"{resource}.{grant.group}" if grant.group else resource
    named = f", only `{'`, `'.join(grant.names)}`" if grant.names else ""
    return f"`{full}{f'/{subresource}' if subresource else ''}`{named}"


if __name__ == "__main__":
    PAGE.write_text(page(read_base()))
    print(f"wrote {PAGE.relative_to(ROOT)}")
