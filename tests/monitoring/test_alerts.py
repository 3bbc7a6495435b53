"""Every alert fires when it should and is silent when it should not: promtool runs the files of alerts/."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring import promtool, rules

HERE = Path(__file__).parent / "alerts"
FILES = {
    "serving": "slipway-serving",
    "serving-slow": "slipway-serving",
    "cluster": "slipway-cluster",
    "policies": "policies",
    "policies-slow": "policies",
}
"""Test file -> the rules that it is about."""


def cases(name: str) -> dict[str, Any]:
    return yaml.safe_load((HERE / f"{name}.yaml").read_text())


def subject(name: str) -> dict[str, Any]:
    """The rules that a test file is about; what policies pass on is kept apart from what they fire themselves."""
    found = copy.deepcopy(rules.rule_files()[f"{FILES[name]}.yaml"])
    if FILES[name] == "policies":
        for rule in found["groups"][0]["rules"]:
            rule["expr"] = rule["expr"].replace("ALERTS{", "passed_on:ALERTS{")
    return found


def only(alert: str, subject: dict[str, Any]) -> dict[str, Any]:
    """The rules without other alerts, which saves the time to evaluate them."""
    groups = [
        group | {"rules": [rule for rule in group["rules"] if rule.get("alert") in (alert, None)]}
        for group in subject["groups"]
    ]
    return {"groups": groups}


def outcome(name: str, folder: Path, subject: dict[str, Any]) -> str:
    """What promtool says of a test file against these rules; "" when everything is as expected.

    Cases about alerts that are not there are left out.
    """
    (file,) = rules.write(folder, {"rules.yaml": subject})
    annotations = {
        one["alert"]: one["annotations"] for group in subject["groups"] for one in group["rules"] if "alert" in one
    }
    content: dict[str, Any] = cases(name) | {"rule_files": [file.name]}
    for test in content["tests"]:
        test["alert_rule_test"] = [one for one in test.get("alert_rule_test", []) if one["alertname"] in annotations]
        for expected in test["alert_rule_test"]:
            for alert in expected["exp_alerts"]:
                constant = {key: text for key, text in annotations[expected["alertname"]].items() if "{{" not in text}
                alert["exp_annotations"] = constant | alert.get("exp_annotations", {})
    content["tests"] = [one for one in content["tests"] if one["alert_rule_test"] or one.get("promql_expr_test")]
    test_file = folder / "test.yaml"
    test_file.write_text(yaml.safe_dump(content, sort_keys=False, width=1000))
    done = promtool.run("test", "rules", test_file)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("name", FILES)
def test_alerts(name: str, tmp_path: Path) -> None:
    assert outcome(name, tmp_path, subject(name)) == ""


def untested(files: dict[str, dict[str, Any]], alerts: set[str]) -> list[str]:
    """Alerts that no case shows firing, or none silent."""
    seen = Counter(
        (expected["alertname"], bool(expected["exp_alerts"]))
        for content in files.values()
        for test in content["tests"]
        for expected in test.get("alert_rule_test", [])
    )
    return sorted(
        f"{name} {'fires' if fires else 'is silent'}"
        for name in alerts
        for fires in (True, False)
        if not seen[name, fires]
    )


def test_every_alert_is_shown_firing_and_silent() -> None:
    alerts = {rule.name for rule in rules.rules() if rule.is_alert}

    assert len(alerts) > 20
    assert untested({name: cases(name) for name in FILES}, alerts) == []
    assert untested({"cluster": cases("cluster")}, {"gpu-idle", "answers-fail"}) == [
        "answers-fail fires",
        "answers-fail is silent",
    ]


def test_all_files_are_run() -> None:
    assert {path.stem for path in HERE.glob("*.yaml")} == set(FILES)


@pytest.mark.parametrize(
    ("name", "alert", "old", "new"),
    [
        ("serving", "answers-fail", "14.4 *", "1.44 *"),  # wakes somebody for next to nothing
        ("serving", "answers-fail", "slipway:answers_failed:ratio_rate5m >", "slipway:answers_failed:ratio_rate1h >"),
        ("serving", "answers-fail", "and slipway:answers:increase1h >= 20", ""),
        ("serving", "first-token-slow", "ratio_rate30m", "ratio_rate6h"),
        ("serving-slow", "nothing-served", "[1d]", "[30d]"),
        ("serving", "requests-turned-away", "slipway_generations_total", "slipway_requests_total"),
        ("serving", "rollout-stuck", "service, revision", "service, revision, pod"),
        (
            "serving-slow",
            "answers-fail-slowly",
            "slipway:answers_failed:ratio_rate6h",
            "slipway:answers_failed:ratio_rate3d",
        ),
        ("cluster", "container-restarts", "[10m]", "[1m]"),
        ("cluster", "janitor-fails", "rollout-janitor-.*", ".*"),
        ("cluster", "gpu-idle", "[1h]", "[30m]"),
        ("cluster", "run-failed", "offset 30m", "offset 30s"),
        ("policies", "rules-are-silent", '{cluster="slipway-dev"}', ""),
        ("policies", "volume-fills", ', persistentvolumeclaim_name!=""', ""),
        ("policies", "rollout-failed", 'cluster_name="slipway-dev", ', ""),
    ],
)
def test_a_changed_rule_is_noticed(name: str, alert: str, old: str, new: str, tmp_path: Path) -> None:
    spoiled = only(alert, subject(name))
    (rule,) = [one for group in spoiled["groups"] for one in group["rules"] if one.get("alert") == alert]
    assert old in rule["expr"], f"{alert} no longer has {old!r}"
    rule["expr"] = rule["expr"].replace(old, new)

    assert f"alertname: {alert}" in outcome(name, tmp_path, spoiled)
