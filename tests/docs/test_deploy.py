"""docs/deploy.md can be followed: each command, file, variable and price in it exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from terraform import costs
from tests.docs import commands
from tests.docs.commands import ROOT
from tests.terraform import hcl

PAGE = ROOT / "docs/deploy.md"
GKE = ROOT / "terraform/environments/gke"


def test_every_command_exists():
    page = PAGE.read_text()
    assert len(list(commands.commands(page))) > 50, "the commands are no longer found"
    assert commands.problems(page) == []


def test_every_link_leads_somewhere():
    assert commands.links(PAGE) == []


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("make plattform ENV=dev", "no target plattform"),
        ("make platform ENVIRONMENT=dev", "the Makefile reads no ENVIRONMENT"),
        (".venv/bin/slipway submit x.yaml --follow", "unrecognized arguments: --follow"),
        (".venv/bin/slipway deploy x.yaml", "invalid choice: 'deploy'"),
        (".venv/bin/python -m manifests.often dev", "no module manifests.often"),
        (".venv/bin/python -m manifests.recurring dev --now", "manifests.recurring takes no --now"),
        ("terraform -chdir=terraform/environments/aks apply", "no root terraform/environments/aks"),
        ("terraform -chdir=terraform/environments/gke apply -var-file=staging.tfvars", "no file staging.tfvars"),
        ("terraform -chdir=terraform/environments/gke output -raw kubeconfig", "no output kubeconfig"),
        ("terraform -chdir=terraform/environments/gke apply -var size=3", "no variable size"),
        ("terraform -chdir=terraform/environments/gke taint x", "no command taint"),
        ("gcloud container clusters upgrade", "no `gcloud container clusters upgrade` on this page"),
        ("kubectl get nodes --all-namespaces", "`kubectl get` takes no --all-namespaces"),
        ("gh variable set SLIPWAY_STAGING --body x", "no workflow reads the variable SLIPWAY_STAGING"),
        ("gh workflow run nightly", "no workflow nightly"),
        ("gh workflow run retrain -f model=x", "the workflow retrain has no input model"),
        ("helm install kserve", "helm is no program that this page may use"),
        ('echo "$(make plattform)"', "no target plattform"),
        ("kubectl get nodes | make plattform", "no target plattform"),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(planted: str, said: str):
    assert any(said in one for one in commands.problems(f"```sh\n{planted}\n```\n"))


def test_commands_in_the_text_are_read_too():
    assert commands.problems("Then `make plattform` again.\n") == ["make plattform: no target plattform"]


@pytest.mark.parametrize("planted", ["[x](nowhere.md)", "[x](rollout.md#no-such-heading)"])
def test_a_link_that_leads_nowhere_is_noticed(tmp_path: Path, planted: str):
    (tmp_path / "rollout.md").write_text("# Rollout\n")
    (tmp_path / "page.md").write_text(planted)
    assert len(commands.links(tmp_path / "page.md")) == 1


def values(page: str) -> dict[str, Any]:
    """Variables that the page's JSON gives."""
    blocks = re.findall(r"^```json\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return {name: value for block in blocks for name, value in json.loads(block).items()}


def unknown(page: str) -> list[str]:
    """Of those, what environments/gke does not take."""
    variables = hcl.named(hcl.read(GKE), "variable")
    found = []
    for name, value in values(page).items():
        if name not in variables:
            found.append(name)
            continue
        if not isinstance(value, dict):
            continue
        inside = [*value, *(f"budget.{one}" for one in value.get("budget", {}))]
        body = variables[name].body
        found += [f"{name}.{one}" for one in inside if not re.search(rf"\b{one.rpartition('.')[2]} += ", body)]
    return found


def test_terraform_takes_what_the_page_gives():
    assert set(values(PAGE.read_text())) == {"github", "monitoring", "edge"}
    assert unknown(PAGE.read_text()) == []
    planted = '{ "edge": { "host": "x" }, "monitoring": { "budget": { "limit": 1 } }, "node": {} }'
    assert unknown(f"```json\n{planted}\n```\n") == ["edge.host", "monitoring.budget.limit", "node"]


@pytest.mark.parametrize("environment", costs.ENVIRONMENTS)
def test_what_the_page_gives_is_not_overridden(environment: str):
    """-var-file wins over mine.auto.tfvars.json and over the workflows' variables, and objects are not joined."""
    assert set(values(PAGE.read_text())).isdisjoint(costs.read_tfvars(GKE / f"{environment}.tfvars"))


def prices() -> dict[str, float]:
    """What the page says of costs -> what terraform/costs.py reckons."""
    all_ = costs.read_prices()
    of = {}
    for name in costs.ENVIRONMENTS:
        store = costs.read_store(name)
        of[name] = costs.costs_of(costs.read_tfvars(GKE / f"{name}.tfvars"), all_, store)
    assert of["dev"].store is not None
    return {
        r"\| 2 Terraform \|[^|]*\| ([\d.]+) an hour": of["dev"].idle - of["dev"].store,
        r"\| 5 platform \|[^|]*\| ([\d.]+) an hour more": of["dev"].store,
        r"\| 6 first run \|[^|]*\| ([\d.]+) an hour": costs._node({"machine_type": "e2-highmem-8"}, all_),
        r"\| 8 public door \|[^|]*\| ([\d.]+) an hour more": all_["armor"] / all_["hours_per_month"],
        r"all of it costs ([\d.]+) an hour": of["dev"].idle,
        r"an hour, ([\d,]+) a month": of["dev"].idle * all_["hours_per_month"],
        r"pools that stand: ([\d.]+) an hour idle": of["prod"].idle,
    }


def test_costs_are_those_of_the_table():
    page = PAGE.read_text()
    for pattern, price in prices().items():
        said = re.search(pattern, page)
        assert said, pattern
        digits = len(said[1].partition(".")[2])
        assert f"{price:,.{digits}f}" == said[1], pattern


def test_the_alternative_tells_what_lies_in_the_store():
    """The table leaves out a store without a price, and so must the page's sentence about prod."""
    assert costs.read_store("prod").tier not in costs.read_prices()["store_gib"]
    assert "its store (1 TiB in two zones) not reckoned in" in PAGE.read_text()
