"""All rules as Prometheus' own rule files: those of manifests/monitoring, and Terraform's policies with values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.terraform import hcl

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests/monitoring"
MODULE = ROOT / "terraform/modules/monitoring"
SCOPED = {
    "Rules": {"project_id", "location", "cluster", "namespace"},
    "ClusterRules": {"project_id", "location", "cluster"},
}
"""Kind -> labels that managed Prometheus matches and sets by itself (prometheus-engine, rules_config.go). A rule that
names one of them is refused."""

NAME, CLUSTER, PROJECT = "slipway-dev", "slipway-dev", "my-project"
"""With which values Terraform's queries are read."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule, wherever it stands."""

    file: str
    kind: str
    """"Rules", "ClusterRules", or "policy" for Terraform's."""

    name: str
    expr: str
    body: Object
    """As in a rule file."""

    @property
    def is_alert(self) -> bool:
        return "alert" in self.body


def objects(folder: Path = MANIFESTS) -> list[Object]:
    """All objects of the component, those of others' namespaces too."""
    files = sorted(folder.rglob("*.yaml"))
    return [one for path in files for one in yaml.safe_load_all(path.read_text()) if one and "kind" in one]


def rule_files() -> dict[str, Object]:
    """File name -> a rule file's content."""
    found = {f"{one['metadata']['name']}.yaml": one["spec"] for one in objects() if one["kind"] in SCOPED}
    return found | {"policies.yaml": {"groups": [{"name": "policies", "rules": policies()}]}}


def rules() -> list[Rule]:
    """Every rule."""
    kinds = {f"{one['metadata']['name']}.yaml": one["kind"] for one in objects() if one["kind"] in SCOPED}
    return [
        Rule(file, kinds.get(file, "policy"), body.get("alert") or body["record"], body["expr"], body)
        for file, content in rule_files().items()
        for group in content["groups"]
        for body in group["rules"]
    ]


def policies() -> list[Object]:
    """Terraform's alert policies (alerts.tf) as alerting rules; `runbook` is the section that the policy names."""
    (block,) = [one for one in hcl.read(MODULE, "alerts.tf") if one.kind == "locals"]
    names = dict(re.findall(r"^  (\w+) += (\".*\")$", block.body, re.M))
    values = {f"local.{name}": interpolated(text, {}) for name, text in names.items()}
    return [
        {
            "alert": name,
            "expr": interpolated(fields["query"], values),
            "for": fields["duration"].strip('"'),
            "labels": {"severity": {"CRITICAL": "page", "WARNING": "ticket"}[fields["severity"].strip('"')]},
            "annotations": {"summary": interpolated(fields["says"], values), "runbook": fields["runbook"].strip('"')},
        }
        for name, fields in maps(block.body)
    ]


def maps(body: str) -> list[tuple[str, dict[str, str]]]:
    """The entries of maps of one-line values, at whatever depth: (key, {name: HCL text})."""
    found = re.findall(r"^ +([\w-]+) += \{\n((?: +\w+ += .*[^{]\n)+) +\}$", body, re.M)
    return [(key, dict(re.findall(r"^ +(\w+) += (.+)$", lines, re.M))) for key, lines in found]


def interpolated(text: str, values: dict[str, str]) -> str:
    """The string that an HCL string literal is, with these tests' values. Raises ValueError for what has none."""
    known = {
        "var.name": NAME,
        "var.cluster": CLUSTER,
        "var.project_id": PROJECT,
        'replace(var.name, "-", "_")': NAME.replace("-", "_"),
        "var.thresholds.volume_percent / 100": "0.85",
        "coalesce(var.thresholds.verdict_days, 0)": "8",
        **values,
    }
    for expression, value in known.items():
        text = text.replace(f"${{{expression}}}", value)
    if re.search(r"(?<!\$)\$\{", text):
        raise ValueError(f"these tests know no value for {text}; add it to tests/monitoring/rules.py")
    return re.sub(r'\\(["\\])', r"\1", text.strip().removeprefix('"').removesuffix('"'))


def write(folder: Path, files: dict[str, Object] | None = None) -> list[Path]:
    """The rule files in a folder."""
    paths = []
    for name, content in (files or rule_files()).items():
        paths.append(folder / name)
        paths[-1].write_text(yaml.safe_dump(content, sort_keys=False, width=1000))
    return paths
