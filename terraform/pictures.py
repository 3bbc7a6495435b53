"""Draws the pictures of README.md from the code, as Mermaid: `python -m terraform.pictures`.

The network and the flow of trust are what Terraform says that it makes (made.py), the modules what `terraform graph`
says that each waits for. A test says when a picture is out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from terraform import made, rights
from terraform.made import Resource

README = Path(__file__).parent / "README.md"
SHOWN = "prod"
"""The environment that has most of everything."""

DRAWN = ("environments/gke", "environments/github")
"""Roots whose modules are shown."""

NETWORK, JOBS, PODS, MODULES = (
    (f"<!-- {name}: made by python -m terraform.pictures -->\n", f"<!-- {name} end -->\n")
    for name in ("network", "trust of jobs", "trust of pods", "modules")
)

STRAIGHT = '%%{init: {"flowchart": {"curve": "linear"}}}%%'
"""Mermaid lays labels out apart, then moves each to the middle of its curve, where they cover each other."""


@dataclass
class Chart:
    """A flowchart that grows line by line."""

    direction: str
    lines: list[str] = field(default_factory=list)

    def node(self, text: str, *more: str, shape: str = "[]", key: str = "") -> str:
        """A node with these lines of text; its name."""
        name = key or _name(text)
        opening, closing = {"[]": ('["', '"]'), "()": ('(["', '"])'), "{}": ('[("', '")]')}[shape]
        line = f"  {name}{opening}{'<br/>'.join([text, *more])}{closing}"
        if line not in self.lines:
            self.lines.append(line)
        return name

    def group(self, key: str, text: str) -> None:
        self.lines.append(f'  subgraph {key}["{text}"]')

    def end(self) -> None:
        self.lines.append("  end")

    def arrow(self, start: str, stop: str, text: str = "") -> None:
        self.lines.append(f'  {start} -->|"{text}"| {stop}' if text else f"  {start} --> {stop}")

    def text(self) -> str:
        return "\n".join(["```mermaid", STRAIGHT, f"flowchart {self.direction}", *self.lines, "```"]) + "\n"


def _name(text: str) -> str:
    """Mermaid takes letters, digits and underscores, and `end` ends a group."""
    return "n_" + re.sub(r"\W+", "_", text).strip("_")


class Made:
    """What an environment makes, to be asked by address."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.every = list(resources)

    def one(self, address: str) -> dict[str, Any]:
        """Values of a resource, by the end of its address; a picture without it would be wrong."""
        return next(each.values for each in self.every if each.address.endswith(address))

    def all(self, type_: str) -> list[Resource]:
        return [each for each in self.every if each.type == type_]


def network(resources: Iterable[Resource]) -> str:
    """Who reaches what: ranges, ports and doors."""
    found, chart = Made(resources), Chart("TB")
    nodes, proxies = found.one("google_compute_subnetwork.nodes"), found.one("google_compute_subnetwork.proxies")
    ranges = {one["range_name"]: one["ip_cidr_range"] for one in nodes["secondary_ip_range"]}
    users = chart.node("users", shape="()")
    operators = chart.node("you, GitHub Actions", shape="()")
    door = chart.node("public door", *_door(found), key="door")
    api = chart.node("API server", *_api(found), key="api")
    chart.group(
        "vpc", f"VPC {found.one('google_compute_network.network')['name']}: what no arrow lets in is denied, and logged"
    )
    chart.group(
        "nodes",
        f"nodes {nodes['ip_cidr_range']}, no public address; pods {ranges['pods']}; services {ranges['services']}",
    )
    for pool in found.all("google_container_node_pool"):
        chart.node(*_pool(pool), key=_name(f"pool {pool.index}"))
    chart.end()
    inside = chart.node("proxies of internal load balancers", proxies["ip_cidr_range"], key="proxies")
    chart.end()
    sources = set(found.one("google_compute_firewall.load_balancers")["source_ranges"]) - {proxies["ip_cidr_range"]}
    served = _ports(found.one("google_compute_firewall.load_balancers"))
    oldest = found.one("google_compute_ssl_policy.modern")["min_tls_version"].replace("TLS_", "TLS ").replace("_", ".")
    chart.arrow(users, door, f"{oldest} or newer")
    chart.arrow(operators, api, "every call asks IAM")
    chart.arrow(door, "nodes", f"{served}, from {', '.join(sorted(sources))}")
    chart.arrow(inside, "nodes", served)
    chart.arrow(api, "nodes", f"webhooks: {_ports(found.one('google_compute_firewall.webhooks'))}")
    chart.arrow("nodes", chart.node("model hubs, foreign registries", shape="()", key="internet"), "Cloud NAT")
    chart.arrow(
        "nodes", chart.node("Google's APIs", *_google(found), shape="{}", key="google"), "private Google access"
    )
    chart.arrow("nodes", chart.node("Cloud SQL", *_databases(found), shape="{}", key="sql"), _peering(found))
    return chart.text()


