"""The table of terraform/README.md is the one that prices.yaml and the environments' values make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from terraform import costs

PRICES = costs.read_prices()
STORE = costs.Store("standard", 100)
POOLS = {"system": {"machine_type": "e2-standard-4", "min_nodes": 1, "max_nodes": 3}}


def test_readme_has_the_table():
    page = costs.README.read_text()
    assert page == costs.with_table(page, costs.table(PRICES)), "python -m terraform.costs"


def test_readme_names_what_an_idle_ephemeral_environment_costs():
    values = costs.read_tfvars(costs.HERE / "environments/gke/ephemeral.tfvars")
    assert f"**{costs.costs_of(values, PRICES, costs.read_store('ephemeral')).idle:.2f}**" in costs.README.read_text()


def test_idle_by_hand():
    one = costs.costs_of({"pools": POOLS}, PRICES, STORE)
    # control plane, one e2-standard-4 with 100 GiB, NAT for one node with its address, the gateway, 100 GiB of store
    assert one.idle == pytest.approx(0.10 + 0.134 + 100 * 0.10 / 730 + 0.0014 + 0.005 + 0.025 + 100 * 0.20 / 730)
    assert one.at_most == pytest.approx(one.idle + 2 * (0.134 + 100 * 0.10 / 730))


def test_a_second_zone_doubles_a_database():
    database = {"tier": "db-custom-2-7680"}
    single = costs.costs_of({"pools": POOLS, "databases": database}, PRICES, STORE).databases
    both = costs.costs_of({"pools": POOLS, "databases": {**database, "highly_available": True}}, PRICES, STORE)
    assert both.databases == pytest.approx(2 * single)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pools": {"x": {"machine_type": "n4-standard-2", "max_nodes": 1}}}, "no price of n4-standard-2"),
        ({"pools": POOLS, "region": "europe-west4"}, "europe-west4"),
    ],
)
def test_what_has_no_price_is_said(values: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        costs.costs_of(values, PRICES, STORE)


def test_the_store_is_that_of_the_overlay(tmp_path: Path):
    claim = "kind: PersistentVolumeClaim\nspec: { resources: { requests: { storage: %s } } }\n"
    (tmp_path / "components/gke").mkdir(parents=True)
    (tmp_path / "overlays/gke-prod").mkdir(parents=True)
    text = "kind: StorageClass\nparameters: { tier: standard }\n---\n" + claim % "1Ti"
    (tmp_path / "components/gke/store.yaml").write_text(text)
    assert costs.read_store("prod", tmp_path) == costs.Store("standard", 1024)

    (tmp_path / "overlays/gke-prod/store.yaml").write_text(claim % "200Gi")
    assert costs.read_store("prod", tmp_path) == costs.Store("standard", 200)


def test_a_tier_without_a_price_is_said_and_left_out():
    one = costs.costs_of({"pools": POOLS}, PRICES, costs.Store("enterprise", 1024))
    assert one.store is None
    assert one.idle == pytest.approx(costs.costs_of({"pools": POOLS}, PRICES, costs.Store("standard", 0)).idle)
    assert "`prod`: without the store, 1024 GiB of Filestore's tier enterprise" in costs.table(PRICES)


def test_tfvars(tmp_path: Path):
    path = tmp_path / "x.tfvars"
    path.write_text('# said\na = "x#y" # more\nb = { c-d = 1, e = [true, null, 2.5] }\nf = {\n  g = "h"\n  i = -1\n}\n')
    assert costs.read_tfvars(path) == {"a": "x#y", "b": {"c-d": 1, "e": [True, None, 2.5]}, "f": {"g": "h", "i": -1}}


@pytest.mark.parametrize("text", ["a = local.b\n", "a = {", "a : 1\n"])
def test_tfvars_that_cannot_be_read(tmp_path: Path, text: str):
    path = tmp_path / "x.tfvars"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"x\.tfvars"):
        costs.read_tfvars(path)
