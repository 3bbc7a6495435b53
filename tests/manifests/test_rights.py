"""Roles give what the code uses, and no more; docs/rights.md says so."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.rollout.config import KServeConfig, RolloutConfig
from components.rollout.kserve import client, target
from components.rollout.kserve.client import Kind
from manifests import rights
from manifests.rights import Grant, accounts, grants, page, read_base
from pipelines.placement import Placement
from tests.manifests.conftest import Object, pick

KINDS = {name: kind for name, kind in vars(client).items() if isinstance(kind, Kind)}
SOURCES = sorted(Path(target.__file__).parent.glob("*.py"))

# Method of client.Cluster -> the verbs that the API server asks for. Server-side apply is patch, and create as well
# when there is no such object; replace is PUT.
VERBS = {
    "get": ("get",),
    "list": ("list",),
    "changes": ("watch",),
    "apply": ("patch", "create"),
    "create": ("create",),
    "replace": ("update",),
    "delete": ("delete",),
}

# Proxied requests: the verb is that of the HTTP method, and which methods are used is known to the callers alone.
PROXIED = {
    'http(f"services/': {
        ("", "services/proxy", "get"),
        ("", "services/proxy", "create"),
    },  # golden answers are asked by POST
    'http(f"pods/': {("", "pods/proxy", "get")},  # metrics
}

Right = tuple[str, str, str]


def used() -> set[Right]:
    """(group, resource, verb) of every call of the cluster's client in components/rollout/kserve."""
    found: set[Right] = set()
    for path in SOURCES:
        if path.name == "client.py":
            continue
        text = path.read_text()
        found |= {(_group(kind), kind.plural, verb) for kind, verb in calls(ast.parse(text))}
        for call, needed in PROXIED.items():
            found |= needed if call in text else set()
    return found


def calls(tree: ast.Module) -> Iterator[tuple[Kind, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value, method), args=[ast.Name(name), *_]) if (
                method in VERBS and "cluster" in ast.unparse(value)
            ):
                # every variable `kind` goes over what is watched; another name must be a kind's own
                kinds = target._WATCHED if name == "kind" else (KINDS[name],)
                for kind in kinds:
                    yield from ((kind, verb) for verb in VERBS[method])


def _group(kind: Kind) -> str:
    return kind.version.rpartition("/")[0]


def granted(account: str) -> set[Right]:
    return {
        (one.group, one.resource, verb) for one in grants(read_base()) if one.account == account for verb in one.verbs
    }


@pytest.mark.parametrize("account", ["slipway-pipelines/rollout", "slipway-pipelines/rollout-janitor"])
def test_the_rollouts_rights_are_what_its_code_uses(account: str) -> None:
    needed = used()

    assert len(needed) >= 20, "the calls are no longer found; look at calls()"
    assert granted(account) - needed == set(), "granted, and not used"
    assert needed - granted(account) == set(), "used, and not granted"


def test_the_namespaces_are_the_rollouts() -> None:
    config = KServeConfig()
    by_namespace = {
        (one.namespace, one.resource) for one in grants(read_base()) if one.account == "slipway-pipelines/rollout"
    }

    assert {resource for namespace, resource in by_namespace if namespace != config.namespace} == {"gateways"}
    assert (config.gateway.partition("/")[0], "gateways") in by_namespace


def test_what_is_live_is_read_with_the_readers_one_right() -> None:
    asked: list[Right] = []

    class Readable:
        """A cluster that knows one verb."""

        namespace = "slipway-serving"

        def get(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
            asked.append((_group(kind), kind.plural, "get"))
            return None

    cluster: Any = Readable()
    assert target.KServeTarget(RolloutConfig(target="kserve"), cluster=cluster).live() is None

    assert set(asked) == granted("slipway-pipelines/reader")


def test_whoever_else_has_an_account_has_no_rights() -> None:
    powerless = {account for account in accounts(read_base()) if not granted(account)}

    assert powerless == {
        "slipway-pipelines/pipeline-step",
        "slipway-serving/predictor",
        *(f"{one}/default" for one in ("slipway-system", "slipway-serving", "slipway-pipelines")),
    }


def test_no_rule_is_wider_than_what_it_names(rendered: list[Object]) -> None:
    closed = {"secrets", "configmaps", "roles", "rolebindings", "serviceaccounts", "namespaces", "nodes"}
    # test_gke.py has the rights of a job on GitHub one by one
    for one in (one for one in grants(rendered) if not rights.of_google(one.account)):
        words = {one.group, one.resource, *one.verbs}
        assert not any("*" in word for word in words), one
        # how the gateway treats backends is no secret, and the one ConfigMap that is read
        named = (one.resource, one.names, one.verbs) == ("configmaps", ("backend-policies",), ("get",))
        assert named or one.resource.partition("/")[0] not in closed, one
        assert not {"impersonate", "escalate", "bind", "deletecollection"} & set(one.verbs), one
        assert one.resource not in {"pods/exec", "pods/attach", "pods/portforward"}, one


def test_an_overlay_gives_the_same_rights(rendered: list[Object]) -> None:
    assert {one for one in grants(rendered) if not rights.of_google(one.account)} == set(grants(read_base()))
    assert set(accounts(rendered)) == set(accounts(read_base()))


def test_the_page_is_of_these_manifests() -> None:
    assert rights.PAGE.read_text() == page(read_base()), "run `python manifests/rights.py`"


def test_a_right_that_is_added_shows_on_the_page() -> None:
    objects = copy.deepcopy(read_base())
    role = next(one for one in objects if one["kind"] == "Role" and one["metadata"]["name"] == "reader")
    role["rules"].append({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]})

    assert "| `slipway-serving` | `secrets` | get |" in page(objects)
    assert Grant("slipway-pipelines/reader", "slipway-serving", "", "secrets", ("get",)) in grants(objects)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kind": "ClusterRoleBinding"}, "bind a Role"),
        ({"roleRef": {"kind": "ClusterRole", "name": "admin"}}, "there is no Role admin in slipway-serving"),
        ({"subjects": [{"kind": "Group", "name": "system:authenticated"}]}, "is no ServiceAccount"),
        ({"subjects": [{"kind": "User", "name": "me@example.com"}]}, "is no ServiceAccount"),
    ],
)
def test_a_binding_that_the_page_could_not_show_is_refused(changed: Object, words: str) -> None:
    objects = copy.deepcopy(read_base())
    binding = next(one for one in objects if one["kind"] == "RoleBinding" and one["metadata"]["name"] == "reader")
    binding |= changed

    with pytest.raises(ValueError, match=words):
        page(objects)


@pytest.mark.parametrize(("secret", "account"), [("rollout-token", "rollout"), ("reader-token", "reader")])
def test_a_tokens_kubeconfig_names_the_files_beside_it(rendered: list[Object], secret: str, account: str) -> None:
    found = pick(rendered, "Secret", secret)
    config = yaml.safe_load(found["stringData"]["kubeconfig"])
    (token,) = [one for one in Placement().tokens if one.secret == secret]

    assert found["metadata"]["annotations"]["kubernetes.io/service-account.name"] == account
    assert config["users"][0]["user"]["tokenFile"] == f"{token.path}/token"
    assert config["clusters"][0]["cluster"]["certificate-authority"] == f"{token.path}/ca.crt"
    assert config["contexts"][0]["context"]["namespace"] == KServeConfig().namespace