def _door(found: Made) -> list[str]:
    rules = found.one("google_compute_security_policy.policy")["rule"]
    limit = next(rule["rate_limit_options"][0] for rule in rules if rule["rate_limit_options"])
    threshold = limit["rate_limit_threshold"][0]
    armor = f"Cloud Armor: {threshold['count']} requests in {threshold['interval_sec']} s from one address"
    return [
        found.one("google_certificate_manager_certificate.certificate")["managed"][0]["domains"][0],
        armor,
        "Identity-Aware Proxy",
    ]


def _api(found: Made) -> list[str]:
    values = found.one("google_container_cluster.cluster")
    ways = values["control_plane_endpoints_config"][0]
    public = not values["private_cluster_config"][0]["enable_private_endpoint"]
    name = "DNS endpoint" if ways["dns_endpoint_config"][0]["allow_external_traffic"] else "no DNS endpoint"
    return [name, "a public address" if public else "no public address"]


def _pool(pool: Resource) -> list[str]:
    node, scaling = pool.values["node_config"][0], pool.values["autoscaling"][0]
    bought = "spot" if node["spot"] else "flex-start" if node["flex_start"] else ""
    bought = "queued" if pool.values["queued_provisioning"] else bought
    gpus = [f"{one['count']} x {one['type'].removeprefix('nvidia-')}" for one in node["guest_accelerator"] or []]
    size = f"{scaling['total_min_node_count']} to {scaling['total_max_node_count']}"
    return [f"{pool.index}: {size} {node['machine_type']}", ", ".join([*gpus, *([bought] if bought else [])])][
        : 2 if gpus or bought else 1
    ]


def _ports(firewall: dict[str, Any]) -> str:
    return ", ".join(sorted((port for rule in firewall["allow"] for port in rule["ports"]), key=int))


def _google(found: Made) -> list[str]:
    buckets = ", ".join(str(one.index) for one in found.all("google_storage_bucket"))
    return [f"buckets: {buckets}", "images, secrets, logs, metrics"]


def _databases(found: Made) -> list[str]:
    private = all(
        not one.values["settings"][0]["ip_configuration"][0]["ipv4_enabled"]
        for one in found.all("google_sql_database_instance")
    )
    names = [f"{one.index}: {one.values['database_version']}" for one in found.all("google_sql_database_instance")]
    return [*names, "no public address" if private else "A PUBLIC ADDRESS"]


def _peering(found: Made) -> str:
    reserved = found.one("google_compute_global_address.private_services")
    return f"peered {reserved['address']}/{reserved['prefix_length']}, Auth Proxy, TLS"


def trust_of_jobs(cloud: rights.Cloud) -> str:
    """Which job on GitHub may be which account, and what that is good for."""
    return _trust("a job on GitHub, by a token that GitHub signs", _acting(cloud, on_github=True), cloud)


