"""Rules are PromQL, name what exists, say what to do, and are such as managed Prometheus takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring import inventory, promql, promtool, rules
from tests.monitoring.rules import Rule

PAGE = rules.ROOT / "docs/monitoring.md"
RULES = rules.rules()
ALERTS = [rule for rule in RULES if rule.is_alert]

SINCE_2_44 = {
    "sort_by_label",
    "sort_by_label_desc",
    "mad_over_time",
    "info",
    "limitk",
    "limit_ratio",
    "double_exponential_smoothing",
}
"""Functions that managed Prometheus, which is at the level of Prometheus 2.44, may lack."""


def anchors(page: str) -> set[str]:
    """The sections of a page, as GitHub links to them."""
    titles = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def unlike(rule: Rule, sections: set[str]) -> list[str]:
    """What of a rule is not as it should be."""
    query, body = promql.read(rule.expr), rule.body
    scoped = rules.SCOPED.get(rule.kind, set())
    problems = inventory.faults(rule.expr)
    problems += [
        f"matches {label}, which managed Prometheus sets itself"
        for selector in query.selectors
        for label, _, _ in selector.matchers
        if label in scoped
    ]
    problems += [
        f"sets {label}, which managed Prometheus sets itself" for label in body.get("labels", {}) if label in scoped
    ]
    problems += [f"{name} is newer than managed Prometheus" for name in sorted(query.functions & SINCE_2_44)]
    problems += ["matches metrics by pattern, which managed Prometheus does not"] if "__name__" in rule.expr else []
    return problems + (_unlike_alert(rule, sections) if rule.is_alert else _unlike_record(rule))


def _unlike_alert(rule: Rule, sections: set[str]) -> list[str]:
    annotations = rule.body.get("annotations", {})
    problems = (
        []
        if rule.body.get("labels", {}).get("severity") in ("page", "ticket")
        else ["severity is neither page nor ticket"]
    )
    problems += [] if len(annotations.get("summary", "").split()) >= 4 else ["has no summary of some words"]
    problems += [] if re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name) else ["its name is no anchor"]
    if rule.kind == "policy":
        named = "docs/monitoring.md#" + annotations.get("runbook", "")
        if "${metric_or_resource.label.alertname}" in named:  # the section of what it passes on
            return problems
    else:
        named = annotations.get("runbook_url", "")
    if named != f"docs/monitoring.md#{rule.name}":
        problems.append(f"its runbook is {named!r}")
    return problems + ([] if rule.name in sections else [f"docs/monitoring.md has no section {rule.name}"])


def _unlike_record(rule: Rule) -> list[str]:
    return [] if rule.name.startswith("slipway:") else ["records under a name that is not slipway:…"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rule(rule: Rule) -> None:
    assert unlike(rule, anchors(PAGE.read_text())) == []


def test_names_are_told_apart() -> None:
    names = [rule.name for rule in RULES]

    assert len(ALERTS) >= 25 and sorted(names) == sorted(set(names))


def test_every_section_of_an_alert_has_one() -> None:
    page = PAGE.read_text()
    sections = re.findall(
        r"^## (\S+)$", page.partition("# Alerts")[2].partition("# What is not watched")[0], re.MULTILINE
    )

    assert sorted(sections) == sorted(rule.name for rule in ALERTS if rule.name not in ("pages", "tickets"))
    for name in sections:
        text = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert "*Look*" in text and "*" in text.partition("*Look*")[2], (
            f"{name} says neither where to look nor what to do"
        )


def test_what_is_recorded_is_read() -> None:
    dashboards = "\n".join(path.read_text() for path in (rules.ROOT / "manifests/dashboards").glob("*.yaml"))
    for rule in RULES:
        if not rule.is_alert:
            others = "\n".join(other.expr for other in RULES if other is not rule)
            assert rule.name in others + dashboards, f"nothing reads {rule.name}"


def test_each_promise_has_one_number() -> None:
    text = (rules.MANIFESTS / "serving-rules.yaml").read_text()
    burning = "\n".join(rule.expr for rule in ALERTS if "ratio_rate" in rule.expr)

    assert text.count("vector(0.01)") == 1 and text.count("vector(0.05)") == 1
    assert set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?= \*)", burning)) == {"14.4", "6"}
    assert not re.search(r"0\.0[15]", burning)


def test_promtool_takes_them(tmp_path: Path) -> None:
    done = promtool.run("check", "rules", "--lint=all", "--lint-fatal", *rules.write(tmp_path))

    assert done.returncode == 0, done.stdout + done.stderr


# ------------------------------------------------------------------------------------------- planted mistakes


def planted(expr: str = "slipway_queue_depth > 0", kind: str = "Rules", **changed: Any) -> Rule:
    annotations = {"summary": "four words or more", "runbook_url": "docs/monitoring.md#queue-stands"}
    body = {"alert": "queue-stands", "expr": expr, "labels": {"severity": "page"}, "annotations": annotations} | changed
    return Rule("x.yaml", kind, body["alert"], expr, body)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (planted("slipway_queue > 0"), "there is no metric slipway_queue"),
        (planted("rate(slipway_generations[5m]) > 0"), "there is no metric slipway_generations"),
        (
            planted("logging_googleapis_com:user_slipway_dev_rollouts > 0"),
            "there is no metric logging_googleapis_com:user_slipway_dev_rollouts",
        ),
        (planted('slipway_queue_depth{route="/generate"} > 0'), "slipway_queue_depth has no label route"),
        (
            planted('slipway_generations_total{outcome="error"} > 0'),
            "outcome of slipway_generations_total is never error",
        ),
        (
            planted('slipway_time_to_first_token_seconds_bucket{le="4"} > 0'),
            "le of slipway_time_to_first_token_seconds_bucket is never 4",
        ),
        (planted("sum by (release) (slipway_queue_depth) > 0"), "no metric here has a label release"),
        (
            planted('kube_pod_status_phase{phase="Faild"} > 0', kind="ClusterRules"),
            "phase of kube_pod_status_phase is never Faild",
        ),
        (
            planted('kube_pod_status_phase{exported_pod="x"} > 0', kind="ClusterRules"),
            "kube_pod_status_phase has no label exported_pod",
        ),
        (
            planted('slipway_queue_depth{namespace="slipway-serving"} > 0'),
            "matches namespace, which managed Prometheus sets itself",
        ),
        (
            planted('up{job="predictor", cluster="a"} > 0', kind="ClusterRules"),
            "matches cluster, which managed Prometheus sets itself",
        ),
        (
            planted(labels={"severity": "page", "namespace": "x"}),
            "sets namespace, which managed Prometheus sets itself",
        ),
        (planted(labels={"severity": "critical"}), "severity is neither page nor ticket"),
        (planted(annotations={"summary": "four words or more"}), "its runbook is ''"),
        (
            planted(annotations={"summary": "late", "runbook_url": "docs/monitoring.md#queue-stands"}),
            "has no summary of some words",
        ),
        (planted(alert="queue-moves"), "docs/monitoring.md has no section queue-moves"),
        (planted("mad_over_time(slipway_queue_depth[5m]) > 0"), "mad_over_time is newer than managed Prometheus"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_planted_mistake_is_noticed(rule: Rule, said: str) -> None:
    assert said in unlike(rule, anchors(PAGE.read_text()))


def test_the_planted_rule_has_no_other_mistake() -> None:
    assert unlike(planted(), anchors(PAGE.read_text())) == []


@pytest.mark.parametrize(
    "body",
    [
        {"alert": "x", "expr": "sum(slipway_queue_depth > 0"},
        {"alert": "x", "expr": "sum(slipway_queue_depth[5m]) > 0"},
        {"alert": "x", "expr": "slipway_queue_depth > 0", "for": "5 minutes"},
        {"alert": "x", "expr": "slipway_queue_depth > 0", "annotations": {"summary": "{{ $label.x }}"}},
    ],
    ids=["bracket", "range", "duration", "template"],
)
def test_promtool_refuses(body: dict[str, Any], tmp_path: Path) -> None:
    files = rules.write(tmp_path, {"x.yaml": {"groups": [{"name": "x", "rules": [body]}]}})

    assert promtool.run("check", "rules", *files).returncode != 0
