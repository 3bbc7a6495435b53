"""The metrics that there are, each with its labels: what queries may name.

the server's           imported and scraped (serving/metrics.py)
from log lines         read out of terraform/modules/monitoring/logs.tf
recorded               the rules of manifests/monitoring
others'                foreign.yaml, with sources
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args, get_type_hints

import yaml

from components.quality_gate.gate import Verdict
from components.rollout.machine import Kind, Outcome
from serving.metrics import OUTCOMES
from tests.monitoring import promql, rules

HERE = Path(__file__).parent
_TARGET = frozenset({"project_id", "location", "cluster", "namespace", "job", "instance"})
_LOG_RESOURCE = frozenset(
    {"monitored_resource", "project_id", "location", "cluster_name", "namespace_name", "pod_name", "container_name"}
)

# Run apart, since the metrics would stay in this process: each is given one value, so that all are shown.
_SCRAPE = """
import json
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from serving import metrics
for one in [one for one in vars(metrics).values() if isinstance(one, (Counter, Gauge, Histogram))]:
    if one._labelnames:
        one.labels(**{name: "x" for name in one._labelnames})
shown = {}
for family in text_string_to_metric_families(generate_latest(REGISTRY).decode()):
    for sample in family.samples:
        if family.name.startswith("slipway_") and not sample.name.endswith("_created"):
            of = shown.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                of.setdefault(label, []).append(value)
print(json.dumps(shown))
"""


@dataclass(frozen=True)
class Metric:
    """What may be said about a metric in a query."""

    labels: frozenset[str]
    values: dict[str, frozenset[str]] = field(default_factory=dict)
    """Label -> all its values, where they are a closed list."""


@functools.cache
def metrics() -> dict[str, Metric]:
    """Name in PromQL -> metric."""
    given = _server() | _logged() | _foreign()
    return given | _recorded(given)


def _server() -> dict[str, Metric]:
    done = subprocess.run([sys.executable, "-c", _SCRAPE], capture_output=True, text=True, check=True, cwd=rules.ROOT)
    target = _target("predictor")
    shown: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
    found = {name: Metric(target | set(labels)) for name, labels in shown.items()}
    for name, labels in shown.items():
        if "outcome" in labels:
            found[name].values["outcome"] = frozenset(OUTCOMES)
        if "le" in labels:  # managed Prometheus writes 5 for 5.0
            found[name].values["le"] = frozenset(labels["le"]) | {value.removesuffix(".0") for value in labels["le"]}
    return found


def _target(monitoring: str) -> frozenset[str]:
    """The labels that a PodMonitoring puts on everything it scrapes."""
    (one,) = [
        one for one in rules.objects() if one["kind"] == "PodMonitoring" and one["metadata"]["name"] == monitoring
    ]
    labels = one["spec"].get("targetLabels", {})
    return (
        _TARGET | set(labels.get("metadata", ["pod", "container"])) | {each["to"] for each in labels.get("fromPod", [])}
    )


def logged() -> dict[str, dict[str, str]]:
    """Log-based metric -> its parts as logs.tf has them: filter, and labels or value."""
    text = (rules.MODULE / "logs.tf").read_text()
    (block,) = re.findall(r"^locals \{\n(  counters = .*?)^\}", text, re.M | re.S)
    return dict(rules.maps(block))


def label_fields(labels: str) -> dict[str, str]:
    """Label -> field of the line, from the text of a `labels` map."""
    return dict(re.findall(r'(\w+) = "jsonPayload\.(\w+)"', labels))


def _logged() -> dict[str, Metric]:
    values = {
        "does": frozenset(get_args(Kind)),
        "verdict": frozenset(get_args(Verdict)),
        "action": frozenset(get_args(get_type_hints(Outcome)["action"])),
        "result": frozenset({"stored", "reused"}),
    }
    found = {}
    for key, parts in logged().items():
        name = "logging_googleapis_com:user_" + re.sub(r"\W", "_", f"{rules.NAME}/{key}")
        labels = label_fields(parts["labels"]) if "labels" in parts else {"step": "step"}
        metric = Metric(_LOG_RESOURCE | set(labels), {label: values[label] for label in labels if label in values})
        suffixes = [""] if "labels" in parts else ["_sum", "_count", "_bucket"]
        found |= {f"{name}{suffix}": metric for suffix in suffixes}
    return found


def _foreign() -> dict[str, Metric]:
    found = {}
    for group in yaml.safe_load((HERE / "foreign.yaml").read_text()).values():
        common = (
            _target(group["scraped"])
            if "scraped" in group
            else _TARGET
            if "target" in group
            else frozenset(group["resource"])
        )
        for name, one in group["metrics"].items():
            values = {label: frozenset(known) for label, known in one.get("values", {}).items()}
            found[name] = Metric(common | set(one["labels"]), values)
    jobs = [one["metadata"]["name"] for one in rules.objects() if one["kind"] == "PodMonitoring"]
    found["up"].values["job"] = frozenset(jobs)
    return found


def _recorded(given: dict[str, Metric]) -> dict[str, Metric]:
    """What rules write: the labels that they keep, and those that managed Prometheus sets."""
    found: dict[str, Metric] = {}
    for rule in rules.rules():
        if rule.is_alert:
            continue
        query = promql.read(rule.expr)
        known = given | found
        inputs = frozenset().union(*(known[name].labels for name in query.metrics if name in known))
        values = {key: known for name in query.metrics if name in given for key, known in given[name].values.items()}
        kept = frozenset(query.grouping) if query.grouping else inputs
        found[rule.name] = Metric(kept | rules.SCOPED[rule.kind], {key: values[key] for key in values if key in kept})
    return found


def faults(expression: str, known: dict[str, Metric] | None = None) -> list[str]:
    """What an expression names that there is not."""
    known = known or metrics()
    query = promql.read(expression)
    problems = []
    for selector in query.selectors:
        metric = known.get(selector.metric)
        if metric is None:
            problems.append(f"there is no metric {selector.metric}")
            continue
        for label, operator, value in selector.matchers:
            if label not in metric.labels:
                problems.append(f"{selector.metric} has no label {label}")
            problems += _strange_values(selector.metric, label, operator, value, metric)
    labels = frozenset().union(*(known[name].labels for name in query.metrics if name in known))
    return problems + [f"no metric here has a label {label}" for label in sorted(query.grouping - labels)]


def _strange_values(name: str, label: str, operator: str, value: str, metric: Metric) -> list[str]:
    known = metric.values.get(label)
    if known is None or not value:
        return []
    wanted = value.split("|") if "~" in operator else [value]
    return [f"{label} of {name} is never {one}" for one in wanted if not any(re.fullmatch(one, each) for each in known)]