def trust_of_pods(cloud: rights.Cloud) -> str:
    """The same for pods, by their Kubernetes accounts."""
    return _trust("a pod, by a token of its Kubernetes account", _acting(cloud, on_github=False), cloud)


def _acting(cloud: rights.Cloud, on_github: bool) -> dict[str, list[str]]:
    """Account -> who may be it; what GitHub signs stands in backticks."""
    return {email: some for email, some in cloud.acting.items() if all("`" in one for one in some) == on_github}


def _trust(who: str, acting: dict[str, list[str]], cloud: rights.Cloud) -> str:
    chart = Chart("LR")
    chart.group("who", who)
    for actor in (one for some in acting.values() for one in some):
        chart.node(actor.replace("`", ""), shape="()")
    chart.end()
    for email, actors in acting.items():
        account = chart.node(email.partition("@")[0])
        for actor in actors:
            chart.arrow(_name(actor.replace("`", "")), account)
        for on, roles in _held(cloud, email).items():
            chart.arrow(account, chart.node(on.replace("`", ""), shape="{}"), roles)
    return chart.text()


def _held(cloud: rights.Cloud, email: str) -> dict[str, str]:
    """What an account holds roles on -> the roles, or how many there are."""
    found: dict[str, list[str]] = {}
    for one in cloud.grants:
        if one.member == f"serviceAccount:{email}":
            some = " in part" if one.condition else ""
            found.setdefault(one.on, []).append(one.role.removeprefix("roles/") + some)
    return {on: "<br/>".join(roles) if len(roles) <= 3 else f"{len(roles)} roles" for on, roles in found.items()}


def modules(graphs: Mapping[str, str]) -> str:
    """Which module waits for which, of each root's `terraform graph`. Raises ValueError when nothing is found there."""
    waits = set()
    for root, dot in graphs.items():
        for start, stop in re.findall(r'^\s*"([^"]+)" -> "([^"]+)";?$', dot, re.MULTILINE):
            pair = _module(start, root), _module(stop, root)
            if "project_services" not in pair and pair[0] != pair[1]:
                waits.add(pair)
    if not waits:
        raise ValueError("`terraform graph` prints its arrows otherwise than terraform/pictures.py reads them")
    chart = Chart("LR")
    for start, stop in sorted(waits):
        chart.arrow(chart.node(start, key=_name(start)), chart.node(stop, key=_name(stop)))
    return chart.text()


def _module(address: str, root: str) -> str:
    found = re.match(r"module\.(\w+)", address)
    return found[1] if found else root


def draw(terraform: made.Terraform) -> dict[tuple[str, str], str]:
    """Marks -> picture."""
    resources = made.environment(terraform, SHOWN)
    cloud = rights.read(resources)
    general = {
        NETWORK: network(resources),
        JOBS: trust_of_jobs(cloud),
        PODS: trust_of_pods(cloud),
        MODULES: modules({root: terraform.call(root, "graph") for root in DRAWN}),
    }
    return {marks: _general(text) for marks, text in general.items()}


def _general(picture: str) -> str:
    """The picture as it is in every environment."""
    short = rights.ENVIRONMENTS[SHOWN]
    text = rights.without_names(picture, SHOWN).replace(f"slipway-{short}", "slipway-ENV")
    return re.sub(rf"(GitHub environment |n_GitHub_environment_){SHOWN}\b", r"\1ENV", text)


def with_pictures(page: str, pictures: dict[tuple[str, str], str]) -> str:
    """The page with other pictures between their marks."""
    for (begin, end), picture in pictures.items():
        before, _, rest = page.partition(begin)
        if end not in rest:
            raise ValueError(f"README.md has no {begin.strip()} … {end.strip()}")
        page = before + begin + picture + end + rest.partition(end)[2]
    return page


if __name__ == "__main__":
    with made.copied() as copy:
        drawn = draw(copy)
    README.write_text(with_pictures(README.read_text(), drawn))
    print(f"drew the pictures of {README.name}")
