"""What an environment costs, from its tfvars and prices.yaml: `python -m terraform.costs` writes README.md's table.

Idle is what stands when nobody works: control plane, each pool's min_nodes, NAT, load balancer, databases, and the
steps' store, whose size and tier are those of manifests/overlays. Traffic, buckets by the GiB and logs come on top.
Flex-start nodes are reckoned at the on-demand price, which they do not exceed; so are spot nodes whose price
prices.yaml does not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
MANIFESTS = HERE.parent / "manifests"
README = HERE / "README.md"
ENVIRONMENTS = ("ephemeral", "dev", "prod")
BEGIN, END = "<!-- costs: made by python -m terraform.costs -->\n", "<!-- costs end -->"


def read_tfvars(path: Path) -> dict[str, Any]:
    """The values of a tfvars file: strings, numbers, booleans, null, lists and objects of them.

    Raises ValueError that names the file for anything else, an expression for example.
    """
    text = re.sub(r"^\s*#.*$|\s#[^\"\n]*$", "", path.read_text(), flags=re.MULTILINE)
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|[A-Za-z_][\w-]*|[{}\[\],=]|\S', text)
    position = 0

    def take() -> str:
        nonlocal position
        if position == len(tokens):
            raise ValueError(f"{path}: ends in the middle of a value")
        position += 1
        return tokens[position - 1]

    def value() -> Any:
        token = take()
        if token == "{":
            return entries("}")
        if token == "[":
            found = []
            while tokens[position] != "]":
                found.append(value())
                if tokens[position] == ",":
                    take()
            take()
            return found
        if token in ("true", "false", "null"):
            return {"true": True, "false": False, "null": None}[token]
        if token.startswith('"'):
            return token[1:-1]
        try:
            return float(token) if "." in token else int(token)
        except ValueError as error:
            raise ValueError(f"{path}: {token!r} is no value that this reads; write it out") from error

    def entries(end: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while position < len(tokens) and tokens[position] != end:
            name = take().strip('"')
            if (sign := take()) != "=":
                raise ValueError(f"{path}: {sign!r} after {name}, where = was expected")
            found[name] = value()
            if position < len(tokens) and tokens[position] == ",":
                take()
        if end:
            take()
        return found

    return entries("")


@dataclass(frozen=True)
class Costs:
    """USD per hour of one environment."""

    cluster: float
    nodes: float
    """Each pool's min_nodes, with disks."""

    nodes_at_most: float
    network: float
    databases: float
    store: float | None
    """None where prices.yaml has no price of its tier; what is reckoned from it leaves it out."""

    @property
    def idle(self) -> float:
        return self.cluster + self.nodes + self.network + self.databases + (self.store or 0.0)

    @property
    def at_most(self) -> float:
        return self.idle - self.nodes + self.nodes_at_most


@dataclass(frozen=True)
class Store:
    """The volume that all steps share (manifests/components/gke/store.yaml)."""

    tier: str
    gib: int


def read_store(environment: str, manifests: Path = MANIFESTS) -> Store:
    """The store of an environment: the component's, with what its overlay changes."""
    found: dict[str, Any] = {}
    for path in (manifests / "components/gke/store.yaml", manifests / f"overlays/gke-{environment}/store.yaml"):
        for one in yaml.safe_load_all(path.read_text()) if path.exists() else []:
            if one["kind"] == "StorageClass":
                found |= {"tier": one.get("parameters", {}).get("tier", found.get("tier"))}
            elif one["kind"] == "PersistentVolumeClaim":
                found |= {"size": one["spec"]["resources"]["requests"]["storage"]}
    number, unit = re.fullmatch(r"(\d+)(Gi|Ti)", found["size"]).groups()  # type: ignore[union-attr]
    return Store(found["tier"], int(number) * {"Gi": 1, "Ti": 1024}[unit])


def costs_of(values: dict[str, Any], prices: dict[str, Any], store: Store) -> Costs:
    """What an environment with these values costs. Raises ValueError for a machine or region without a price."""
    region = values.get("region", "us-central1")
    if region != prices["region"]:
        raise ValueError(f"prices.yaml has the prices of {prices['region']}, the environment is in {region}; edit it")
    pools = values["pools"]
    standing = sum(pool.get("min_nodes", 0) for pool in pools.values())
    door = prices["load_balancer"] + (prices["armor"] / prices["hours_per_month"] if values.get("edge") else 0.0)
    per_gib = prices["store_gib"].get(store.tier)
    return Costs(
        cluster=prices["cluster"],
        nodes=sum(pool.get("min_nodes", 0) * _node(pool, prices) for pool in pools.values()),
        nodes_at_most=sum(pool["max_nodes"] * _node(pool, prices) for pool in pools.values()),
        network=prices["nat_gateway_per_node"] * min(standing, 32) + prices["nat_address"] + door,
        databases=_databases(values.get("databases"), prices),
        store=None if per_gib is None else store.gib * per_gib / prices["hours_per_month"],
    )


def _node(pool: dict[str, Any], prices: dict[str, Any]) -> float:
    machine = prices["machines"].get(pool["machine_type"])
    if machine is None:
        raise ValueError(f"prices.yaml has no price of {pool['machine_type']}; add it under machines")
    price = machine.get("spot", machine["on_demand"]) if pool.get("provisioning") == "spot" else machine["on_demand"]
    disk = pool.get("disk", {}).get("size_gib", 100) * prices["disk_gib"] / prices["hours_per_month"]
    return price + disk


def _databases(values: dict[str, Any] | None, prices: dict[str, Any]) -> float:
    """Two instances, each twice where it stands in two zones."""
    if values is None:
        return 0.0
    vcpus, memory_mib = (int(part) for part in values.get("tier", "db-custom-1-3840").rsplit("-", 2)[1:])
    machine = vcpus * prices["sql_vcpu"] + memory_mib / 1024 * prices["sql_memory_gib"]
    disk = values.get("disk_gib", 10) * prices["sql_disk_gib"] / prices["hours_per_month"]
    return 2 * (machine + disk) * (2 if values.get("highly_available") else 1)


def table(prices: dict[str, Any]) -> str:
    """The table of README.md."""
    lines = [
        f"In {prices['currency']}, {prices['region']}, list prices as of {prices['as_of']} (`prices.yaml`; edit it):",
        "",
        "| environment | control plane | nodes | network | databases | store | **idle per hour** | idle per month "
        "| every pool full, per hour |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    unknown = []
    for name in ENVIRONMENTS:
        store = read_store(name)
        one = costs_of(read_tfvars(HERE / "environments" / "gke" / f"{name}.tfvars"), prices, store)
        parts = [one.cluster, one.nodes, one.network, one.databases, one.store]
        if one.store is None:
            what = f"{store.gib} GiB of Filestore's tier {store.tier}"
            unknown.append(f"`{name}`: without the store, {what}, whose price is not in prices.yaml.")
        month = one.idle * prices["hours_per_month"]
        shown = " | ".join("?" if part is None else f"{part:.2f}" for part in parts)
        lines.append(f"| `{name}` | {shown} | **{one.idle:.2f}** | {month:,.0f} | {one.at_most:,.2f} |")
    return "\n".join([*lines, *(["", *unknown] if unknown else [])]) + "\n"


def read_prices() -> dict[str, Any]:
    """prices.yaml."""
    return yaml.safe_load((HERE / "prices.yaml").read_text())


def with_table(page: str, new: str) -> str:
    """The page with another table between its marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + new + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(), table(read_prices())))
    print(f"wrote the table of {README}")
